"""Change one rule at a time; the tests must notice every change.

`tests/mutants.toml` names a rule of the specification, the expression that follows it, and a wrong one. A copy of the
tree gets all of them at once, each behind a switch that an environment variable turns on, so that one build
serves all; without the variable its tests must pass. Then the tests run once for each mutant, in the order of what
they cost, up to the first that fails; one that never ends has failed. What survives is printed, with exit status 1.

    python tests/mutants.py [--only NAME]... [--list] [--report FILE] [--keep FILE]

Needs cargo only. The tests are those of `make test`; nothing is there for a mutant.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "mutants"
TREE = WORK / "tree"
SWITCH = "PERCPU_MUTANT"
#: Test binary and the tests of it that run, cheapest first.
STAGES = (
    ("differential", ["operations_on_small_maps", "layouts_of_any_machine"]),
    ("exhaustive", []),
    ("lib", []),
    ("golden", ["every_file_of_the_clone"]),
    ("layouts", []),
    ("engines", []),
    ("flags", []),
    ("batches", []),
    ("snapshots", []),
    ("differential", []),
    ("recordings", []),
)
SECONDS = 600
MEMORY = 6 << 30

MODULE = f'''//! Which rule is changed.

use std::sync::OnceLock;

/// Whether it is this one.
#[inline(never)]
pub fn on(mutant: u32) -> bool {{
    static ON: OnceLock<u32> = OnceLock::new();
    *ON.get_or_init(|| std::env::var("{SWITCH}").ok().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)) == mutant
}}
'''

Mutant = dict[str, str]


def place(mutant: Mutant, text: str) -> int | str:
    """Return where in the text of its file a mutant applies, or why it does not."""
    at = mutant.get("at", mutant["old"])
    if text.count(at) != 1 or at.count(mutant["old"]) != 1:
        return f"{mutant['name']}: its text occurs {text.count(at)} times in {mutant['file']}"
    return text.index(at) + at.index(mutant["old"])


def copy_tree() -> None:
    """Copy what git knows, and leave the times of files that are the same alone."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        source, target = ROOT / name, TREE / name
        if not source.is_file() or (target.is_file() and target.read_bytes() == source.read_bytes()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def apply(mutants: list[Mutant]) -> None:
    """Put every mutant into the copy, behind its switch."""
    for file in {mutant["file"] for mutant in mutants}:
        text = (ROOT / file).read_text()
        here = [
            (place(mutant, text), number, mutant) for number, mutant in enumerate(mutants) if mutant["file"] == file
        ]
        end = len(text)
        for at, number, mutant in sorted(here, key=lambda one: one[0], reverse=True):
            old, new = mutant["old"], mutant["new"]
            if at + len(old) > end:
                sys.exit(f"{mutant['name']} overlaps another mutant")
            end = at
            choice = f"if crate::mutant::on({number}) {{ {new} }} else {{ {old} }}"
            choice = choice if mutant.get("statement") else f"({choice})"
            text = text[:at] + choice + text[at + len(old) :]
        (TREE / file).write_text(text)
    library = (ROOT / "src" / "lib.rs").read_text()
    (TREE / "src" / "lib.rs").write_text(library + "\npub mod mutant;\n")
    (TREE / "src" / "mutant.rs").write_text(MODULE)


def build() -> dict[str, str]:
    """Build the tests; their binaries by name."""
    command = ["cargo", "test", "--quiet", "--features", "testing", "--no-run", "--message-format=json"]
    targets = [option for name in sorted({name for name, _ in STAGES} - {"lib"}) for option in ("--test", name)]
    # Built once, and run often but not for long.
    quick = {"CARGO_PROFILE_TEST_OPT_LEVEL": "1", "CARGO_PROFILE_TEST_DEBUG": "0"}
    env = {**os.environ, **quick, "CARGO_TARGET_DIR": str(WORK / "target")}
    done = subprocess.run([*command, "--lib", *targets], cwd=TREE, env=env, capture_output=True, text=True)
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0:
        sys.exit("".join(m["message"]["rendered"] for m in messages if m["reason"] == "compiler-message")[:4000])
    binaries = {m["target"]["name"]: m["executable"] for m in messages if m.get("executable")}
    return {("lib" if name == "percpu" else name): path for name, path in binaries.items()}


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def failure(binary: str, filters: list[str], number: int | None) -> str | None:
    """Run tests; None if they pass, else the test that fails."""
    env = {**os.environ, "PROPTEST_CASES": "64", "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1"}
    if number is not None:
        env[SWITCH] = str(number)
    command = [binary, "--quiet", *filters]
    try:
        done = subprocess.run(
            command, cwd=TREE, env=env, capture_output=True, text=True, timeout=SECONDS, preexec_fn=limit_memory
        )
    except subprocess.TimeoutExpired:
        return "no end"
    if done.returncode == 0:
        return None
    failed = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ") and " " not in line.strip()]
    return failed[-1] if failed else f"status {done.returncode}"


def killer(binaries: dict[str, str], number: int | None) -> str | None:
    """Return what notices a mutant; None if it survives."""
    for name, filters in STAGES:
        test = failure(binaries[name], filters, number)
        if test:
            return f"{name}: {test}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="a mutant by name; may be repeated")
    parser.add_argument("--list", action="store_true", help="say whether every text is in its file, and stop")
    parser.add_argument("--report", type=Path, help="write one line a mutant, and the figure, to this file")
    parser.add_argument("--keep", type=Path, help="results to go on from, and to write")
    options = parser.parse_args()
    mutants = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]
    wrong = [p for m in mutants if isinstance(p := place(m, (ROOT / m["file"]).read_text()), str)]
    if wrong or options.list:
        print(*wrong, f"mutants: {len(mutants)}, {len(wrong)} without their text", sep="\n")
        return int(bool(wrong))
    copy_tree()
    apply(mutants)
    binaries = build()
    known = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    if not known and (test := killer(binaries, None)):
        sys.exit(f"mutants: without a change, {test} fails")
    lines, survivors = [], []
    chosen = [(n, m) for n, m in enumerate(mutants) if not options.only or m["name"] in options.only]
    for number, mutant in chosen:
        name, begun = mutant["name"], time.monotonic()
        if known.get(name) is None:
            known[name] = killer(binaries, number)
        if options.keep:
            options.keep.write_text(json.dumps(known, indent=1))
        if known[name] is None:
            survivors.append(name)
        line = f"{name:32} {mutant['rule']:16} {known[name] or 'SURVIVED'}"
        print(f"{line} ({time.monotonic() - begun:.0f} s)", flush=True)
        lines.append(line)
    noticed = len(chosen) - len(survivors)
    figure = f"mutants: {len(chosen)} rules changed, {noticed} noticed, {len(survivors)} survived"
    print(figure, *survivors)
    if options.report:
        options.report.write_text("\n".join([*lines, "", figure, ""]))
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
