"""Reads every trace below a directory, compares its counts, writes it to Parquet and to text and reads it back.

``python tests/traces.py DIR`` prints a row a file and a last line of totals; the exit status is 1 if anything differs.
A trace is any file ``trace*`` beside a ``meta.json``, whose counts must be those that its recorder noted there; and any
text in a directory ``captures``, whose counts must be those of a plain search for the names of the events.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

import percpu as pc

KINDS = ["alloc", "free", "fail", "create", "destroy", "populated", "depopulated"]
KERNEL = {"percpu_alloc_percpu": "alloc", "percpu_free_percpu": "free", "tracing_mark_write": "marker"}
NAMES = {
    "percpu_alloc_percpu": "alloc",
    "percpu_free_percpu": "free",
    "percpu_alloc_percpu_fail": "fail",
    "percpu_create_chunk": "create",
    "percpu_destroy_chunk": "destroy",
}
PROBES = ["balance_begin", "balance_end", "balance_free", "alloc_area", "alloc_area_ret", "free_area", "marker"]


def files(root: Path) -> list[Path]:
    """Return the traces below a directory."""
    recorded = [path for meta in root.rglob("meta.json") for path in meta.parent.glob("trace*")]
    captured = [path for path in root.rglob("captures/*") if path.is_file() and not path.name.endswith(".md")]
    return sorted({*recorded, *captured})


def found(trace: pc.Trace) -> dict[str, int]:
    """Return how many events of each kind a trace has."""
    counts = np.bincount(trace.kind, minlength=len(pc._core.EVENT_KINDS))
    return dict(zip(pc._core.EVENT_KINDS, counts.tolist(), strict=True))


def expected(path: Path) -> list[tuple[str, int]]:
    """Return what the recorder counted, or a plain search."""
    meta = path.parent / "meta.json"
    if meta.exists():
        counts = json.loads(meta.read_text())["counts"]
        named = [(kind, counts[kind]) for kind in KINDS if kind in counts]
        named += [(kind, counts[name]) for name, kind in KERNEL.items() if name in counts]
        return named + ([("other", counts["other"])] if "other" in counts else [])
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    if re.search(r"^\d+ \d+ (alloc|free) ", text, re.MULTILINE):
        events = re.findall(r"^\d+ \d+ (\w+) ", text, re.MULTILINE)
    else:
        events = [NAMES[name] for name in re.findall(r"(?:percpu:|\s)(percpu_\w+):\s", text)]
    return [(kind, events.count(kind)) for kind in NAMES.values()]


def differences(path: Path, trace: pc.Trace) -> list[str]:
    """Return where the counts differ."""
    counts, wrong = found(trace), []
    for kind, number in expected(path):
        if kind != "other":
            if counts[kind] != number:
                wrong.append(f"{kind} {counts[kind]}, not {number}")
            continue
        # The probes in lock order may be in a file of their own: two for each allocation and, in most
        # runs, one for each free.
        have = sum(counts[probe] for probe in PROBES)
        without = [have, *(have + more for more in (2 * counts["alloc"], 2 * counts["alloc"] + counts["free"]))]
        if number not in (without if counts["alloc_area"] == 0 else [have]):
            wrong.append(f"other {have}, not {number}")
    if trace.info["skipped_lines"] or trace.info["lost_events"]:
        wrong.append(f"{trace.info['skipped_lines']} lines skipped, {trace.info['lost_events']} events lost")
    return wrong


def main(root: Path) -> int:
    """Print the table, and return the exit status."""
    paths = files(root)
    events = equal = back = streamed = 0
    for path in paths:
        try:
            trace = pc.read_trace(path)
            wrong = differences(path, trace)
            equal += not wrong
            with tempfile.TemporaryDirectory() as directory:
                parquet, text = Path(directory, "t.parquet"), Path(directory, "t.txt.zst")
                trace.to_parquet(parquet)
                trace.to_text(text)
                again = pc.read_trace(parquet)
                same = again == trace and again.info == trace.info and pc.read_trace(text) == trace
            back += same
            whole = pc.Trace.concatenate(pc.iter_trace(path)) == trace
            streamed += whole
        except (pc.PercpuError, OSError) as error:
            print(f"{path.relative_to(root)}: {error}")
            continue
        events += len(trace)
        verdict = "counts equal" if not wrong else "; ".join(wrong)
        verdict += ", back equal" if same else ", DIFFERENT when written and read"
        verdict += "" if whole else ", DIFFERENT in blocks"
        print(f"{path.relative_to(root)!s:<52} {trace.info['format']:<9} {len(trace):>9,} events: {verdict}")
    failed = len(paths) - min(equal, back, streamed)
    print(
        f"traces: {len(paths)} files, {events} events, {equal} with equal counts, {back} written and read back equal, "
        f"{streamed} equal in blocks, {failed} different"
    )
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
