import ast
from pathlib import Path

import pytest
import yaml

from scripts.stage import STAGES

ROOT = Path(__file__).parents[2]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())


def module_file(name: str) -> Path | None:
    base = ROOT / "src" / Path(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imports(path: Path) -> set[Path]:
    """Return the files of ours that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {file for name in names if name.split(".")[0] in {"pawl", "task"} and (file := module_file(name))}
    return {file for file in found if file.name != "__init__.py" or file.parent.name == "source"}


def closure(stage: str) -> set[str]:
    todo, seen = [ROOT / f"src/pawl/pipeline/{stage}.py"], set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += imports(path)
    return {path.relative_to(ROOT).as_posix() for path in seen}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_it_imports(stage):
    listed = {dep for dep in DVC["stages"][stage]["deps"] if dep.startswith("src/")}

    assert listed == closure(stage), f"dvc.yaml, {stage}: deps must list what src/pawl/pipeline/{stage}.py imports"
