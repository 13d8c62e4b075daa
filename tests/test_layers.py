"""The order of the layers: each module imports only from those above it (and within its own folder).

And what depends on the backend stays in one of them.
"""

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
    {"landscape", "theory", "dynamics", "observe", "sweep"},
    {"engine"},
    {"plots"},
]
RANK = {part: i for i, parts in enumerate(LAYERS) for part in parts}
ALLOWED = {
    "matplotlib": {"plots"},
    "flax": {"models"},
    "optax": {"dynamics"},
    "pooch": {"data"},
}
BACKEND = PACKAGE / "backend"
ASKS_JAX = {"default_backend", "platform_dependent", "memory_stats", "memory_analysis"}  # attributes, and names imported
BACKENDS = {"cpu", "gpu", "cuda", "rocm", "tpu"}  # strings
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


def asks_for_the_backend(source):
    """What in a module's source depends on the backend."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ASKS_JAX | {"platform"}:
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.name in ASKS_JAX or node.module.startswith("jaxlib"))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("jaxlib"))
        elif isinstance(node, ast.Constant) and node.value in BACKENDS:
            yield node.value


def name(path):
    return str(path.relative_to(PACKAGE))


def test_the_walk_sees_what_there_is():
    assert {"types", "tree", "engine", "dynamics", "spectrum"} <= {part_of(p) for p in FILES}
    assert "landscape_jax.tree" in set(imports(PACKAGE / "engine" / "core.py"))
    assert "optax" in set(imports(PACKAGE / "dynamics" / "gradient.py"))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_only_from_layers_above(path):
    part = part_of(path)
    assert part in RANK, f"{part} has no layer: give it one in LAYERS and in docs/design.md"
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


def test_the_search_for_the_backend_finds_it():
    for source in (
        'jax.default_backend() == "cpu"',
        "from jax import default_backend as here",
        "jax.lax.platform_dependent(x, cpu=f, default=g)",
        "jax.devices()[0].platform",
        'jax.devices("gpu")',
        "import jaxlib.version",
        "from jaxlib import version",
    ):
        assert list(asks_for_the_backend(source))
    assert not list(asks_for_the_backend("import platform; platform.node()"))


@pytest.mark.parametrize("path", [p for p in FILES if BACKEND not in p.parents], ids=name)
def test_only_the_backend_package_asks_for_the_backend(path):
    assert not list(asks_for_the_backend(path.read_text()))


@pytest.mark.parametrize("path", [p for p in FILES if BACKEND in p.parents], ids=name)
def test_a_module_of_the_backend_says_why_since_when_and_until_when(path):
    head = ast.get_docstring(ast.parse(path.read_text())) or ""
    if path.name == "__init__.py":
        assert not list(imports(path))
        listed = {line.split()[0] for line in head.splitlines() if line.startswith("    ")}
        assert listed >= {p.stem for p in BACKEND.glob("*.py")} - {"__init__"}
    else:
        assert [line for line in head.splitlines() if line.startswith("Why: ")]
        assert [line for line in head.splitlines() if line.startswith("Found with: jaxlib ")]
        assert [line for line in head.splitlines() if line.startswith("No longer needed when: ")]
