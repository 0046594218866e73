"""`percpu pins`: what keeps chunks and pages, and which few areas to free."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import percpu
from percpu.answers._machine import cpus_of_head
from percpu.answers.pins import Freeing, Pins, is_state
from percpu.cli.arguments import Verbs, byte_size
from percpu.cli.files import add_out, writer
from percpu.cli.show import save_picture, show, table
from percpu.cli.source import add_known, blocks
from percpu.errors import InvalidRequest
from percpu.plot._style import human_bytes
from percpu.results import Result

_WORDS = {
    "boot": "boot chunk: stays",
    "whole_only": "goes only as a whole",
    "kept": "free, and the one that is kept",
    "goes": "goes in the worker's next run",
    "at_once": "isolated: a page goes when empty",
    "next_free": "empty pages go at the next free",
    "few_elsewhere": "few pages are empty elsewhere",
    "too_few_empty": "less than a quarter is empty",
    "last_area": "goes only as a whole",
}
_AREAS = 8


def add(verbs: Verbs) -> None:
    """Add the verb."""
    text = "say what keeps per-CPU chunks and pages, and which few areas to free; from a capture or a state"
    parser = verbs.add("pins", run, text)
    text = "capture in any form (- is standard input), or state file (JSON)"
    parser.add_argument("source", metavar="TRACE|STATE", help=text)
    add_known(parser)
    parser.add_argument("--cpus", type=int, metavar="N", help="possible CPUs (default: as state or capture tell)")
    parser.add_argument("--top", type=int, default=12, metavar="N", help="chunks in the table (default: %(default)s)")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument(
        "--chunks", type=int, default=1, metavar="K", help="chunks that shall go away (default: %(default)s)"
    )
    goal.add_argument("--bytes", type=byte_size, metavar="BYTES", help="or memory that shall come back, of all CPUs")
    parser.add_argument("--owners", action="store_true", help="show who lies in each chunk shown")
    parser.add_argument("--no-engines", action="store_true", help="do not make the requests on other engines")
    parser.add_argument(
        "--stream", action="store_true", help="read in blocks, for captures larger than memory; pages are not modelled"
    )
    parser.add_argument("--lenient", action="store_true", help="count lines that cannot be read instead of stopping")
    parser.add_argument("--kernel", metavar="K", help="release or engine whose rules count (default: 6.12)")
    parser.set_defaults(max_events=None)
    add_out(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw the chunks")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    for name in ("top", "chunks", "bytes"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InvalidRequest(f"--{name} {value}: must be at least 1", parameter=name)
    out = writer(arguments.out)
    result = _pins(arguments)
    freeing, why = _freeing(arguments, result)
    ideal = result.ideal()
    traced = result.summary["source"] != "state" and not arguments.stream
    engines = result.engines() if traced and not arguments.no_engines else None
    shown = _top(result, arguments.top)
    who = result.owners
    who = who[np.isin(who.chunk, result.chunk[shown])]
    if arguments.json:
        facts: dict[str, Any] = {"summary": result.summary, "chunks": result[shown], "owners": who}
        facts["freeing"] = None if freeing is None else {**freeing.attrs, "areas": freeing}
        facts |= {"not_freeing": why, "order": result.order()[: arguments.top], "ideal": ideal, "engines": engines}
        show(arguments, facts)
    else:
        _say(result)
        _chunks(result, shown)
        if arguments.owners:
            _who(who)
        _say_freeing(result, freeing, why)
        _costs(result, ideal, engines)
    out(result)
    if arguments.plot:
        save_picture(result.plot(top=arguments.top), Path(arguments.plot))
    return 0


def _pins(arguments: argparse.Namespace) -> Pins:
    name: str = arguments.source
    source: Any = Path(name)
    stats, end = arguments.stats, arguments.stats_end
    how: dict[str, Any] = {"cpus": arguments.cpus, "kernel": arguments.kernel, "stats_end": end}
    if name != "-" and is_state(source):
        given = (("state", arguments.state), ("stats", stats), ("stats-end", end))
        for option, value in given:
            if value is not None:
                raise InvalidRequest(f"--{option}: {name} is a state itself", parameter=option.replace("-", "_"))
        return percpu.pins(source, unit_size=arguments.unit_size, **how)
    if arguments.state is None and arguments.cpus is None:
        how["cpus"] = cpus_of_head(name)  # what is read below has no head any more
    if arguments.stream:
        if arguments.state is not None:
            raise InvalidRequest("--stream and --state exclude each other", parameter="stream")
        parts = blocks(arguments, name, "reading")
        return percpu.pins(percpu.replay(parts, mode="follow", stats=stats, unit_size=arguments.unit_size), **how)
    if name == "-" or arguments.lenient:
        source = percpu.read_trace(name, strict=not arguments.lenient)
    return percpu.pins(source, arguments.state, stats=stats, unit_size=arguments.unit_size, **how)


def _freeing(arguments: argparse.Namespace, result: Pins) -> tuple[Freeing | None, str | None]:
    """Return what to free, or why nothing is known to suffice."""
    try:
        if arguments.bytes is not None:
            return result.cheapest(arguments.bytes), None
        return result.smallest(arguments.chunks), None
    except InvalidRequest as error:
        return None, str(error)


def _top(result: Pins, top: int) -> np.ndarray:
    """Rows of the chunks with the most memory for each area, those that stay for ever last."""
    each = result.populated_bytes / np.maximum(result.nr_areas + result.unseen_areas, 1)
    ordinary = result.kind == 2
    return np.lexsort((result.chunk, -each, ~ordinary))[:top]


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _say(result: Pins) -> None:
    s = result.summary
    memory = human_bytes(s["populated_bytes"])
    print(
        f"{_count(s['nr_areas'], 'area')} of {s['used_bytes']:,} bytes in {_count(s['nr_chunks'], 'chunk')} hold "
        f"{_count(s['populated_pages'], 'page')} x {_count(s['cpus'], 'CPU')} = {memory}; "
        f"{_count(s['empty_pages'], 'page')} {'is' if s['empty_pages'] == 1 else 'are'} empty."
    )
    print(f"CPUs: {s['cpus_from']}. Pages: {_from(s)}.")
    if s["nr_diverged"]:
        print(f"{_count(s['nr_diverged'], 'event')} came out otherwise than predicted: lists and pages may be off.")
    if s["nr_outside"]:
        n = _count(s["nr_outside"], "area")
        print(f"Left out, since there is no chunk then: {n} of the trace. Is it the state at the start of this trace?")
    if s["unknown_bytes"]:
        print(
            f"Not seen: up to {s['unknown_bytes']:,} bytes of each CPU may be in use since before the capture, "
            f"{100 * (1 - s['seen_share']):.1f} % of what may be in use."
        )


def _from(s: dict[str, Any]) -> str:
    if s["pages_from"] == "a model of the worker":
        return "modelled from the requests and frees, since the capture does not tell of pages"
    return {"the state": "as in the state", "the trace": "as the capture tells"}.get(
        s["pages_from"], "only those under live areas are known"
    )


def _chunks(result: Pins, rows: np.ndarray) -> None:
    head = (
        "chunk",
        "areas",
        "used",
        "memory",
        "pages",
        "empty",
        "to free it",
        "for pages",
        "its empty pages",
        "most by",
    )
    cells = []
    for row in (result.row(int(index)) for index in rows):
        name = row["kind"] if row["kind"] != "ordinary" else row["chunk"]
        unseen = "" if row["complete"] else "+" if row["unseen_areas"] is None else f" + {row['unseen_areas']:,}"
        cells.append(
            [
                str(name),
                f"{row['nr_areas']:,}{unseen}",
                row["used_bytes"],
                human_bytes(row["populated_bytes"]),
                row["populated_pages"],
                row["empty_pages"],
                row["release_areas"],
                row["depopulate_areas"],
                _WORDS[row["verdict"]],
                row["main_site"] or "-",
            ]
        )
    table(head, cells)
    if len(rows) < len(result):
        print(f"and {len(result) - len(rows):,} more (--top)")


def _who(who: Result) -> None:
    cells = [
        [
            row["chunk"],
            row["call_site"] or ("(not recorded)" if row["known"] else "(before the capture)"),
            row["nr_areas"],
            row["used_bytes"],
            row["nr_pages"],
            row["sole_pages"],
            _age(row["median_age_ns"]),
            _age(row["oldest_age_ns"]),
        ]
        for row in who.rows()
    ]
    table(("chunk", "call site", "areas", "bytes", "pages", "alone on", "median age", "oldest"), cells)


def _age(ns: int | None) -> str:
    return "-" if ns is None else f"{ns / 1e9:.3f} s"


def _say_freeing(result: Pins, freeing: Freeing | None, why: str | None) -> None:
    s = result.summary
    order = result.order()
    if len(order):
        first = order.row(0)
        print(
            f"{_count(first['nr_areas'], 'area')} of {first['used_bytes']:,} bytes hold chunk {first['chunk']}: "
            f"{human_bytes(s['unit_size'])} x {_count(s['cpus'], 'CPU')} of addresses, "
            f"{human_bytes(first['populated_bytes'])} of memory."
        )
    if freeing is None:
        print(f"Nothing to free is known to suffice: {why}.")
    else:
        a = freeing.attrs
        chunks = ", ".join(str(chunk) for chunk in a["chunks"][:10]) + (", ..." if len(a["chunks"]) > 10 else "")
        print(
            f"The fewest areas to free: {_count(a['nr_areas'], 'area')} of {a['areas_bytes']:,} bytes in "
            f"chunk{'' if len(a['chunks']) == 1 else 's'} {chunks}{_unseen(a)};\n"
            f"then {_count(a['nr_chunks'], 'chunk')} less, and at least {human_bytes(a['returned_bytes'])} back "
            "(one free chunk stays, maybe with its pages)."
        )
        _areas(freeing)
    page = s["page_size"] * s["cpus"]
    now, waiting = s["now_pages"], s["waiting_pages"]
    if not now and not waiting:
        print("The worker gives nothing back on its own.")
        return
    print(
        f"The worker alone gives back {_count(now, 'page')} ({human_bytes(now * page)}) in its next runs, and "
        f"{waiting:,} more ({human_bytes(waiting * page)}) once an area is freed in each chunk that waits for it."
    )


def _areas(freeing: Freeing) -> None:
    """The areas if they are few, else their call sites."""
    if len(freeing) <= _AREAS:
        cells = [
            [row["chunk"], row["off_bytes"], row["size_bytes"], _site(row), _age(row["age_ns"])]
            for row in freeing.rows()
        ]
        table(("chunk", "offset", "bytes", "call site", "age"), cells)
        return
    sites: dict[str, list[Any]] = {}
    for row in freeing.rows():
        entry = sites.setdefault(_site(row), [0, 0, None, None])
        age = row["age_ns"]
        entry[0] += 1
        entry[1] += row["size_bytes"]
        if age is not None:
            entry[2] = age if entry[2] is None else min(entry[2], age)
            entry[3] = age if entry[3] is None else max(entry[3], age)
    order = sorted(sites.items(), key=lambda item: (-item[1][1], item[0]))
    rest = order[_AREAS:]
    cells = [[name, n, size, _age(young), _age(old)] for name, (n, size, young, old) in order[:_AREAS]]
    if rest:
        cells.append([f"({len(rest)} others)", sum(e[0] for _, e in rest), sum(e[1] for _, e in rest), "-", "-"])
    table(("call site", "areas", "bytes", "youngest", "oldest"), cells)


def _unseen(attrs: dict[str, Any]) -> str:
    n = attrs["unseen_areas"]
    return f", {n:,} of them from before the capture, whose owners are not known" if n else ""


def _site(row: dict[str, Any]) -> str:
    return row["call_site"] or ("(not recorded)" if row["known"] else "(before the capture)")


def _costs(result: Pins, ideal: Result, engines: Result | None) -> None:
    s = result.summary
    found = {row["moment"]: row for row in ideal.rows()}
    end = found["end"]
    print(
        f"What is known to be live needs at least {_count(end['least_pages'], 'page')} and "
        f"{_count(end['least_chunks'], 'chunk')} ({human_bytes(end['least_bytes'])}), wherever it lies."
    )
    if engines is None:
        return
    page = s["page_size"] * s["cpus"]
    cells = [
        [
            f"{row['engine']} ({row['kernel']})",
            row["nr_failed"],
            row["peak_chunks"],
            row["end_chunks"],
            human_bytes(row["peak_bytes"]),
            human_bytes(row["end_bytes"]),
        ]
        for row in engines.rows()
    ]
    peak = found.get("peak")
    if peak is not None:
        least = [peak["least_chunks"], end["least_chunks"], human_bytes(peak["least_pages"] * page)]
        cells.append(["any, at least", 0, *least, human_bytes(end["least_bytes"])])
    print("The same requests and frees on each engine:")
    table(("engine", "failed", "chunks: peak", "end", "memory: peak", "end"), cells)
