"""The benchmarks' own command line; what they measure is not measured here."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

from benchmarks.__main__ import replaced

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


def test_a_table_takes_the_place_of_the_one_before():
    table = ["| question | answer |", "|---|---|", "| new | 2 |"]
    text = "# Speed\n\n| question | answer |\n|---|---|\n| old | 1 |\n| older | 0 |\n\n| another | table |\n"
    assert replaced(text, table) == "# Speed\n\n" + "\n".join(table) + "\n\n| another | table |\n"
    assert replaced(text.partition("| old")[0], table).endswith("| new | 2 |\n")
    for wrong in ("# Speed\n", text + text):
        with pytest.raises(SystemExit, match="must be there once"):
            replaced(wrong, table)


@pytest.mark.slow
def test_the_readme_shows_what_was_kept():
    table = benchmarks("table")
    assert table.returncode == 0, table.stderr
    readme = (ROOT / "README.md").read_text()
    assert replaced(readme, table.stdout.splitlines()) == readme
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert set(json.loads(path.read_text())) <= {"machine", *NAMES}
