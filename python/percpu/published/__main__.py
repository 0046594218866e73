"""``python -m percpu.published``: run the published tables, print them, and write them into a document."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from percpu.published.report import fill, sections


def main(argv: list[str] | None = None) -> int:
    """Print the comparison; 1 if a shape is not that of the published times.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m percpu.published", description=__doc__)
    parser.add_argument("--objects", type=int, default=1 << 20, help="of a batch (default: 2^20, as published)")
    parser.add_argument("--contrived", type=int, default=1 << 16, help="of the contrived case (default: 2^16)")
    parser.add_argument("--study", type=int, default=1 << 16, help="for the study of block sizes (default: 2^16)")
    parser.add_argument("--recordings", type=Path, help="directory of recorded runs (default: the packaged ones only)")
    parser.add_argument("--threads", type=int, default=1, help="runs at a time; only times depend on it (default: 1)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="fill the marked places of this document")
    parser.add_argument("--place", action="append", default=[], metavar="NAME=FILE", help="also fill place NAME")
    options = parser.parse_args(argv)
    texts = sections(options.objects, options.contrived, options.recordings, options.study, options.threads)
    for name, _, file in (place.partition("=") for place in options.place):
        texts[name] = Path(file).read_text().rstrip()
    for name, text in texts.items():
        print(f"\n## {name}\n\n{text}")
    if options.write is not None:
        document = options.write.read_text()
        for name, text in texts.items():
            document = fill(document, name, text)
        options.write.write_text(document)
    verdicts = [line.rsplit("|", 2)[-2].strip() for line in texts["judged"].splitlines()[2:]]
    met, broken = verdicts.count("yes"), verdicts.count("**no**")
    print(f"\npublished: {len(verdicts)} criteria, {met} met, {broken} not, {len(verdicts) - met - broken} not counted")
    return 0 if met == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
