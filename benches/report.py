"""The picture of a record, and its tables in docs/performance.md.

``report.py [RECORD.csv]`` takes the newest record unless one is named. Tables stand between markers
``<!-- NAME -->`` and ``<!-- /NAME -->`` of the page.
"""

from __future__ import annotations

import csv
import math
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
# Live objects of 16/16, freed at random: ns a free of the reference, 6.12.
GROWTH = {10_000: 31, 100_000: 38, 1_000_000: 152, 10_000_000: 341}
NAMES = {"4.13": "areamap", "2008": "cpu_alloc-2008"}
# Okabe and Ito.
COLOURS = {"4.19": "#0072B2", "5.4": "#56B4E9", "6.12": "#D55E00", "4.13": "#009E73"}
MARKS = {"4.19": "o", "5.4": "s", "6.12": "^", "4.13": "D"}

Values = dict[tuple[str, str, str, str], float]


def newest() -> Path:
    records = [path for path in (HERE / "results").glob("*/*.csv") if "section" in path.open().readline()]
    return max(records, key=lambda path: path.name)


def read(path: Path) -> Values:
    with path.open(newline="") as file:
        return {
            (line["section"], line["name"], line["case"], line["metric"]): float(line["value"])
            for line in csv.DictReader(file)
        }


def reference() -> dict[tuple[str, str, str], float]:
    with (HERE / "reference.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {(x["engine"], x["case"], what): float(x[f"{what}_ns"]) for x in lines for what in ("alloc", "free")}


def ordered(values: Values, section: str, part: int) -> list[str]:
    """Return the names (1) or cases (2) of a section in the order of the record."""
    return list(dict.fromkeys(key[part] for key in values if key[0] == section))


def table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines]) + "\n"


def number(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def ratios(values: Values, engine: str, what: str) -> dict[str, float]:
    against = reference()
    return {
        case: against[engine, case, what] / values["batch", engine, case, what]
        for case in ordered(values, "batch", 2)
        if (engine, case, what) in against and ("batch", engine, case, what) in values
    }


def mean(numbers: list[float]) -> float:
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def batch_table(values: Values) -> str:
    against = reference()
    engines = [engine for engine in ordered(values, "batch", 1) if (engine, "4/4 in-order", "alloc") in against]
    lines = []
    for case in ordered(values, "batch", 2):
        line = [case]
        for engine in engines:
            got = [values["batch", engine, case, what] for what in ("alloc", "free")]
            times = [against[engine, case, what] / value for what, value in zip(("alloc", "free"), got, strict=True)]
            line.append(f"{number(got[0])} / {number(got[1])} ({times[0]:.1f}x / {times[1]:.1f}x)")
        lines.append(line)
    for label, fold in (("geometric mean", mean), ("least", min)):
        line = [f"**{label}**"]
        for engine in engines:
            alloc, free = (fold(list(ratios(values, engine, what).values())) for what in ("alloc", "free"))
            line.append(f"**{alloc:.1f}x / {free:.1f}x**")
        lines.append(line)
    return table(["case", *(NAMES.get(engine, engine) for engine in engines)], lines)


def others_table(values: Values) -> str:
    engines = [engine for engine in ordered(values, "batch", 1) if engine in ("rfc-v1", "2008")]
    lines = [
        [
            case,
            *(
                " / ".join(number(values["batch", engine, case, what]) for what in ("alloc", "free"))
                for engine in engines
            ),
        ]
        for case in ordered(values, "batch", 2)
    ]
    return table(["case", *(NAMES.get(engine, engine) for engine in engines)], lines)


def growth_table(values: Values) -> str:
    engines = ordered(values, "growth", 1)
    lines = []
    for case in ordered(values, "growth", 2):
        cells = [
            " / ".join(number(values["growth", engine, case, what]) for what in ("alloc", "free")) for engine in engines
        ]
        lines.append([f"{int(case):,}", str(GROWTH[int(case)]), *cells])
    return table(["live objects", "reference 6.12, free", *(NAMES.get(engine, engine) for engine in engines)], lines)


def pairs_table(values: Values, section: str, label: str) -> str:
    engines = ordered(values, section, 1)
    lines = [
        [
            case,
            *(
                " / ".join(number(values[section, engine, case, what]) for what in ("alloc", "free"))
                for engine in engines
            ),
        ]
        for case in ordered(values, section, 2)
    ]
    return table([label, *(NAMES.get(engine, engine) for engine in engines)], lines)


def naive_table(values: Values) -> str:
    lines = []
    for section, words in (("mix", "random, {} % occupied"), ("trace", "recording `{}`")):
        for case in ordered(values, section, 2):
            line = [words.format(case)]
            for engine in ordered(values, section, 1):
                fast, slow = (values[section, engine, case, what] for what in ("engine", "naive"))
                line.append(f"{number(fast)} / {number(slow)} ({slow / fast:.0f}x)")
            lines.append(line)
    return table(["operations", *ordered(values, "mix", 1)], lines)


def peers_table(values: Values) -> str:
    names = ordered(values, "peers", 1)
    lines = []
    for case in ordered(values, "peers", 2):
        line = [case]
        for name in names:
            cut = values["peers", name, case, "objects"] < max(
                values["peers", other, case, "objects"] for other in names
            )
            got = " / ".join(number(values["peers", name, case, what]) for what in ("alloc", "free"))
            line.append(got + (" *" if cut else ""))
        lines.append(line)
    return table(["case", *(f"`{name}`" for name in names)], lines)


def python_table(values: Values) -> str:
    units = {"single": "", "memory": "", "replay": ""}
    lines = []
    with newest_path.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["section"] in units:
                lines.append(
                    [line["name"], line["case"], line["metric"], f"{number(float(line['value']))} {line['unit']}"]
                )
    return table(["kernel", "what", "", "figure"], lines)


def instructions_table() -> str:
    path = HERE / "instructions.csv"
    if not path.exists():
        return "Not counted yet: `make instructions-store`.\n"
    counts: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    names = []
    with path.open(newline="") as file:
        for line in csv.DictReader(text for text in file if not text.startswith("#")):
            if line["counting"] == "off":
                counts[line["case"], line["name"]] = line
            if line["name"] not in names:
                names.append(line["name"])
    cases = list(dict.fromkeys(case for case, _ in counts))
    lines = [
        [
            case,
            *(f"{float(counts[case, name]['alloc']):.0f} / {float(counts[case, name]['free']):.0f}" for name in names),
        ]
        for case in cases
    ]
    return table(["case", *(NAMES.get(name, name) for name in names)], lines)


def counting_table() -> str:
    path = HERE / "instructions.csv"
    if not path.exists():
        return "Not counted yet: `make instructions-store`.\n"
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for line in csv.DictReader(text for text in file if not text.startswith("#")):
            found[line["name"]][line["counting"]].append(float(line["alloc"]) + float(line["free"]))
    lines = [
        [
            NAMES.get(name, name),
            f"{mean(how['off']):.0f}",
            f"{mean(how['totals']):.0f}",
            f"+{100 * (mean(how['totals']) / mean(how['off']) - 1):.0f} %",
        ]
        for name, how in found.items()
    ]
    return table(["engine", "off", "totals", ""], lines)


def about(path: Path) -> str:
    return "".join(f"- {line}\n" for line in path.with_suffix(".txt").read_text().splitlines())


def fill(page: str, marker: str, text: str) -> str:
    begin, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"no marker {marker} in {PAGE}")
    return head + begin + "\n" + text + "\n" + end + tail


def picture(values: Values, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 5), width_ratios=[3, 3, 2], layout="constrained")
    cases = ordered(values, "batch", 2)
    for axis, what in zip(axes, ("alloc", "free"), strict=False):
        for shift, (engine, colour) in enumerate(COLOURS.items()):
            got = ratios(values, engine, what)
            heights = [len(cases) - 1 - cases.index(case) + 0.24 - 0.16 * shift for case in got]
            name = NAMES.get(engine, engine)
            axis.plot(list(got.values()), heights, MARKS[engine], color=colour, label=name, markersize=6)
        axis.axvline(1, color="#30343B", linewidth=1)
        axis.set_xscale("log")
        axis.set_yticks(range(len(cases)), cases[::-1] if what == "alloc" else [""] * len(cases))
        axis.set_xlabel(f"{what}: times as fast as the kernel's C code")
        axis.grid(axis="both", color="#C9CDD2", linewidth=0.5)
        axis.set_axisbelow(True)
    axes[0].legend(loc="upper right", title="reproduces")
    axis = axes[2]
    for engine, colour in COLOURS.items():
        sizes = sorted(int(key[2]) for key in values if key[:2] == ("growth", engine) and key[3] == "free")
        times = [values["growth", engine, str(size), "free"] for size in sizes]
        axis.plot(sizes, times, MARKS[engine] + "-", color=colour, label=NAMES.get(engine, engine))
    axis.plot(list(GROWTH), list(GROWTH.values()), "--", color="#5B5F66", label="6.12 in C")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("live objects of 16 bytes")
    axis.set_ylabel("ns a free, at random")
    axis.grid(color="#C9CDD2", linewidth=0.5)
    axis.legend()
    figure.savefig(path, dpi=110)


newest_path = Path(sys.argv[1]) if len(sys.argv) > 1 else newest()


def main() -> None:
    values = read(newest_path)
    picture(values, newest_path.with_suffix(".png"))
    page = PAGE.read_text()
    for marker, text in {
        "about": about(newest_path),
        "batch": batch_table(values),
        "others": others_table(values),
        "growth": growth_table(values),
        "chunks": pairs_table(values, "chunks", "chunks of 32 KiB"),
        "naive": naive_table(values),
        "python": python_table(values),
        "peers": peers_table(values),
        "instructions": instructions_table(),
        "counting": counting_table(),
        "picture": "![Times against the reference, and growth](img/performance.png)\n",
    }.items():
        page = fill(page, marker, text)
    PAGE.write_text(page)
    (PAGE.parent / "img").mkdir(exist_ok=True)
    (PAGE.parent / "img" / "performance.png").write_bytes(newest_path.with_suffix(".png").read_bytes())
    print(f"written: {newest_path.with_suffix('.png')}, {PAGE.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
