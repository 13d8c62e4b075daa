"""The order of the layers: each module imports only from those above it (and within its own folder)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "landscape_jax"
LAYERS = [
    {"types"},
    {"tree"},
    {"backend"},
    {"arguments"},
    {"parts"},
    {"devices", "programs", "record", "labels"},
    {"losses"},
    {"models", "data"},
    {"curvature", "spectrum"},
    {"landscape", "theory", "dynamics", "observe"},
    {"engine"},
    {"checkpoint", "sweep", "plots"},
    {"driver"},
]
RANK = {part: i for i, parts in enumerate(LAYERS) for part in parts}
ALLOWED = {
    "matplotlib": {"plots"},
    "flax": {"models"},
    "optax": {"dynamics"},
    "pooch": {"data"},
}
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every dotted name that a file imports, wherever in the file; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write it in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name(path):
    return str(path.relative_to(PACKAGE))


def test_the_walk_sees_what_there_is():
    assert {"types", "tree", "engine", "dynamics", "spectrum"} <= {part_of(p) for p in FILES}
    assert "landscape_jax.tree" in set(imports(PACKAGE / "engine.py"))
    assert "optax" in set(imports(PACKAGE / "dynamics" / "gradient.py"))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_only_from_layers_above(path):
    part = part_of(path)
    assert part in RANK, f"{part} has no layer: give it one in LAYERS and in the design"
    for dotted in imports(path):
        root, _, rest = dotted.partition(".")
        assert root not in ("experiments", "benchmarks", "tests"), f"{path} imports {dotted}"
        if root != PACKAGE.name:
            continue
        theirs = rest.split(".")[0]
        assert theirs in RANK, f"{path} imports {dotted}: name the module it comes from, not the package"
        assert theirs == part or RANK[theirs] < RANK[part], f"{part} may not import {theirs} ({path})"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_libraries_stay_in_their_rooms(path):
    for dotted in imports(path):
        allowed = ALLOWED.get(dotted.split(".")[0])
        assert allowed is None or part_of(path) in allowed, f"{path} imports {dotted}; only {allowed} may"
