"""What `mkdocs build` makes from the package: the pages of the reference.

Every name in ``percpu.__all__`` and in the ``__all__`` of its public modules is on exactly one page, chosen by the
module that defines it; a name of a module that no page claims goes to the last one. The verbs of the command line are
described by their own help texts.
"""

from __future__ import annotations

import argparse
import inspect
import os
from types import ModuleType
from typing import Any

PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "allocator": ("Allocator, chunks, kernels", "An allocator and what it shows of itself.", ("percpu.allocator",)),
    "layout": ("First-chunk layouts", "Topologies, layouts, explanations, address space.", ("percpu.layout",)),
    "traces": (
        "Traces and captures",
        "Reading, writing, recording, summing up.",
        ("percpu.trace", "percpu.summary", "percpu.record", "percpu.stats", "percpu.kallsyms"),
    ),
    "replay": (
        "Replays",
        "Predict, follow, rerun.",
        ("percpu.replay", "percpu.follow", "percpu.costs", "percpu.steps", "percpu._rules"),
    ),
    "experiments": (
        "Comparisons and sweeps",
        "Engines, releases and geometries against each other.",
        ("percpu.compare", "percpu.sweep", "percpu.results", "percpu.distributions", "percpu.engines"),
    ),
    "workloads": ("Workloads", "Seeded generators of requests and frees.", ("percpu.workloads",)),
    "answers": ("Answers", "What people ask, from what they have.", ("percpu.answers", "percpu.explain")),
    "plot": ("Pictures", "Figures from results; each function returns the axes.", ("percpu.plot", "percpu.report")),
    "testing": ("For tests", "Fixtures for pytest and strategies for hypothesis.", ("percpu.testing",)),
    "errors": ("Errors", "What is raised, and what it carries.", ("percpu.errors",)),
    "other": ("Constants and other names", "Names that belong to no other page.", ()),
}
"""Page: its title, a sentence, the modules whose names it has."""

MODULES = ("percpu", "percpu.plot", "percpu.testing")
"""Public modules; those in the ``__all__`` of another are found from there."""


def _page_of(module: str) -> str:
    for page, (_, _, modules) in PAGES.items():
        if any(module == prefix or module.startswith(prefix + ".") for prefix in modules):
            return page
    return "other"


def public_names() -> dict[str, list[str]]:
    """Every public name, by the page that it is on."""
    import importlib

    pages: dict[str, list[str]] = {page: [] for page in PAGES}
    seen: set[str] = set()

    def add(module: ModuleType) -> None:
        if module.__name__ in seen:
            return
        seen.add(module.__name__)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value):
                add(value)
                continue
            home = getattr(value, "__module__", "") if callable(value) else ""
            home = home if home.startswith("percpu") else module.__name__
            pages[_page_of(module.__name__ if module.__name__ != "percpu" else home)].append(
                f"{module.__name__}.{name}"
            )

    for name in MODULES:
        add(importlib.import_module(name))
    return pages


def reference(page: str) -> str:
    """The text of a page of the reference."""
    title, sentence, _ = PAGES[page]
    names = public_names()[page]
    return f"# {title}\n\n{sentence}\n\n" + "".join(f"::: {name}\n\n" for name in names)


def command_line() -> str:
    """The help texts of the command and of its verbs."""
    os.environ["COLUMNS"] = "110"
    from percpu.cli import _parser

    parser = _parser()
    (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    text = [
        "# The command line\n\n`--json` prints JSON instead of tables. The exit status is 0; 1 if something differs"
    ]
    text.append(" or fails; 2 for wrong arguments.\n\n")
    text.append(f"```text\n{parser.format_help()}```\n\n")
    for name, verb in verbs.choices.items():
        text.append(f"## percpu {name}\n\n```text\n{verb.format_help()}```\n\n")
    return "".join(text)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for page in PAGES:
        files.append(File.generated(config, f"reference/{page}.md", content=reference(page)))
    files.append(File.generated(config, "reference/command-line.md", content=command_line()))
    return files
