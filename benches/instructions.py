"""Instructions an operation of every case, counted by callgrind, against stored ones.

Counts hardly depend on the machine, but on the compiler: the file names the one it was made with. A case that needs
more than ``--tolerance`` percent (and two instructions) more than stored is a failure; ``--store`` writes new ones.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
STORED = HERE / "instructions.csv"
FIELDS = ["name", "case", "counting", "alloc", "free"]
OBJECTS = {"2008": 2_000}
DEFAULT_OBJECTS = 30_000

Key = tuple[str, str, str]


def build() -> Path:
    """Build the binary and return where it is."""
    command = ["cargo", "bench", "--quiet", "--bench", "cases", "--features", "testing", "--no-run"]
    done = subprocess.run(
        [*command, "--message-format=json"], capture_output=True, text=True, check=True, cwd=HERE.parent
    )
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = [m["executable"] for m in messages if m.get("target", {}).get("name") == "cases" and m.get("executable")]
    return Path(found[-1])


def cases(binary: Path) -> list[tuple[str, str]]:
    """Return name and case of everything that can be counted."""
    done = subprocess.run([binary, "list"], capture_output=True, text=True, check=True)
    return [tuple(line.split(" ", 1)) for line in done.stdout.splitlines()]


def inclusive(path: Path) -> dict[str, int]:
    """Return the inclusive instructions of the measured functions in a callgrind file.

    A function's own lines give what it spends itself, the line behind each ``calls=`` what it spends through a call.
    """
    names: dict[str, str] = {}
    totals: dict[str, int] = {}
    current, after_call = "", False
    for line in path.read_text().splitlines():
        if line.startswith("fn="):
            number, _, name = line[3:].partition(" ")
            names.setdefault(number, name)
            current = names.get(number, "")
        elif line.startswith("cfn="):
            number, _, name = line[4:].partition(" ")
            if name:
                names.setdefault(number, name)
        elif line.startswith("calls="):
            after_call = True
        elif re.match(r"[+\-*\d]", line):
            for what in ("alloc", "free"):
                if f"measured_{what}" in current:
                    totals[what] = totals.get(what, 0) + int(line.split()[1])
            after_call = False
    assert not after_call
    return totals


def count(binary: Path, name: str, case: str, counting: str) -> dict[str, str]:
    """Count one case."""
    n = OBJECTS.get(name, DEFAULT_OBJECTS)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        run = [*tool, str(binary), "one", name, *case.split(), str(n), counting]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(run)}\n{done.stderr}")
        totals = inclusive(out)
    line = {"name": name, "case": case, "counting": counting}
    return line | {what: f"{totals[what] / n:.1f}" for what in ("alloc", "free")}


def read() -> dict[Key, dict[str, str]]:
    with STORED.open(newline="") as file:
        lines = csv.DictReader(text for text in file if not text.startswith("#"))
        return {(line["name"], line["case"], line["counting"]): line for line in lines}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", action="store_true", help="write the counts instead of comparing")
    parser.add_argument("--tolerance", type=float, default=3.0, help="percent (default: %(default)s)")
    parser.add_argument("--binary", type=Path, help="a binary `cases` that was built before (default: build it)")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (default: %(default)s)")
    parser.add_argument("names", nargs="*", help="only these engines, by release")
    arguments = parser.parse_args()
    binary = arguments.binary or build()
    wanted = [
        (name, case, counting)
        for name, case in cases(binary)
        for counting in ("off", "totals")
        if not arguments.names or name in arguments.names
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        counted = list(pool.map(lambda key: count(binary, *key), wanted))
    if arguments.store:
        rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        kept = {} if not arguments.names or not STORED.exists() else read()
        kept |= {(line["name"], line["case"], line["counting"]): line for line in counted}
        with STORED.open("w", newline="") as file:
            file.write(f"# Instructions an operation, batch calls, {rustc}; made by `make instructions-store`.\n")
            writer = csv.DictWriter(file, fieldnames=FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept.values())
        print(f"instructions: {len(counted)} cases stored in {STORED.relative_to(HERE.parent)}")
        return 0
    stored, grown = read(), 0
    print(f"{'engine':8}{'case':22}{'counting':10}{'alloc':>18}{'free':>18}")
    for line in counted:
        before = stored.get((line["name"], line["case"], line["counting"]))
        text, worse = "", before is None
        for what in ("alloc", "free"):
            now, then = float(line[what]), float(before[what]) if before else float("nan")
            worse |= now > then * (1 + arguments.tolerance / 100) + 2
            text += f"{then:>9.1f}{now:>9.1f}"
        grown += worse
        print(f"{line['name']:8}{line['case']:22}{line['counting']:10}{text}{'  <-- more' if worse else ''}")
    print(f"instructions: {len(counted)} cases, {grown} need more than {arguments.tolerance:g} % more than stored")
    return int(grown > 0)


if __name__ == "__main__":
    sys.exit(main())
