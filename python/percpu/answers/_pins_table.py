"""The table of `pins`: one row a chunk, with the verdict about its empty pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu.answers._freeing import PageCosts
from percpu.answers._pinned import KINDS, LISTS, View

__all__ = ["VERDICTS", "main_of", "page_costs", "sum_of_least", "table"]

VERDICTS = (
    "boot",
    "whole_only",
    "kept",
    "goes",
    "at_once",
    "next_free",
    "few_elsewhere",
    "too_few_empty",
    "last_area",
)
"""What the worker does about the empty pages of a chunk; see `Pins`."""

_STOCK = 4


def page_costs(view: View, row: int, most: int | None) -> PageCosts:
    areas, pages = view.areas_of(row), view.pages_of(row)
    return PageCosts(
        view.areas["first_page"][areas],
        view.areas["last_page"][areas],
        view.pages["populated"][pages] == 1,
        view.pages["blocked"][pages] | (view.pages["populated"][pages] != 1),
        most,
    )


def _depopulation(view: View, row: int, nr_areas: int, empty: int) -> tuple[str, int | None, int | None]:
    """Return the verdict about the pages of a chunk, the fewest areas to free, and the pages that go then at least."""
    if view.chunks["kind"][row] != KINDS.index("ordinary"):
        return "boot", None, None
    isolated = bool(view.chunks["isolated"][row])
    if nr_areas == 0 and view.chunks["complete"][row] and not isolated:
        return "kept", None, None
    if not view.depopulates:
        return "whole_only", None, None
    if LISTS[view.chunks["list"][row]] == "to_depopulate" and empty:
        return "goes", None, None
    quarter = int(view.chunks["nr_pages"][row]) // 4
    elsewhere = (view.stock or 0) - (0 if isolated else empty)
    if elsewhere < (_STOCK if isolated else _STOCK + 1):
        return "few_elsewhere", None, None
    goal = max((1 if isolated else max(quarter, 1)) - empty, 0)
    costs = page_costs(view, row, goal)
    verdict = "at_once" if isolated else "next_free" if goal == 0 and quarter > 0 else "too_few_empty"
    if costs.most < goal or nr_areas == 0:
        return verdict, None, None
    fewest = max(int(costs.cost[goal]), 1)
    unseen = not view.chunks["complete"][row]
    # The last free of a chunk that is not isolated makes it a free chunk instead.
    if isolated or unseen or fewest < nr_areas or (quarter == 0 and fewest >= 2):
        return verdict, fewest, empty + goal
    return "last_area", None, None


def main_of(
    group: np.ndarray, site: np.ndarray, size: np.ndarray, n: int, nr_sites: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of `n` groups the call site with most bytes (-1: none is known), its bytes, and their number."""
    width = nr_sites + 1
    named = site >= 0
    pair, of = np.unique(group[named] * width + site[named], return_inverse=True)
    sums = np.bincount(of, size[named], len(pair)).astype(np.int64)
    main, most = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.int64)
    order = np.lexsort((-pair, sums))
    main[pair[order] // width], most[pair[order] // width] = pair[order] % width, sums[order]
    return main, most, np.bincount(pair // width, minlength=n)


def _most_within(values: list[int], limit: int) -> int:
    """Return the largest sum of some of the values that does not exceed the limit."""
    if limit <= 0:
        return 0
    reached = 1
    for value in values:
        reached |= reached << value
        reached &= (1 << (limit + 1)) - 1
    return reached.bit_length() - 1


def sum_of_least(one: np.ndarray, other: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the least sums of two tables by the sum of their indices, and the share of the second in each."""
    n = min(len(one) + len(other) - 2, most) + 1
    least = np.full(n, np.iinfo(np.int64).max)
    share = np.zeros(n, dtype=np.int64)
    for mine, cost in enumerate(other[:n].tolist()):
        to = min(mine + len(one), n)
        sums = one[: to - mine] + cost
        better = sums < least[mine:to]
        least[mine:to][better] = sums[better]
        share[mine:to][better] = mine
    return least, share


def table(facts: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the table is made of, and the summary."""
    view: View = facts["view"]
    c = view.chunks
    n = len(c["chunk"])
    areas, pages = view.areas, view.pages
    nr_areas = np.bincount(areas["chunk"], minlength=n)[:n]
    used = np.bincount(areas["chunk"], areas["size_bytes"], n).astype(np.int64)[:n]
    on = pages["populated"] == 1
    populated = np.bincount(pages["chunk"][on], minlength=n)[:n]
    unknown = np.bincount(pages["chunk"], pages["unknown"], n).astype(np.int64)[:n]
    empty = c["empty_pages"]
    verdicts, fewest, going = [], [], []
    for row in range(n):
        verdict, least, most = _depopulation(view, row, int(nr_areas[row]), int(empty[row]))
        if verdict == "kept" and facts["now_pages"][row] == populated[row] > 0:
            verdict = "goes"
        verdicts.append(VERDICTS.index(verdict))
        fewest.append(-1 if least is None else least)
        going.append(-1 if most is None else most)
    main, main_bytes, _ = main_of(areas["chunk"], areas["site"], areas["size_bytes"], n, len(view.sites))
    oldest = np.full(n, -1, dtype=np.int64)
    np.maximum.at(oldest, areas["chunk"], areas["age_ns"])
    ordinary = c["kind"] == KINDS.index("ordinary")
    page_bytes = view.page_size * view.cpus
    columns: dict[str, Any] = {
        "chunk": c["chunk"],
        "base_addr": c["base_addr"],
        "kind": c["kind"],
        "list": c["list"],
        "complete": c["complete"],
        "nr_areas": nr_areas,
        "used_bytes": used,
        "unknown_bytes": unknown,
        "unseen_areas": np.maximum(c["unseen_areas"], 0),
        "unseen_bytes": np.maximum(c["unseen_bytes"], 0),
        "nr_pages": c["nr_pages"],
        "populated_pages": populated,
        "empty_pages": empty,
        "populated_bytes": populated * page_bytes,
        "release_areas": nr_areas + np.maximum(c["unseen_areas"], 0),
        "verdict": np.array(verdicts, dtype=np.int64),
        "depopulate_areas": np.maximum(fewest, 0).astype(np.int64),
        "depopulate_pages": np.maximum(going, 0).astype(np.int64),
        "now_pages": facts["now_pages"],
        "main_site": np.maximum(main, 0),
        "main_bytes": main_bytes,
        "oldest_age_ns": np.maximum(oldest, 0),
    }
    mask = {
        "release_areas": ~((c["unseen_areas"] >= 0) & ordinary),
        "unseen_areas": c["unseen_areas"] < 0,
        "unseen_bytes": c["unseen_areas"] < 0,
        "depopulate_areas": np.array(fewest, dtype=np.int64) < 0,
        "depopulate_pages": np.array(going, dtype=np.int64) < 0,
        "main_site": main < 0,
        "main_bytes": main < 0,
        "oldest_age_ns": oldest < 0,
    }
    categories = {"kind": KINDS, "list": LISTS, "verdict": VERDICTS, "main_site": view.sites or [""]}
    waiting = columns["verdict"] == VERDICTS.index("next_free")
    served = int((pages["used_bytes"] + pages["unknown"]).sum())
    summary = {
        "source": facts["source"],
        "kernel": view.kernel,
        "cpus": view.cpus,
        "cpus_from": facts["cpus_from"],
        "nr_units": facts["nr_units"],
        "unit_size": view.unit_size,
        "page_size": view.page_size,
        "nr_chunks": n,
        "nr_areas": int(nr_areas.sum()),
        "used_bytes": int(used.sum()),
        "unknown_bytes": int(unknown.sum()),
        "seen_share": 1.0 if not served else int(used.sum()) / served,
        "populated_pages": int(populated.sum()),
        "empty_pages": int(empty.sum()),
        "populated_bytes": int(populated.sum()) * page_bytes,
        "pages_from": view.pages_from,
        "stock_pages": view.stock,
        "nr_diverged": facts.get("nr_diverged", 0),
        "nr_outside": facts.get("nr_outside", 0),
        "now_pages": int(facts["now_pages"].sum()),
        "now_chunks": facts["now_chunks"],
        "waiting_pages": _most_within(empty[waiting].tolist(), (view.stock or 0) - _STOCK - 1),
    }  # fmt: skip
    parts = {
        "columns": columns,
        "mask": {name: flags for name, flags in mask.items() if flags.any()},
        "categories": categories,
        "attrs": summary,
    }
    return parts, summary
