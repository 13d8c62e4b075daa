"""The command line: list the experiments, run one, report on many.

    python -m experiments
    python -m experiments NAME [--preset small|paper] [--seed N] [--out DIR] [--overwrite] [--strict] [--any-config-field VALUE]
    python -m experiments report DIR

Ctrl-C keeps what is finished, and the same command goes on from there, as it does after a crash. cohen2021 keeps a
checkpoint of its training every second and stops at the end of a chunk of steps; the others keep each part that is
finished and stop at once. Several processes together stop between two parts, keep none of them, and begin anew.

Exit status: 0; 1 with --strict where a claim is not reproduced; 2 for what can't be run as asked; 130 after Ctrl-C.

Compiled programs are kept in the user's cache, so that a second run starts sooner ($JAX_COMPILATION_CACHE_DIR says where,
JAX_ENABLE_COMPILATION_CACHE=false switches it off). A CPU counts as one device a core, so that runs split over cores.
Several processes run one experiment together where Slurm or Open MPI started them, or with --coordinator,
--num-processes and --process-id; the first of them writes.
"""

import ast
import contextlib
import dataclasses
import difflib
import gc
import importlib
import inspect
import os
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

HERE = Path(__file__).parent
FAILED, WRONG, STOPPED = 1, 2, 130  # exit statuses
CTRL_C = "Ctrl-C keeps what is finished; the same command goes on from there."
SEEDS = 2**32  # jax.random.key takes 32 bits
out, err = Console(highlight=False), Console(stderr=True, highlight=False)


def main(args: list[str]) -> int:
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal does not have must not cost a result
        with contextlib.suppress(AttributeError):  # somebody's own stream
            stream.reconfigure(errors="replace")  # pyright: ignore
    try:
        return _answered(args)
    except KeyboardInterrupt:
        err.print("stopped by Ctrl-C: what was finished before is kept, and the same command goes on from there")
        return STOPPED


def _answered(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        return listing()
    if args[0] == "report":
        return report(args[1:])
    name = args[0]
    if name not in names():
        return wrong(f"there is no experiment {name!r}", name, names(), "python -m experiments lists them")
    return experiment(name, args[1:])


def names() -> list[str]:
    """Every experiment: the modules beside this one named <author><year>_<slug>.py."""
    return sorted(path.stem for path in HERE.glob("[a-z]*[0-9][0-9][0-9][0-9]_*.py"))


def listing() -> int:
    out.print("usage: python -m experiments NAME [--help] [--preset small] [--seed 0] [--out results] [--strict] ...")
    out.print("       python -m experiments report DIR")
    out.print(f"{CTRL_C}\n")
    for name in names():
        summary = str(ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text("utf-8")))).splitlines()[0]
        out.print(f"  [bold]{name}[/]\n      {escape(summary)}")
    return 0


def experiment(name: str, args: list[str]) -> int:
    module = importlib.import_module(f"experiments.{name}")
    presets = {n.lower(): c for n, c in vars(module).items() if n.isupper() and isinstance(c, module.Config)}
    preset = _value(args, "--preset", "small")
    if preset not in presets:
        return wrong(f"{name} has no preset {preset!r}", preset, presets, f"it has {', '.join(sorted(presets))}")
    try:
        asked = _parse(name, module, presets, preset, args)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else WRONG
    except ValueError as error:  # a Config's own checks
        return wrong(str(error))
    if not 0 <= asked.seed < SEEDS:
        return wrong(f"--seed {asked.seed} must lie between 0 and {SEEDS - 1}: others draw the numbers of one of these")
    from landscape_jax import devices, record

    folder = asked.out.expanduser() / name / f"{preset}-seed{asked.seed}"
    try:
        _machine()
        devices.join(asked.coordinator, asked.num_processes, asked.process_id)
        _some_device()
        with record.held(folder) if devices.is_first_process() else contextlib.nullcontext():
            return _carried_out(module, asked, preset, name, folder)
    # what is asked for can't be had
    except (ValueError, ConnectionError, FileNotFoundError, record.Unreadable, record.Unwritable) as error:
        return wrong(str(error))


def _machine() -> None:
    """Compiled programs are kept; each core is a device."""
    import jax

    from landscape_jax.data.files import cache

    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(cache() / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:  # JAX keeps those alone that took a second
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX is at work already
            jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def _some_device() -> None:
    """Raise `ValueError` where JAX has none."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter is JAX's own, for a known platform of which there is none
        asked = os.environ.get("JAX_PLATFORMS")
        remedy = (
            f"JAX_PLATFORMS={asked} asks for it: unset it, or set it to cpu" if asked else "set JAX_PLATFORMS=cpu to use none"
        )
        raise ValueError(f"JAX can't use its devices: {(str(error) or 'there are none').splitlines()[0]} ({remedy})") from error


def _parse(name: str, module: ModuleType, presets: dict[str, Any], preset: str, args: list[str]):
    """The options every experiment has, and the fields of its Config, in one typed command line."""
    options = dataclasses.make_dataclass(
        "Options",
        [
            ("preset", Annotated[Literal[tuple(sorted(presets))], tyro.conf.arg(help="which Config to start from")], preset),
            ("seed", Annotated[int, tyro.conf.arg(help="the run's key is jax.random.key(seed)")], 0),
            ("out", Annotated[Path, tyro.conf.arg(help="where the result folder goes")], Path("results")),
            ("overwrite", Annotated[bool, tyro.conf.arg(help="replace a finished result of another configuration")], False),
            ("strict", Annotated[bool, tyro.conf.arg(help="exit with 1 when a claim is not reproduced")], False),
            ("coordinator", Annotated[str | None, tyro.conf.arg(help="address:port of process 0 of several")], None),
            ("num_processes", Annotated[int | None, tyro.conf.arg(help="how many processes there are")], None),
            ("process_id", Annotated[int | None, tyro.conf.arg(help="which of them this is")], None),
            ("config", tyro.conf.OmitArgPrefixes[module.Config], presets[preset]),
        ],
        frozen=True,
    )
    description = f"{module.__doc__}\n{CTRL_C}"
    return tyro.cli(options, prog=f"python -m experiments {name}", description=description, args=args)


def _value(args: list[str], option: str, default: str) -> str:
    """The value of one option, before the others can be parsed."""
    for i, arg in enumerate(args):
        if arg == option and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(option + "="):
            return arg.removeprefix(option + "=")
    return default


def _check_earlier(folder: Path, config: dict[str, Any], overwrite: bool) -> None:
    """Raise `ValueError` where the folder holds what can't be read, or a finished result of another configuration."""
    from experiments._parts import differences, read_json
    from landscape_jax.record.folder import plain

    path = folder / "config.json"
    if not path.is_file():
        return
    known = read_json(path)
    differing = differences(known.get("config"), plain(config)) if (folder / "claims.json").is_file() else []
    if differing and not overwrite:
        raise ValueError(
            f"{folder} holds the finished result of another configuration ({'; '.join(differing[:6])}): choose another --out, "
            "or replace it with --overwrite"
        )


def _carried_out(module: ModuleType, asked, preset: str, name: str, folder: Path) -> int:
    import jax

    import landscape_jax as lj
    from landscape_jax.engine import defer_interrupts
    from landscape_jax.record.disk import discard
    from landscape_jax.record.folder import plain

    told: dict[str, Any] = {"experiment": name, "preset": preset, "seed": asked.seed}
    told["config"] = plain(dataclasses.asdict(getattr(asked.config, "filled", asked.config)), "config")
    if lj.devices.is_first_process():
        _check_earlier(folder, told["config"], asked.overwrite)
    saved = folder / "checkpoint"
    resumable = {"checkpoint": saved} if "checkpoint" in inspect.signature(module.run).parameters else {}
    try:
        with defer_interrupts():
            told |= lj.record.circumstances()
            begun = time.perf_counter()
            record = module.run(asked.config, jax.random.key(asked.seed), **resumable)
    except lj.Interrupted as stop:
        if not lj.devices.is_first_process():
            return STOPPED
        if (folder / "claims.json").exists():  # never over a finished result
            folder = lj.record.prepare(folder.with_name(folder.name + "-stopped"))
        lj.record.write(folder, stop.record, **told, stopped=str(stop))
        goes_on = "; the same command goes on from there" if resumable else ""
        err.print(f"{escape(str(stop))}; what was recorded until then is in {folder}{goes_on}", soft_wrap=True)
        return STOPPED
    seconds = time.perf_counter() - begun
    claims = module.claims(record, asked.config)
    code = FAILED if asked.strict and any(c.passed is False for c in claims) else 0
    if not lj.devices.is_first_process():
        return code
    lj.record.write(folder, record, claims, **told, seconds=round(seconds, 1), stopped=None)
    drawn = module.plot(record, asked.config)
    for title, figure in (drawn if isinstance(drawn, dict) else {"figure": drawn}).items():
        figure.savefig(folder / f"{title}.png")
    if saved.exists():
        discard(saved)
    out.print(_table(name, [dataclasses.asdict(c) | {"verdict": c.verdict} for c in claims]))
    out.print(f"{seconds:.0f} s; record, claims and figure in {folder}", soft_wrap=True)
    return code


def _table(title: str, claims: list[dict]) -> Table:
    table = Table(title=title, title_justify="left", show_lines=True)
    for column in ("claim", "criterion", "measured", "verdict"):
        table.add_column(column, overflow="fold")
    style = {"reproduced": "green", "not reproduced": "bold red"}
    for c in claims:
        verdict = f"[{style.get(c['verdict'], 'yellow')}]{c['verdict']}[/]"
        table.add_row(escape(c["statement"]), escape(c["criterion"]), escape(_short(c["measured"])), verdict)
    return table


def _short(x: Any, joint: str = "\n") -> str:
    """Measured numbers at the length of a table's cell: lists and arrays as their range."""
    x = x.tolist() if hasattr(x, "tolist") else x
    if isinstance(x, dict):
        return joint.join(f"{name}: {_short(value, ', ')}" for name, value in x.items())
    if isinstance(x, (list, tuple)) and all(isinstance(v, (int, float)) and v is not None for v in x) and x:
        low, high = min(x), max(x)
        return f"{low:.3g}" if len(x) == 1 or f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
    return f"{x:.3g}" if isinstance(x, float) else str(x)


def report(args: list[str]) -> int:
    """All claims and figures under a folder, as Markdown: printed, and written there as report.md."""
    from landscape_jax import record as results

    if len(args) != 1:
        return wrong("report takes one folder", remedy="python -m experiments report DIR")
    top = Path(args[0])
    found = (path.parent for path in top.glob("**/config.json"))
    unfinished = lambda folder: "checkpoint" in folder.relative_to(top).parts  # noqa: E731
    folders = sorted(folder for folder in found if not unfinished(folder))
    if not folders:
        return wrong(f"{top} holds no results", remedy="give the folder that was --out of earlier runs")
    rows = ["| experiment | run | claim | criterion | measured | verdict |", "|---|---|---|---|---|---|"]
    gallery = []
    for folder in folders:
        try:
            config, _, claims = results.read(folder)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            return wrong(f"the result in {folder} can't be read: {error}", remedy="run it again, or delete the folder")
        name, run = config.get("experiment", folder.parent.name), folder.name
        if claims is None:
            rows.append(f"| {name} | {run} | | | {config.get('stopped') or 'unfinished'} | not tested |")
        for c in claims or []:
            cells = (name, run, c["statement"], c["criterion"], _short(c["measured"], "; "), c["verdict"])
            rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        for figure in sorted(folder.glob("*.png")):
            gallery.append(f"**{name}**, {run}\n\n![{name}, {run}]({figure.relative_to(top).as_posix()})")
    text = "\n".join(["# Claims", "", *rows, "", "# Figures", "", "\n\n".join(gallery), ""])
    try:
        (top / "report.md").write_text(text, "utf-8")
    except OSError as error:
        return wrong(f"can't write {top / 'report.md'}: {error.strerror}")
    print(text)
    return 0


def wrong(fact: str, name: str = "", known=(), remedy: str = "") -> int:
    """Say what is wrong, the nearest thing that would be right, and what to do."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4) if name else []
    said = fact + (f"; did you mean {near[0]!r}?" if near else "") + (f" ({remedy})" if remedy else "")
    err.print(f"[bold red]error:[/] {escape(said)}", soft_wrap=True)
    return WRONG


def _abandoned() -> bool:
    parts = sys.modules.get("experiments._parts")
    return parts is not None and parts.abandoned()


if __name__ == "__main__":
    # Python looks for garbage after some hundreds of new objects, and through all there are when it ends; imports and traced
    # programs make very many that stay: half a second of a start, and half a second of an end
    gc.set_threshold(200_000, 20, 100)
    code = main(sys.argv[1:])
    if code == STOPPED and _abandoned():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # sys.exit would wait for the end of the part that was given up
    gc.freeze()
    sys.exit(code)
