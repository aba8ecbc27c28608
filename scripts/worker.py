"""A process with the heavy libraries imported, from which stages are forked: a run pays for the imports once.

`scripts.run` starts it; `scripts.stage` asks it. Without one, or where fork is not safe (macOS), a stage imports by itself.
"""

import contextlib
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from scripts import cli

WARM = (
    "lightgbm", "pandas", "pyarrow.parquet", "scipy.sparse", "scipy.stats", "skops.io", "sklearn.compose", "sklearn.metrics",
    "sklearn.pipeline", "sklearn.preprocessing", "pawl.pipeline.evaluate", "pawl.pipeline.featurize", "pawl.pipeline.train",
)  # fmt: skip
# Threads that wait spin briefly, then sleep. By default LightGBM's spin on: on cores that others use too, a fit of 1.7 s
# took 60 s; so it takes 3, and as long as before on idle ones. Asleep at once ("passive") it takes 4 s there.
THREADS = {"GOMP_SPINCOUNT": "10000"}
ADDRESS = "PAWL_WORKER"  # the socket's path, in the environment of the stages


class Worker(contextlib.ExitStack):
    """The worker of one run. `with Worker() as worker` ends it."""

    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it unless it runs. Its imports go on while this process does."""
        if self.process or sys.platform != "linux":
            return
        address = str(Path(self.enter_context(tempfile.TemporaryDirectory(prefix="pawl-"))) / "socket")
        process = subprocess.Popen([sys.executable, "-m", "scripts.worker", address], start_new_session=True)
        self.callback(process.wait)
        self.callback(os.killpg, process.pid, signal.SIGKILL)  # its children too
        self.callback(os.environ.pop, ADDRESS, None)
        self.process, os.environ[ADDRESS] = process, address
        while not Path(address).exists() and process.poll() is None:
            time.sleep(0.01)


def ask(job: str) -> int | None:
    """Have the worker run a stage, or `check`; return its exit code, or None where there is no worker."""
    address = os.environ.get(ADDRESS)
    if not address or not Path(address).exists():
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [job.encode()], [0, 1, 2])
            answer = connection.recv(1)
        except ConnectionError:
            return None
        return answer[0] if answer else 70


def serve(address: str) -> None:
    """Answer the check, import, then fork one child per stage, until killed or until the run that started this is gone."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address + ".new")
        listener.listen()
        Path(address + ".new").rename(address)
        parent, warm = os.getppid(), False
        listener.settimeout(0.1)  # the first job may be the check, which needs but some of the imports
        while os.getppid() == parent:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                for name in () if warm else WARM:
                    importlib.import_module(name)
                warm = True
                continue
            with connection:
                connection.settimeout(None)
                job, descriptors, *_ = socket.recv_fds(connection, 64, 3)
                code = _child(job.decode(), descriptors, connection, parent) if job != b"check" else check()
                with contextlib.suppress(BrokenPipeError):
                    connection.sendall(bytes([code]))


def _child(job: str, descriptors: list[int], client: socket.socket, parent: int) -> int:
    """Fork a child for the stage and return its exit code; end it when who asked, or the run, is gone."""
    with warnings.catch_warnings():
        # Python 3.12 and later: the libraries' threads wait, and hold nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status) & 0xFF
            hung_up = select.select([client], [], [], 0.02)[0] and not client.recv(1, socket.MSG_PEEK)
            if hung_up or os.getppid() != parent:
                os.kill(pid, signal.SIGKILL)
    code = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        from scripts import stage

        code = stage.run(job)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


@cli.told
def check() -> int:
    """Check the estimator that params.yaml names; return the exit code."""
    from pawl import config, estimator, paths

    params = config.load(paths.PARAMS)
    estimator.check(params.problem, params.train)
    return 0


if __name__ == "__main__":
    os.environ.update(THREADS | os.environ)  # before anything loads libgomp
    serve(sys.argv[1])
