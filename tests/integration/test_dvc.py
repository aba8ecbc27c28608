import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
ALL = ["ingest", "validate", "prepare", "featurize", "train", "evaluate"]


class Project:
    """A small copy of this repository and what a user types in it."""

    def __init__(self, folder):
        self.folder = folder
        self.env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "src"),
            "PAWL_ENV": "system",
            "CI": "true",
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        self.env.pop("PAWL_COMMIT", None)

    def __call__(self, command, code=0, **env):
        """Run a command; return what it prints."""
        done = subprocess.run(
            command.split(), cwd=self.folder, env={**self.env, **env}, check=False, capture_output=True, text=True
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ran(self, command="python -m scripts.run", **env):
        """Run a command; return the stages that it ran, beside fingerprint, which always does."""
        noted = self.folder / ".pawl/stages.jsonl"
        noted.unlink(missing_ok=True)
        self(command, **env)
        stages = [json.loads(line)["stage"] for line in noted.read_text().splitlines()] if noted.exists() else []
        return [stage for stage in stages if stage != "fingerprint"]

    def commit(self):
        self("git add --all")
        self("git commit -qm change")

    def edit(self, name, old, new):
        path = self.folder / name
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def json(self, name):
        return json.loads((self.folder / name).read_text())

    def digests(self):
        return self.json("data/source.json")["digest"], self.json("models/bundle/manifest.json")["digest"]

    def trained(self):
        return self.json("models/made_by.json")["commit"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A repository with a small configuration, run once by plain DVC and committed."""
    folder = tmp_path_factory.mktemp("base") / "project"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).exists() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    project = Project(folder)
    project.edit("params.yaml", "rows: 20000", "rows: 2000")
    project.edit("params.yaml", "n_estimators: 1000", "n_estimators: 8")
    project.edit("params.yaml", "min_slice_rows: 50", "min_slice_rows: 50\n  bootstrap: 20")
    project("git init -q -b main")
    project.commit()
    project("dvc repro --quiet")
    project.commit()
    return project


@pytest.fixture
def project(base, tmp_path):
    return Project(shutil.copytree(base.folder, tmp_path / "project", symlinks=True))


def test_what_plain_dvc_made_is_up_to_date_for_everyone(project):
    assert project("dvc status").split() == ["fingerprint:", "always", "changed"]
    assert project.ran("dvc repro") == []
    assert "nothing: no input changed" in project("python -m scripts.run")
    assert project("git status --short") == ""
    assert project.trained() == project("git rev-parse HEAD~1").strip()


def test_dvc_shows_the_graph_and_the_metrics(project):
    graph, shown = project("dvc dag --mermaid"), project("dvc metrics show")

    assert all(f'["{stage}"]' in graph for stage in ("fingerprint", *ALL))
    assert "test.roc_auc.value" in shown


def test_dvc_repro_stops_at_the_stage_that_was_asked_for(project):
    project.edit("params.yaml", "  seed: 0\n\nfeaturize", "  seed: 1\n\nfeaturize")

    assert project.ran("dvc repro prepare") == ["prepare"]


@pytest.mark.parametrize(
    ("name", "old", "new", "stages"),
    [
        pytest.param("params.yaml", "min_slice_rows: 50", "min_slice_rows: 60", ["evaluate"], id="evaluate"),
        pytest.param("params.yaml", "num_leaves: 15", "num_leaves: 7", ["train", "evaluate"], id="train"),
        pytest.param("params.yaml", "category_rows: 20", "category_rows: 90", ALL[3:], id="featurize"),
        pytest.param("params.yaml", "valid: 0.1", "valid: 0.2", ALL[2:], id="prepare"),
        pytest.param("params.yaml", "validate:\n  min_rows: 1000", "validate:\n  min_rows: 999", ["validate"], id="validate"),
        pytest.param("params.yaml", "    seed: 0\n    drift", "    seed: 1\n    drift", ALL, id="data"),
        pytest.param("schema.yaml", "min: 0, scale: 48.0", "min: 1, scale: 48.0", ALL[:4], id="a rule, no new model"),
        pytest.param("src/task/slices.py", '"""Groups', '"""The groups', ["evaluate"], id="code of one stage"),
    ],
)  # fmt: skip
def test_a_change_runs_what_depends_on_it_and_no_more(name, old, new, stages, project):
    project.edit(name, old, new)

    assert project.ran() == stages


def test_a_second_clone_pulls_and_runs_nothing(project, tmp_path):
    project(f"dvc remote add --default store {tmp_path / 'store'}")
    project.commit()
    project("dvc push --quiet")
    project(f"git clone -q . {tmp_path / 'clone'}")
    clone = Project(tmp_path / "clone")

    clone("dvc pull --quiet")

    assert clone.ran() == []
    assert clone.digests() == project.digests()
    assert clone("git status --short") == ""


def test_an_experiment_changes_one_parameter_and_metrics_diff_shows_it(project):
    before = project.digests()

    ran = project.ran("dvc exp run -S train.params.num_leaves=7")

    assert ran == ["train", "evaluate"]
    assert "num_leaves: 7" in (project.folder / "params.yaml").read_text()
    assert project.digests()[0] == before[0]
    assert project.digests()[1] != before[1]
    assert project.trained() == project("git rev-parse HEAD").strip() + "-dirty"
    assert "test.roc_auc.value" in project("dvc metrics diff HEAD")


def test_an_older_version_of_a_table_gives_the_older_model(project):
    table = project.folder / "table.csv"
    pyarrow.csv.write_csv(pq.read_table(project.folder / "data/raw.parquet").drop("row_id"), table)
    project.edit("params.yaml", "source: sample", "source: table.csv")
    seen = []
    for old, new in (("", ""), ("north", "south")):
        table.write_text(table.read_text().replace(old, new, 1))
        project("dvc add --quiet table.csv")
        project.ran()
        project.commit()
        seen.append(project.digests())

    project("git checkout -q HEAD~1 -- table.csv.dvc")
    project("dvc checkout --quiet table.csv.dvc")
    project.ran()

    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]
    assert project.digests() == seen[0]


def test_relock_settles_a_conflict_of_two_branches(project):
    project("git checkout -q -b leaves")
    project.edit("params.yaml", "num_leaves: 15", "num_leaves: 7")
    project.ran()
    project.commit()
    project("git checkout -q main")
    project.edit("params.yaml", "early_stopping: 50", "early_stopping: 40")
    project.ran()
    project.commit()
    project("git merge -q leaves", code=1)
    assert "UU dvc.lock" in project("git status --short")

    project("python -m scripts.relock")

    project("git add dvc.lock reports/metrics.json")
    project("git commit -qm merge")
    assert "<<<<<<<" not in (project.folder / "dvc.lock").read_text() + (project.folder / "params.yaml").read_text()
    assert project("git status --short") == ""
    assert project.ran() == []


def test_a_folder_without_git_runs_and_names_the_commit_it_was_given(project):
    for name in (".git", ".dvc/cache", ".dvc/tmp", "data", "models"):
        shutil.rmtree(project.folder / name)

    ran = project.ran(PAWL_COMMIT="0123abc")

    assert ran == ALL
    assert project.trained() == "0123abc"
