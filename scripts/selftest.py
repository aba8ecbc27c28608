"""Show that the gate can say no: sabotage the sample's model in every known way.

python -m scripts.selftest                  all, some minutes
python -m scripts.selftest --only creep     the cases whose name holds this word

Works in a copy of the project under .pawl/selftest, on the sample of tests/sample; yours is not touched. Exit code: 0 every verdict is as expected,
1 one is not, 2 wrong input.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pawl import paths
from pawl.problem import Problem
from pawl.yamlfile import put
from scripts import cli

FOLDERS = ("src", "scripts", "requirements")
FILES = ("dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "pyproject.toml")
NEVER_NO = {"pass", "improved", "unchanged", "inconclusive"}
TABLE, WHO = "table.parquet", "selftest@localhost"
ONLY_A_FLOOR = "version: 1\nmetrics:\n  roc_auc: {{direction: higher, floor: {}}}\n"
PROFIT = "from collections.abc import Mapping\nfrom typing import Any\n\nMETRICS: Mapping[str, Any] = {{{metric}}}\n"
# Writes over a file of the ledger, given by name, what it is told.
DAMAGE = "import sys; from pawl.ledger import Ledger; Ledger().write({sys.argv[1]: sys.stdin.buffer.read()}, 'broken')"


class Case(NamedTuple):
    """A sabotage, the verdicts that are right, and a rule or a word that must stand in what the gate says."""

    name: str
    expected: set[str]
    says: str
    done: Callable[["Bench"], object]


class Seen(NamedTuple):
    """What the scripts said."""

    verdict: str  # of the report; stopped, where there was none
    said: str
    code: int


class Bench:
    """A project of its own, whose main has a model in the ledger; each case starts from it. What changes it returns it."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        for name in FOLDERS:
            shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / ".dvc").mkdir()
        for name in filter(os.path.exists, FILES):
            shutil.copy2(name, folder / name)
        for path in (paths.PARAMS, paths.SCHEMA, paths.GATES):
            shutil.copy2(Path("tests/sample") / path, folder / path)
        self.params(**{"columns.id": "id", "ingest.source": TABLE})
        self.yaml(paths.SCHEMA, **{"columns.id": {"dtype": "integer"}})
        sample_table(0).to_parquet(folder / TABLE, index=False)
        self.git("init", "--quiet", "--initial-branch=main")
        self.base("The sample")
        self.test = self.read(paths.PREPARED / "test.parquet")["id"]

    def read(self, path: str | Path) -> Any:
        """Return a table of the project, as a pandas.DataFrame."""
        import pandas as pd

        return pd.read_parquet(self.folder / path)

    def edit(self, change: Callable[[Any, Any], Any]) -> "Bench":
        """Replace the table by change(table, mask of main's test rows)."""
        table = self.read(TABLE)
        change(table, table["id"].isin(self.test)).to_parquet(self.folder / TABLE, index=False)
        return self

    def column(self, name: str, rows: Callable[[Any, Any], Any], change: Callable[[Any], Any]) -> "Bench":
        """Replace a column by change(column) in rows(table, mask of main's test rows)."""

        def changed(table: Any, test: Any) -> Any:
            chosen = rows(table, test)
            table.loc[chosen, name] = change(table.loc[chosen, name]).to_numpy()
            return table

        return self.edit(changed)

    def params(self, **values: Any) -> "Bench":
        """Write values into params.yaml, by dotted key."""
        return self.yaml(paths.PARAMS, **values)

    def yaml(self, path: Path, **values: Any) -> "Bench":
        """Write values into a YAML file, by dotted key."""
        content = yaml.safe_load((self.folder / path).read_text())
        for key, value in values.items():
            put(content, key, value)
        return self.write(path, yaml.safe_dump(content, sort_keys=False))

    def write(self, path: str | Path, text: str) -> "Bench":
        """Write a file."""
        (self.folder / path).write_text(text)
        return self

    def base(self, message: str) -> "Bench":
        """Let main be what the folder holds, with its model in the ledger."""
        self.commit(message)
        self.main = self.judge("HEAD^1")
        done = self.script("ledger", "record")
        if done.returncode:
            what = f"main could not be recorded: {done.stderr.strip()}"
            raise Problem(what, self.folder, "this is the selftest's own mistake")
        return self

    def judge(self, base: str = "main") -> Seen:
        """Train what the folder holds and ask for the verdict, as a pull request does."""
        ran = self.script("run")
        if ran.returncode:
            return Seen("stopped", ran.stderr.strip(), ran.returncode)
        done = self.script("report", "--base", base, "--exit-code")
        if done.returncode not in {0, 1}:
            return Seen("stopped", done.stderr.strip(), done.returncode)
        found = json.loads((self.folder / paths.REPORT).read_text())
        shown = [each for each in found["judged"] if each["verdict"] == found["verdict"] or each.get("waived")]
        reasons = [f"{each['rule']}: {each['reason']} {each.get('waived', '')}" for each in shown]
        headline = done.stdout.split("\n\n")[0].replace("\n", " ")
        return Seen(found["verdict"], " | ".join([headline, *reasons]), done.returncode)

    def again(self) -> None:
        """Go back to main."""
        self.git("checkout", "--quiet", "--force", "-B", "main", "start")
        self.git("clean", "--quiet", "--force", "-d")
        self.git("update-ref", "refs/heads/ledger", "ledger-start")

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def git(self, *words: str) -> str:
        """Return what a git command prints."""
        done = self.call("git", *words)
        done.check_returncode()
        return done.stdout.strip()

    def script(self, name: str, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run one of the project's scripts in the copy."""
        return self.call(sys.executable, "-m", f"scripts.{name}", *words)

    def call(self, *command: str, told: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command in the copy, as a user of it alone; told: its standard input."""
        own = ("GITHUB_", "GIT_", "PAWL_", "MLFLOW_")
        environ = {key: value for key, value in os.environ.items() if not key.startswith(own)}
        environ |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(self.folder / "src"),
            "PAWL_ENV": "system", "CI": "true", "GIT_CONFIG_GLOBAL": os.devnull, "COLUMNS": "100",
            "GIT_AUTHOR_NAME": "selftest", "GIT_AUTHOR_EMAIL": WHO, "GIT_COMMITTER_NAME": "selftest", "GIT_COMMITTER_EMAIL": WHO,
        }  # fmt: skip
        return subprocess.run(command, cwd=self.folder, env=environ, input=told, check=False, capture_output=True, text=True)  # fmt: skip


def sample_table(seed: int) -> Any:
    """Return the sample with an id, as a pandas.DataFrame."""
    import pyarrow as pa

    from pawl import sample

    table = pa.Table.from_batches(sample.batches(20_000, seed, 0.0)).to_pandas()
    return table.drop_duplicates().reset_index(names="id")


def shuffled_labels(bench: Bench) -> None:
    """Train on labels that belong to other rows."""
    bench.column("income", lambda _, test: ~test, lambda labels: labels.sample(frac=1, random_state=0))


def leaked(bench: Bench) -> Bench:
    """Add a column that is the target."""
    bench.edit(lambda table, _: table.assign(paid=(table["income"] == ">50K").astype(int)))
    return bench.yaml(paths.SCHEMA, **{"columns.paid": {"dtype": "integer"}})


def profit(bench: Bench, then: str) -> None:
    """Let main gate on a metric of its own, and the candidate measure something else."""
    metric = '"profit": lambda y, prediction, p: float((y * prediction).mean())'
    bench.yaml(paths.GATES, **{"metrics.profit": {"direction": "higher", "floor": 0.01}})
    bench.write("src/task/metrics.py", PROFIT.format(metric=metric)).base("Profit")
    bench.write("src/task/metrics.py", PROFIT.format(metric=then))


def damaged(bench: Bench, name: str, content: str) -> None:
    """Let the ledger hold something else than what was written."""
    name = f"baselines/{bench.git('rev-parse', 'main')}/{name}"
    bench.call(sys.executable, "-c", DAMAGE, name, told=content).check_returncode()


def lost(bench: Bench) -> None:
    """Rewrite main's history, and lose the table that it was trained on."""
    bench.git("checkout", "--quiet", "--orphan", "rewritten")
    (bench.folder / TABLE).rename(bench.folder / "other.parquet")
    bench.commit("Rewritten")
    bench.git("branch", "--force", "main", "rewritten")
    bench.params(**{"ingest.source": "other.parquet"})


def few_trees(bench: Bench) -> Bench:
    """Stop training far too early."""
    return bench.params(**{"train.params.n_estimators": 20})


def slice_ruined(bench: Bench) -> None:
    """Improve the whole, and turn a slice's labels around."""
    bench.params(**{"columns.ignore": ["marital_status", "capital_gain"]}).base("A weaker model")
    bench.params(**{"columns.ignore": []})
    turned = {"<=50K": ">50K", ">50K": "<=50K"}
    bench.column("income", lambda table, test: ~test & (table["region"] == "west"), lambda labels: labels.map(turned))


def other_rows(bench: Bench) -> None:
    """Ruin the model, and measure it on rows that main never saw."""
    new = sample_table(1)
    few_trees(bench).edit(lambda *_: new.assign(id=new["id"] + 1_000_000))


def other_labels(bench: Bench) -> None:
    """Predict something else."""
    bench.edit(lambda table, _: table.assign(income=table["income"].map({"<=50K": "low", ">50K": "high"})))
    bench.params(positive="high").yaml(paths.SCHEMA, **{"columns.income.values": ["low", "high"]})


def creep(bench: Bench) -> None:
    """Lose up to half the allowance in each of ten merges: no step is large enough to fail against the one before."""
    bench.params(**{"train.early_stopping": 0})
    for number, trees in enumerate((150, 110, 90, 76, 66, 58, 52, 46, 41), 1):
        bench.params(**{"train.params.n_estimators": trees}).base(f"Merge {number}")
        if bench.main.verdict == "fail":
            return  # judged once more below
    bench.params(**{"train.params.n_estimators": 37})


def waived(bench: Bench, until: str) -> None:
    """Ruin the model where main waives every rule until a day."""
    bench.yaml(paths.GATES, waivers=[{"rule": "*", "reason": "the old model is illegal", "until": until}])
    few_trees(bench.base("A waiver"))


# By heart: each row in its own leaf. Large: ten times as many trees for the same answer.
OVERFIT = {
    "train.early_stopping": 0, "train.params.n_estimators": 300, "train.params.num_leaves": 255, "train.params.min_child_samples": 1,
    "train.params.learning_rate": 0.1,
}  # fmt: skip
LARGE = {"train.early_stopping": 0, "train.params.n_estimators": 4000, "train.params.learning_rate": 0.004}
CASES = (
    Case("shuffled labels", {"fail"}, "roc_auc", shuffled_labels),
    Case("below the floor, where nothing else judges", {"fail"}, "below its floor", lambda bench: shuffled_labels(bench.write(paths.GATES, ONLY_A_FLOOR.format(0.85)).base("A floor"))),
    Case("leaked target", {"stopped"}, "paid", leaked),
    Case("leaked target, its check silenced", {"fail"}, "above its ceiling", lambda bench: leaked(bench).params(**{"validate.allow_leakage": ["paid"]})),
    Case("best features dropped", {"fail"}, "roc_auc fell", lambda bench: bench.params(**{"columns.ignore": ["capital_gain"]})),
    Case("feature shifted only at test", {"fail"}, "roc_auc", lambda bench: bench.column("education_years", lambda _, test: test, lambda years: 20 - years)),
    Case("direction swapped in main's file", {"stopped"}, "higher is better", lambda bench: bench.yaml(paths.GATES, **{"metrics.roc_auc.direction": "lower"}).commit("Swapped")),
    Case("metric is NaN", {"fail"}, "profit: is not a number", lambda bench: profit(bench, '"profit": lambda y, prediction, p: float("nan")')),
    Case("metric is missing", {"fail"}, "profit: was not measured", lambda bench: profit(bench, "")),
    Case("empty baseline", {"error"}, "the baseline is lost", lambda bench: damaged(bench, "entry.json", "")),
    Case("corrupt baseline", {"error"}, "the baseline is lost", lambda bench: damaged(bench, "answers", "x")),
    Case("lost baseline", {"error"}, "the baseline is lost", lost),
    Case("another target", {"error"}, "not comparable", other_labels),
    Case("ruined, on rows that main never saw", {"fail"}, "roc_auc", other_rows),
    Case("gates lowered in the same change", {"fail"}, "roc_auc", lambda bench: few_trees(bench).write(paths.GATES, ONLY_A_FLOOR.format(0.5))),
    Case("one slice ruined, a better average", {"fail"}, "roc_auc[region=west]", slice_ruined),
    Case("overfit", {"fail"}, "overfits", lambda bench: bench.params(**OVERFIT)),
    Case("calibration broken, same ranking", {"fail"}, "ece: above its ceiling", lambda bench: bench.params(**{"train.class_weight": "balanced"})),
    Case("ten times larger, as good", {"fail"}, "model_bytes: worse", lambda bench: bench.params(**LARGE)),
    Case("test set of one class", {"fail"}, "is not a number", lambda bench: bench.edit(lambda table, test: table[~test | (table["income"] == "<=50K")])),
    Case("50 test rows", {"error"}, "fewer than 200", lambda bench: bench.edit(lambda table, test: table[~test | (test.cumsum() <= 50)])),
    Case("ten merges, each loses less than allowed: creep", {"fail"}, "the best of main", creep),
    Case("waiver that has ended", {"fail"}, "roc_auc", lambda bench: waived(bench, "2020-01-01")),
    Case("waiver that holds", {"pass"}, "the old model is illegal", lambda bench: waived(bench, "2999-01-01")),
    Case("mode: report", {"fail"}, "nothing is blocked", lambda bench: few_trees(bench.yaml(paths.GATES, mode="report").base("Only report"))),
    Case("identical model", {"unchanged"}, "bit for bit", lambda bench: bench.write("README.md", "a word more\n")),
    Case("reseeded model", NEVER_NO, "", lambda bench: bench.params(**{"train.seed": 1})),
    Case("80 % subsample", NEVER_NO, "", lambda bench: bench.edit(lambda table, test: table[test | (table["id"] % 5 != 0)])),
)  # fmt: skip
LETS_PASS = {"mode: report"}


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases, print the table."""
    parser = cli.parser("selftest", __doc__)
    parser.add_argument("--only", default="", metavar="WORD", help="the cases whose name holds it")
    args = parser.parse_args(argv)
    chosen = [case for case in CASES if args.only in case.name]
    if not chosen:
        raise Problem(f"no case is called {args.only}", "--only", ", ".join(case.name for case in CASES))
    bench = Bench((paths.STATE / "selftest").absolute())
    bench.git("tag", "start")
    bench.git("tag", "ledger-start", "ledger")
    wrong = 0
    print(f"   {'sabotage':<50} {'expected':<13} verdict")
    for case in chosen:
        case.done(bench)
        seen = bench.judge()
        blocked = not case.expected <= NEVER_NO and case.name not in LETS_PASS
        right = seen.verdict in case.expected and case.says in seen.said and blocked == (seen.code != 0)
        wrong += not right
        expected = "never no" if case.expected == NEVER_NO else " or ".join(sorted(case.expected))
        print(f"{'✅' if right else '❌'} {case.name:<50} {expected:<13} {seen.verdict}", flush=True)
        if not right:
            print(f"     expected to read: {case.says}\n     exit code {seen.code}: {seen.said[:600]}")
        bench.again()
    print(f"\n{len(chosen) - wrong} of {len(chosen)} as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
