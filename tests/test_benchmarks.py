"""The benchmarks' own command line; what they measure is not measured here."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py"))


def benchmarks(*args):
    command = [sys.executable, "-m", "benchmarks", *args]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)


def test_each_asks_one_question():
    for name in NAMES:
        source = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())
        assert ast.get_docstring(source).splitlines()[0].endswith("?"), name
        assert "main" in {node.name for node in source.body if isinstance(node, ast.FunctionDef)}, name


def test_they_are_listed_and_a_wrong_name_is_told():
    listed = benchmarks("list")
    assert listed.returncode == 0
    assert all(f"  {name}" in listed.stdout for name in NAMES)
    wrong = benchmarks("trackin")
    assert wrong.returncode == 2
    assert "did you mean 'tracking'?" in wrong.stderr


@pytest.mark.slow
def test_the_readme_shows_what_was_kept():
    table = benchmarks("table")
    assert table.returncode == 0, table.stderr
    readme = (ROOT / "README.md").read_text()
    missing = [row for row in table.stdout.splitlines()[2:] if row not in readme]
    assert not missing
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert set(json.loads(path.read_text())) <= {"machine", *NAMES}
