"""The benchmarks: list them, run them, print the table of their answers.

    python -m benchmarks                              all but the long ones, their figures kept and README's table made anew
    python -m benchmarks NAME [NAME ...] [--write] [OPTION ...]
    python -m benchmarks list
    python -m benchmarks table [--write]

Each runs in a process of its own, from the top folder of the repository; options go on to every one named
(`python -m benchmarks NAME --help` has them). Exit status 1 when one failed: where an answer is wrong, never for a time.
Figures are kept in results/<device>.json; `table` prints README's from every such file, or writes it there.
"""

import ast
import difflib
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._results import RESULTS

HERE = Path(__file__).parent
README = HERE.parent / "README.md"


def main(args: list[str]) -> int:
    if args and args[0] in ("-h", "--help", "list"):
        return listing()
    if args in (["table"], ["table", "--write"]):
        return table(args[1:] == ["--write"])
    count = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    named, passed = args[:count], args[count:]
    for name in named:
        if name not in names():
            near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            print(f"error: there is no benchmark {name!r}{hint} (python -m benchmarks list has them)", file=sys.stderr)
            return 2
    if named:
        return run(named, passed)
    status = run([name for name in names() if not long(name)], passed or ["--write"])
    if not passed:
        table(write=True)
    return status


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("[a-z]*.py"))


def _source(name: str) -> ast.Module:
    return ast.parse((HERE / f"{name}.py").read_text())


def long(name: str) -> bool:
    """Whether a benchmark says LONG = True: run by name alone."""
    return any(ast.unparse(node) == "LONG = True" for node in _source(name).body)


def listing() -> int:
    print(__doc__)
    for name in names():
        question = str(ast.get_docstring(_source(name))).splitlines()[0]
        print(f"  {name}{' (long: by name alone)' if long(name) else ''}\n      {question}")
    return 0


def run(named: list[str], passed: list[str]) -> int:
    """Each in a process of its own, the next also after a failure."""
    begun, ends = time.perf_counter(), {}
    for name in named:
        print(f"== {name}", flush=True)
        started = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *passed], cwd=HERE.parent).returncode
        ends[name] = f"{time.perf_counter() - started:.0f} s" + (f", FAILED with exit status {code}" if code else "")
    print("\n".join(f"{name}: {end}" for name, end in ends.items()))
    print(f"{len(named)} benchmarks in {time.perf_counter() - begun:.0f} s")
    return int(any("FAILED" in end for end in ends.values()))


def table(write: bool = False) -> int:
    """One row a benchmark that has a `row` and figures, as Markdown; printed, or written in README's place for it."""
    lines = ["| question | machine | answer |", "|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        known = json.loads(path.read_text())
        machine = known["machine"]
        for name in names():
            row = getattr(importlib.import_module(f"benchmarks.{name}"), "row", None) if name in known else None
            if row is not None:
                question, answer = row(known[name])
                cpu = machine["device"] == "cpu"
                where = f"{machine['cores']} cores, {machine['processor']}" if cpu else machine["device"]
                lines.append(f"| {question} | {where}, jax {known[name]['jax']} | {answer} |")
    if not write:
        print("\n".join(lines))
    else:
        README.write_text(replaced(README.read_text(), lines))
    return 0


def replaced(text: str, table: list[str]) -> str:
    """The text with the table of the same first line, which it must have once, in other rows."""
    before, head, after = text.partition(table[0] + "\n")
    if not head or head in after:
        raise SystemExit(f"error: the line {table[0]!r} must be there once in {README.name}, where the table begins")
    rest = after.splitlines(keepends=True)
    count = next((i for i, line in enumerate(rest) if not line.startswith("|")), len(rest))
    return before + "\n".join(table) + "\n" + "".join(rest[count:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
