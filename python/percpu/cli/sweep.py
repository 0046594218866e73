"""`percpu sweep`: the same requests and frees at every point of an experiment."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import percpu
from percpu.cli.arguments import Verbs
from percpu.cli.experiment import add_machine, add_source, machine_of, settings_of, source_of, value_of, values_of
from percpu.cli.show import save_picture, show, table
from percpu.errors import InvalidRequest

_SHORT = (
    "nr_failed",
    "nr_max_chunks",
    "peak_memory_bytes",
    "end_memory_bytes",
    "peak_metadata_bytes",
    "end_fragmentation",
)
_OPTIONS = {"samples": int, "seed": int, "threads": int, "checkpoint": str, "timing": bool, "phases": bool}
_EPILOG = """
FILE.toml holds `trace = "FILE"` or a table [workload] with `name` and its parameters; tables [geometry], [request]
and [policy] with what holds for every point, `engine` or `kernel`; a table [parameters] with a list or a distribution
for each name, e.g. "geometry.block_size" = ["1K", "2K", "4K"] or "request.align" = {powers_of_two = [4, 4096]}; and
samples, seed, threads, checkpoint, timing, phases. Options of the command line win.
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("sweep", run, "make the same requests and frees at every point of an experiment")
    parser.epilog = _EPILOG
    parser.add_argument("file", nargs="?", metavar="FILE.toml", help="the experiment")
    add_source(parser, required=False)
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="A,B,C, or LOW..HIGH:KIND with KIND integers, log_integers or powers_of_two; repeat for more",
    )
    parser.add_argument("--engine", help="engine of every point")
    parser.add_argument("--kernel", help="release of every point (default: 6.12)")
    add_machine(parser)
    parser.add_argument("--samples", type=int, help="number of samples of the distributions")
    parser.add_argument("--seed", type=int, help="of the samples (default: 0)")
    parser.add_argument("--threads", type=int, help="threads (default: one for each core)")
    parser.add_argument("--checkpoint", metavar="DIR", help="keep finished points there, and go on from there")
    parser.add_argument("--timing", action="store_true", default=None, help="add times")
    parser.add_argument("--phases", action="store_true", default=None, help="add the figures of each phase")
    parser.add_argument("--no-progress", action="store_true", help="do not show progress")
    parser.add_argument("--out", metavar="FILE", help="write all columns: .parquet or .csv")
    parser.add_argument("--plot", metavar="FILE", help="draw a figure")
    parser.add_argument("--value", default="peak_memory_bytes", metavar="COLUMN", help="which (default: %(default)s)")


def _experiment(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return what is run, the parameters and the options, of file and command line together."""
    options: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    what = None
    if arguments.file:
        import tomllib

        path = Path(arguments.file)
        try:
            found = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise InvalidRequest(f"{path}: {error}", parameter="file") from None
        known = {"trace", "workload", "parameters", "geometry", "request", "policy", "engine", "kernel", *_OPTIONS}
        unknown = sorted(set(found) - known)
        if unknown:
            raise InvalidRequest(f"{path}: {unknown[0]} is none of {', '.join(sorted(known))}", parameter=unknown[0])
        if "trace" in found:
            what = percpu.read_trace(path.parent / found.pop("trace"))
        if "workload" in found:
            given = {name: values_of(value, single=True) for name, value in found.pop("workload").items()}
            if "name" not in given:
                raise InvalidRequest(f"{path}: [workload] has no name", parameter="workload")
            what = percpu.workloads.make(given.pop("name"), **given)
        parameters = {name: values_of(values) for name, values in found.pop("parameters", {}).items()}
        for group in ("geometry", "request", "policy"):
            if group in found:
                found[group] = {name: value_of(value) for name, value in found[group].items()}
        options = found
    if arguments.trace or arguments.workload:
        what = source_of(arguments)
    if what is None:
        raise InvalidRequest("a trace or a workload is needed: FILE.toml, --trace or --workload", parameter="trace")
    for text in arguments.parameter:
        name, equals, values = text.partition("=")
        if not equals:
            raise InvalidRequest(f"-p {text}: must be NAME=VALUES", parameter=name)
        parameters[name] = values_of(values)
    for group in ("geometry", "request", "policy"):
        given = (machine_of(arguments) if group == "geometry" else settings_of(getattr(arguments, group))) or {}
        if given:
            options[group] = {**options.get(group, {}), **given}
    for name in (*_OPTIONS, "engine", "kernel"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    return what, parameters, options


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    what, parameters, options = _experiment(arguments)
    progress = not arguments.no_progress and sys.stderr.isatty()
    result = percpu.sweep(what, parameters, progress=progress, **options)
    if arguments.out:
        _write(result, Path(arguments.out))
    if arguments.json:
        show(arguments, {"attrs": result.attrs, "digest": result.digest(), "points": result})
    else:
        names = [*result.parameters, "status", *(name for name in _SHORT if name in result)]
        rows = [[f"{v:.4g}" if isinstance(v, float) else v for v in (row[n] for n in names)] for row in result.rows()]
        table(names, rows)
        for row in result.rows():
            if row["error"]:
                print(f"{', '.join(f'{name}={row[name]}' for name in result.parameters)}: {row['error']}")
        print(f"{len(result)} points, digest {result.digest()[:16]}")
    if arguments.plot:
        save_picture(result.plot(arguments.value), Path(arguments.plot))
    return 0 if all(row["status"] == "ok" for row in result.rows()) else 1


def _write(result: percpu.Sweep, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        from percpu.results import _import

        meta = {f"percpu.{name}": str(value) for name, value in result.attrs.items()}
        _import("pyarrow.parquet", "analysis").write_table(result.to_arrow().replace_schema_metadata(meta), path)
    elif path.suffix == ".csv":
        result.to_pandas().to_csv(path, index=False)
    else:
        raise InvalidRequest(f"--out {path}: must end in .parquet or .csv", parameter="out")
