"""Makes a report of every trace, and of a million events, and opens each in headless Chromium.

    python tests/report_check.py RECORDINGS [--out DIR] [--events N]

Used by `make report-check`. A page must stay below 5 MB, ask for nothing outside, log no error and draw something.
The screenshots are kept for eyes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import percpu as pc

LIMIT = 5_000_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def open_page(program: str, page: Path, picture: Path, height: int) -> tuple[str, list[str]]:
    """Return the document as the browser sees it, and what it complains of."""
    with tempfile.TemporaryDirectory() as profile:
        common = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--window-size=1040,{height}",
        ]  # fmt: skip
        shot = subprocess.run(
            [*common, f"--screenshot={picture}", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        dom = subprocess.run(
            [*common, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
    complaints = [line for line in (shot.stderr + dom.stderr).splitlines() if ":CONSOLE" in line or "violates" in line]
    return dom.stdout, complaints


def colours(picture: Path) -> int:
    """How many colours a screenshot has."""
    import matplotlib.pyplot as plt

    pixels = np.rint(plt.imread(picture)[..., :3] * 255).astype(np.int64)
    return len(np.unique(pixels @ np.array([1, 256, 65536])))


def check(program: str, name: str, made: pc.Report, out: Path) -> list[str]:
    """Return what is wrong with a report."""
    page, picture = out / f"{name}.html", out / f"{name}.png"
    size = made.write(page)
    dom, complaints = open_page(program, page, picture, 5000)
    wrong = list(complaints)
    if size >= LIMIT:
        wrong.append(f"{size} bytes")
    if re.search(r"https?://|<script|url\(", dom):
        wrong.append("refers to something outside")
    drawn, meant = dom.count("<svg"), made.html.count("<svg")
    if drawn != meant:
        wrong.append(f"{drawn} of {meant} pictures")
    titles = re.findall(r"<h2>(.*?)</h2>", dom)
    if titles != [section.title for section in made.sections]:
        wrong.append(f"sections {titles}")
    if colours(picture) < 50:
        wrong.append("the screenshot is blank")
    print(f"{name:24} {size:>9,} bytes  {meant:3} pictures  {'; '.join(wrong) or 'good'}")
    return wrong


def main(argv: list[str] | None = None) -> int:
    """Check everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/report-check"))
    parser.add_argument("--events", type=int, default=1_000_000)
    arguments = parser.parse_args(argv)
    program = browser()
    if program is None:
        print(f"report-check: needs one of {', '.join(BROWSERS)}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    bad = pages = 0
    longest: pc.Trace | None = None
    for directory in sorted(p.parent for p in arguments.recordings.rglob("meta.json")):
        files = [f for f in (directory / "trace.txt.gz", directory / "trace-cols.csv.gz") if f.exists()]
        if not files:
            continue
        trace = pc.read_trace(files[0])
        longest = trace if longest is None or len(trace) > len(longest) else longest
        bad += bool(check(program, f"{directory.name}-follow", pc.report(trace), arguments.out))
        pages += 1
        state = directory / "state-a.json.gz"
        if state.exists():
            made = pc.report(trace, state=state, steps=40)
            bad += bool(check(program, f"{directory.name}-state", made, arguments.out))
            pages += 1
    if longest is not None:
        long = pc.Trace.concatenate([longest] * -(-arguments.events // len(longest)))[: arguments.events]
        begin = time.perf_counter()
        made = pc.report(long, title=f"{len(long):,} events")
        print(f"a report of {len(long):,} events took {time.perf_counter() - begin:.1f} s")
        bad += bool(check(program, "long", made, arguments.out))
        pages += 1
    print(f"report-check: {pages} pages, {bad} bad")
    return 1 if bad or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
