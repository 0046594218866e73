"""The fewest areas whose freeing leaves pages or chunks without any: exact, with numpy.

Areas of one chunk do not overlap, so that in address order at most one of them lies across the border of two pages.
The least number of areas to free for ``j`` more empty pages is therefore found page by page, knowing of the page before
only whether the area across the border is freed. Chunks share no area: for a number of chunks those with the fewest
areas are taken (two chunks, one taken and one not, can be exchanged); for a number of pages it is a knapsack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["MAX_CHOICES", "PageCosts", "fewest_for_pages"]

_NEVER = np.int64(1) << 40
# Decisions kept to find the areas again: pages times numbers of pages.
_MAX_CELLS = 1 << 26
# The same of chunks times numbers of pages, for one question.
MAX_CHOICES = 1 << 28


@dataclass
class _Step:
    page: int
    before: int
    behind: int
    weight: int
    # Whether the most pages that are counted were reached before this page.
    stays: bool
    came_freed: np.ndarray | None
    emptied: np.ndarray | None


class PageCosts:
    """How many areas of a chunk have to be freed for how many more empty populated pages.

    Parameters
    ----------
    first, last : (n,) int arrays
        First and last page of each area, in address order; no two areas overlap.
    populated, blocked : (p,) bool arrays
        Pages that are backed by memory, and those that cannot become empty by freeing these areas.
    most : int, optional
        Largest number of pages that is asked for; all by default.

    Attributes
    ----------
    cost : (m + 1,) int64 array
        ``cost[j]``: fewest areas to free for at least ``j`` more empty populated pages.
    """

    # The last place of every table stands for so many pages and more.

    def __init__(
        self, first: np.ndarray, last: np.ndarray, populated: np.ndarray, blocked: np.ndarray, most: int | None = None
    ) -> None:
        n = len(populated)
        self._first, self._last = first, last
        alone = first == last
        self._inside = np.bincount(first[alone], minlength=n)
        across = np.full(n + 1, -1, dtype=np.int64)  # across[p + 1]: area over the border behind page p
        for index in np.flatnonzero(~alone):
            across[first[index] + 1 : last[index] + 1] = index
        busy = self._inside > 0
        busy |= (across[:-1] >= 0) | (across[1:] >= 0)
        pages = np.flatnonzero(busy)
        within = int((busy & populated & ~blocked).sum())
        if most is not None:
            within = min(within, most)
        within = max(min(within, _MAX_CELLS // max(len(pages), 1)), 0)
        self._steps: list[_Step] = []
        kept = np.full(within + 1, _NEVER)
        kept[0] = 0
        freed = np.full(within + 1, _NEVER)
        for page in pages.tolist():
            before, behind = int(across[page]), int(across[page + 1])
            weight = int(populated[page])
            if before >= 0 and before == behind:
                weight = 0 if blocked[page] else weight
                freed, stays = _add_pages(freed, weight)
                self._steps.append(_Step(page, before, behind, weight, stays, None, None))
                continue
            came_freed = freed < kept
            least = np.minimum(kept, freed)
            empty, stays = np.full(within + 1, _NEVER), False
            if not blocked[page]:
                empty, stays = _add_pages(freed if before >= 0 else kept, weight)
                empty = empty + self._inside[page]
            emptied = empty <= least
            best = np.minimum(least, empty)
            self._steps.append(_Step(page, before, behind, weight, stays, came_freed, emptied))
            kept, freed = (least, best + 1) if behind >= 0 else (best, np.full(within + 1, _NEVER))
        self._exact = kept
        cost = np.minimum.accumulate(kept[::-1])[::-1]
        self.cost = cost[: int((cost < _NEVER).sum())]

    @property
    def most(self) -> int:
        """Most pages that can be emptied, as far as was asked."""
        return len(self.cost) - 1

    def areas(self, pages: int) -> np.ndarray:
        """Return which areas to free for at least so many more empty pages, ascending."""
        at = pages + int(np.argmax(self._exact[pages:] == self.cost[pages]))
        taken: list[int] = []
        whole: list[int] = []
        is_freed = False
        for step in reversed(self._steps):
            if step.emptied is None or step.came_freed is None:
                at -= self._gained(step, at) if is_freed else 0
                continue
            # An area behind this page that is kept forbids to empty it.
            empty = bool(step.emptied[at]) and (is_freed or step.behind < 0)
            if is_freed:
                taken.append(step.behind)
            if empty:
                if self._inside[step.page]:
                    whole.append(step.page)
                at -= self._gained(step, at)
                is_freed = step.before >= 0
            else:
                is_freed = bool(step.came_freed[at])
        inside = np.flatnonzero((self._first == self._last) & np.isin(self._first, whole))
        return np.sort(np.concatenate([np.array(taken, dtype=np.int64), inside]))

    def _gained(self, step: _Step, at: int) -> int:
        return 0 if at == len(self._exact) - 1 and step.stays else step.weight


def _add_pages(values: np.ndarray, pages: int) -> tuple[np.ndarray, bool]:
    """Move a table up by 0 or 1 pages; its last place stands for so many pages and more."""
    if pages == 0:
        return values, False
    moved = np.full(len(values), _NEVER)
    moved[1:] = values[:-1]
    stays = bool(values[-1] <= moved[-1])
    moved[-1] = min(moved[-1], values[-1])
    return moved, stays


def fewest_for_pages(areas: Sequence[int], pages: Sequence[int], wanted: int) -> list[int] | None:
    """Choose chunks to empty: the fewest areas for `wanted` pages, where one of the chunks keeps its pages.

    Chunk ``i`` has ``areas[i]`` areas and ``pages[i]`` pages. Of the chunks chosen it may be the one with the most
    pages that stays; its pages do not count.

    Returns the chunks chosen, None if all of them do not suffice.
    """
    order = sorted(range(len(pages)), key=lambda i: (pages[i], areas[i], i))
    goal = max(wanted, 0)
    least = np.full(goal + 1, _NEVER)  # fewest areas for at least so many pages, of the chunks before
    least[0] = 0
    taken: list[np.ndarray] = []
    best: tuple[int, int] | None = None  # areas, and the place in `order` of the one that stays
    for place, index in enumerate(order):
        total = int(least[goal]) + areas[index]
        if least[goal] < _NEVER and (best is None or total < best[0]):
            best = (total, place)
        with_it = np.full(goal + 1, _NEVER)
        gain = min(pages[index], goal)
        with_it[gain:] = least[: goal + 1 - gain] + areas[index]
        with_it[:gain] = areas[index]  # alone it brings more than enough
        better = with_it < least
        taken.append(better)
        least = np.where(better, with_it, least)
    if best is None:
        return None
    chosen = [order[best[1]]]
    left = goal
    for place in range(best[1] - 1, -1, -1):
        if left > 0 and taken[place][left]:
            chosen.append(order[place])
            left = max(left - pages[order[place]], 0)
    return chosen
