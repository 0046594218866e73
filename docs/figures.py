"""The table of figures in the README, from the pages that `make` fills: ``python docs/figures.py`` writes it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->"


def _find(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if not match:
        raise SystemExit(f"no figures like {pattern}")
    return tuple(f"{int(value):,}" if value.isdigit() else value for value in match.groups())


def table() -> str:
    """Return the table, in Markdown."""
    fidelity = (ROOT / "docs" / "fidelity.md").read_text()
    performance = (ROOT / "docs" / "performance.md").read_text()
    files, operations, states, differences = _find(
        r"`golden: (\d+) files, (\d+) operations, (\d+) states, (\d+) differences", fidelity
    )
    runs, events, predicted, diverged, equal = _find(
        r"`recordings: (\d+) runs, (\d+) events, (\d+) predicted, (\d+) diverged, (\d+) end states equal", fidelity
    )
    logs, recomputed, different = _find(r"`boots: (\d+) logs, (\d+) recomputed, (\d+) different", fidelity)
    traces, followed = _find(r"(\d+) traces, (\d+) events, none illegal", fidelity)
    row = re.search(
        r"## Against the kernel's own code.*?\| case \| ([^\n]*)\n"
        r".*?\| \*\*geometric mean\*\* \| ([^\n]*)\n.*?\| \*\*least\*\* \| ([^\n]*)\n",
        performance,
        re.DOTALL,
    )
    if not row:
        raise SystemExit("no comparison with the kernel's own code")
    at = [cell.strip() for cell in row[1].split("|")].index("6.12")
    mean, least = (cells.split("|")[at].strip().strip("*") for cells in (row[2], row[3]))
    rows = [
        (
            f"{files} files of what the kernel's own code did, six generations: {operations} operations, "
            f"{states} whole states",
            f"{differences} differences",
            "make golden",
        ),
        (
            f"{runs} recordings of running kernels, {events} events: {predicted} placements predicted",
            f"{diverged} diverged; {equal} end states equal to the bit",
            "make recordings",
        ),
        (f"{logs} boot logs: {recomputed} recomputed", f"{different} different", "make boots"),
        (f"{traces} traces followed without a start state, {followed} events", "none illegal", "make follow"),
        (
            "speed of 6.12 against the kernel's own code at -O2, alloc / free: geometric mean, least",
            f"{mean}, {least}",
            "make bench",
        ),
    ]
    head = "| what | result | again with |\n|---|---|---|\n"
    return head + "".join(f"| {what} | {result} | `{target}` |\n" for what, result, target in rows)


def main() -> None:
    """Put the table into the README."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text().partition(BEGIN)
    path.write_text(before + BEGIN + table() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
