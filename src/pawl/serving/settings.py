"""What the environment says of a service. Every name begins with PAWL_."""

import socket
from collections.abc import Mapping
from typing import Annotated

import msgspec

from pawl.problem import Problem

Size = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PAWL_HOST, PAWL_PORT, ...: the field's name in capitals."""

    bundle: str = "models/bundle"
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8000
    metrics_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0  # 0: /metrics is a route of the service
    model_name: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+$")] = "model"  # in KServe's routes
    model_version: str = ""
    commit: str = ""
    api_keys: str = ""  # separated by commas; sha256:<hex> for a key that only its users know. None: everyone may ask
    log_dir: str = ""  # of the prediction log; none: there is none
    log_without: str = ""  # columns that it leaves out, separated by commas
    log_segment_bytes: Size = 16_000_000
    log_segment_seconds: Seconds = 300
    log_max_bytes: Size = 1_000_000_000  # of all segments: what is over is dropped, and counted
    drain_seconds: Seconds = 5  # between SIGTERM and the last connection: balancers look away meanwhile
    max_waiting: Size = 512  # requests; more are answered 503 with Retry-After

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Settings":
        """Return the settings; raise Problem for a value that does not fit."""
        found = {name: environ.get(f"PAWL_{name.upper()}") for name in cls.__struct_fields__}
        given = {name: value for name, value in found.items() if value}
        for name, value in given.items():
            try:
                msgspec.convert({name: value}, cls, strict=False)
            except msgspec.ValidationError as error:
                told = "its value" if name == "api_keys" else value
                said = str(error).partition(" - at")[0].lower()
                said = said.replace("expected `int`, got `str`", "a whole number is needed")
                raise Problem(f"PAWL_{name.upper()} is {told}: {said}", "the environment", "correct it, or unset it") from error  # fmt: skip
        settings = msgspec.convert(given, cls, strict=False)
        if "PAWL_API_KEYS" in environ and not listed(settings.api_keys):  # a secret that came out empty opens nothing
            fix = "name keys, or unset it: everyone may ask then"
            raise Problem("PAWL_API_KEYS holds no key", "the environment", fix)
        if settings.metrics_port == settings.port:
            raise Problem(f"PAWL_METRICS_PORT is {settings.port}, as PAWL_PORT", "the environment", "give them two ports, or unset it: /metrics is a route then")  # fmt: skip
        return settings


def listed(value: str) -> tuple[str, ...]:
    """Return what a setting separates by commas."""
    return tuple(filter(None, (each.strip() for each in value.split(","))))


def free(host: str, port: int, *names: str) -> None:
    """Raise Problem unless one can listen there. names: what says the host, and what the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            fix = f"end what listens there, or set {names[1]} to another"
            if isinstance(error, socket.gaierror):
                fix = f"{names[0]} is an address of this machine: 127.0.0.1, or 0.0.0.0 for all"
            raise Problem(f"cannot listen on port {port}: {error.strerror}", host, fix) from error
