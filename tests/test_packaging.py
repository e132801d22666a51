"""Checks what an installation depends on: imports, the place of the packages, the ignore rules."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import common

ROOT = Path(__file__).parents[1]
PACKAGES = [
    name
    for name in ("common", "cssm", "alcnet", "convattn", "experiments")
    if (ROOT / name).is_dir()
]
PEERS = ROOT / "experiments/benchmarks/peers"  # programs for other interpreters, no modules
SOURCES = [
    path
    for name in PACKAGES
    for path in sorted((ROOT / name).rglob("*.py"))
    if PEERS not in path.parents
]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_module_imports_without_tensorflow_and_torch():
    code = f"""
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "torch"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for name in {[module_name(path) for path in SOURCES]}:
    importlib.import_module(name)
assert not {{"tensorflow", "torch"}} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_common_is_the_one_of_this_repository():
    assert common.__file__ is not None
    assert Path(common.__file__).parent == ROOT / "common"


def test_every_folder_of_modules_is_a_package():
    assert [path for path in SOURCES if not (path.parent / "__init__.py").exists()] == []


def test_ignore_rules_spare_the_packages():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folders = {path.parent for path in SOURCES} | {ROOT / "common/data", ROOT / "tests/common/data"}
    paths = [os.fspath((folder / "x.py").relative_to(ROOT)) for folder in sorted(folders)]
    run = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (1, ""), run.stdout + run.stderr


def imported_names(path: Path) -> set[str]:
    """Gives the top-level names that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [
        node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0
    ]
    return {module.partition(".")[0] for module in modules}


def distribution(requirement: str) -> str:
    """Gives the normalised name of the distribution that a requirement names."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = set(map(distribution, project["dependencies"]))
    own = set(sys.stdlib_module_names) | set(PACKAGES)
    names = set().union(*map(imported_names, SOURCES)) - own
    owners = importlib.metadata.packages_distributions()
    undeclared = [n for n in names if declared.isdisjoint(map(distribution, owners.get(n, [])))]
    assert undeclared == []
