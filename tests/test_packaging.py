"""What pyproject.toml says of the package, and the package itself."""

import ast
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import landscape_jax as lj

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIRED = [re.match(r"[\w-]+", line)[0] for line in PROJECT["project"]["dependencies"]]
BY_OTHERS = {"jaxlib": "jax"}  # required for its version alone: imported by another required package


def imported() -> set[str]:
    """Every package that a module of the library imports."""
    found = set()
    for path in (ROOT / "landscape_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("package", REQUIRED)
def test_each_required_package_is_imported_by_the_library(package):
    assert BY_OTHERS.get(package, package) in imported()


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT["project"]
    path = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert re.findall(r'^__version__ = "(.+)"$', path.read_text(), re.MULTILINE) == [lj.__version__]
    assert metadata.version("landscape_jax") == lj.__version__


def test_the_package_says_that_it_is_typed_and_the_sources_hold_what_they_name():
    assert (ROOT / "landscape_jax" / "py.typed").is_file()
    for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / name).exists(), name
