"""Why a layout came out as it did, what it costs, and what would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from percpu.layout.first_chunk import FirstChunkLayout

__all__ = ["LayoutExplanation"]

_VERDICTS = {
    "wasteful": "rejected: more holes than a third of the CPUs ({limit})",
    "replaced": "taken for a time: a smaller number needs no more allocations",
    "taken": "taken",
    "more_allocs": "ends the search: needs more allocations",
    "not_reached": "not looked at",
}


def _bytes(n: int) -> str:
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n >= size:
            return f"{n / size:.4g} {unit}"
    return f"{n} B"


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    cells = [head, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    last = len(head) - 1
    lines = []
    for row in cells:
        parts = [c.ljust(w) if i == last else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(("  " + "  ".join(parts)).rstrip())
    return lines


class LayoutExplanation:
    """Everything that can be said about a layout. Made by `FirstChunkLayout.explain`.

    Every key of `to_dict` is an attribute as well. Sizes are bytes.

    Attributes
    ----------
    layout : FirstChunkLayout
        What is explained.
    asked, used : str
        The first-chunk allocator that was asked for, and the one that made the chunk.
    candidates : list of dict
        ``units_per_alloc``, ``unit_size``, ``nr_allocs``, ``nr_wasted``, ``verdict`` (``wasteful``, ``replaced``,
        ``taken``, ``more_allocs``, ``not_reached``), largest first.
    groups : list of dict
        ``node``, ``nr_cpus``, ``nr_units``, ``asked_bytes``, ``kept_bytes``, ``hole_bytes``, ``tail_bytes``.
    per_cpu, per_node, total : dict
        Bytes in use: of one CPU, by node, and of all CPUs; and the bytes of CPUs that are not online.
    reach : dict or None
        ``max_distance_bytes`` of the groups, ``limit_bytes`` and ``vmalloc_bytes``.
    mappings : list of dict
        For embed, page and lpage: ``tlb_entries`` of one CPU's part, ``extra_tlb_entries`` that exist for it only,
        ``doubly_mapped_bytes`` and the part of them that belongs to others (``doubly_mapped_foreign_bytes``),
        ``kept_bytes``.
    other_atoms, other_cpus : list of dict
        ``atom_size``, ``nr_cpus``, ``unit_size``, ``nr_units``, ``nr_holes`` of other machines.
    """

    def __init__(self, layout: FirstChunkLayout, found: dict[str, Any]) -> None:
        self.layout = layout
        topology = layout.topology
        record = layout._core.record()
        served = record["unit_size"] if found["used"] == "page" else record["size_sum"]
        per_node: dict[int, int] = {}
        total = sum(group["kept_bytes"] for group in found["groups"])
        nr_cpus = max(topology.nr_cpus, 1)
        nodes, counts = _count(topology)
        for node, count in zip(nodes, counts, strict=True):
            per_node[node] = total // nr_cpus * count
        offline = nr_cpus - topology.nr_online
        self._found = {
            **found,
            "per_cpu": {
                "first_chunk_bytes": total // nr_cpus,
                "served_bytes": record["size_sum"],
                "unit_bytes": record["unit_size"],
                "unused_bytes": served - record["size_sum"],
            },
            "per_node": per_node,
            "total": {
                "first_chunk_bytes": total,
                "asked_bytes": sum(group["asked_bytes"] for group in found["groups"]),
                "hole_bytes": sum(group["hole_bytes"] for group in found["groups"]),
                "tail_bytes": sum(group["tail_bytes"] for group in found["groups"]),
                "offline_bytes": total // nr_cpus * offline,
            },
        }

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_found"][name]
        except KeyError:
            raise AttributeError(f"LayoutExplanation has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._found})

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dictionaries and lists.

        Returns
        -------
        dict
            Strings, integers, lists and dictionaries: what JSON holds.
        """
        return {"layout": {k: v for k, v in self.layout._core.record().items() if k != "vm_area"}, **self._found}

    def plot(self, ax: Any = None) -> Any:
        """Draw the layout: groups as rows, units as cells; see `percpu.plot.plot_layout`.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.
        """
        return self.layout.plot(ax=ax)

    def __repr__(self) -> str:
        return f"LayoutExplanation({self.layout!r})"

    def _repr_html_(self) -> str:
        import html

        return f"<div>{self.layout._repr_html_()}<pre>{html.escape(str(self))}</pre></div>"

    def __str__(self) -> str:
        return "\n".join([*self._chosen(), *self._sizes(), *self._why(), *self._costs(), *self._otherwise()])

    def _chosen(self) -> list[str]:
        layout, topology = self.layout, self.layout.topology
        first = (
            f"{topology.nr_cpus} CPUs on {topology.nr_nodes} nodes, kernel {layout.release}: {layout.nr_units} units "
            f"of {_bytes(layout.unit_size)} in {len(layout.groups)} groups, {layout.nr_holes} holes; "
            f"made by {self.used}"
        )
        if not self.candidates:
            return [first]
        limit = self.waste_limit
        taken = "" if self.used == "embed" else " (what embedding would choose)"
        rows = [
            [
                c["units_per_alloc"],
                _bytes(c["unit_size"]),
                c["nr_allocs"],
                c["nr_wasted"],
                _VERDICTS[c["verdict"]].format(limit=limit),
            ]
            for c in self.candidates
        ]
        return [
            first,
            "",
            f"Units per allocation of {_bytes(self.alloc_size)}{taken}: fewest allocations, at most {limit} holes",
            *_table(["units", "unit", "allocations", "holes", ""], rows),
        ]

    def _sizes(self) -> list[str]:
        layout, total, cpu = self.layout, self.total, self.per_cpu
        lines = [
            "",
            f"A unit of {layout.unit_size} bytes: static {layout.static_size}, reserved {layout.reserved_size}, "
            f"dynamic {layout.dyn_size} ({self.dyn_padding_bytes} padding, "
            f"{self.dyn_raised_bytes} from the early minimum), "
            f"{self.unit_tail_bytes} behind them",
            *_table(
                ["group", "node", "CPUs", "units", "asked", "in use", "holes", "tails"],
                [
                    [i, g["node"], g["nr_cpus"], g["nr_units"]]
                    + [_bytes(g[k]) for k in ("asked_bytes", "kept_bytes", "hole_bytes", "tail_bytes")]
                    for i, g in enumerate(self.groups[:16])
                ],
            ),
        ]
        if len(self.groups) > 16:
            lines.append(f"  and {len(self.groups) - 16} groups more")
        lines.append(
            f"  In use: {_bytes(cpu['first_chunk_bytes'])} a CPU, {_bytes(total['first_chunk_bytes'])} in all; every "
            f"later chunk takes {_bytes(self.later_areas_bytes)} of address space"
        )
        if len(self.per_node) > 1:
            nodes = [f"node {node} {_bytes(size)}" for node, size in list(self.per_node.items())[:16]]
            lines.append("  By node: " + ", ".join(nodes) + (", ..." if len(self.per_node) > 16 else ""))
        if total["offline_bytes"]:
            offline = layout.topology.nr_cpus - layout.topology.nr_online
            lines.append(
                f"  Of that {_bytes(total['offline_bytes'])} for {offline} possible CPUs that are not online; "
                "every later page is multiplied in the same way"
            )
        return lines

    def _why(self) -> list[str]:
        if self.reach is not None:
            distance, limit = self.reach["max_distance_bytes"], self.reach["limit_bytes"]
            return [
                "",
                f"Embedded: the groups span {_bytes(distance)}, {'within' if distance <= limit else 'beyond'} three "
                f"quarters ({_bytes(limit)}) of the vmalloc space",
            ]
        log = self.layout.boot_log()
        if "falling back" in log:
            reason = next(line for line in log.splitlines() if "falling back" in line)
            return ["", f"Not embedded: {reason}"]
        words = {
            "page": "Mapped page by page, as asked for: one group, pages as atoms, the least dynamic size",
            "lpage": "Large pages of each node, mapped a second time side by side",
            "up": "A kernel for one CPU: one unit, pointers are addresses",
            "embed": "One block for all CPUs",
        }
        return ["", words[self.used]]

    def _costs(self) -> list[str]:
        if not self.mappings:
            return []
        rows = [
            [m["name"], m["tlb_entries"], m["extra_tlb_entries"]]
            + [_bytes(m[k]) for k in ("doubly_mapped_bytes", "doubly_mapped_foreign_bytes", "kept_bytes")]
            for m in self.mappings
        ]
        head = ["", "TLB entries a CPU", "of its own", "mapped twice", "of others", "in use"]
        return ["", "What each way to map it costs", *_table(head, rows)]

    def _otherwise(self) -> list[str]:
        def rows(others: list[dict[str, int]], key: str) -> list[list[Any]]:
            own = {"atom_size": self.layout.atom_size, "nr_cpus": self.layout.topology.nr_cpus}[key]
            show = _bytes if key == "atom_size" else str
            return [
                [show(o[key]), _bytes(o["unit_size"]), o["nr_units"], o["nr_holes"], "<- this one" * (o[key] == own)]
                for o in others
            ]

        if not self.other_atoms:
            return []
        return [
            "",
            "With another atom",
            *_table(["atom", "unit", "units", "holes", ""], rows(self.other_atoms, "atom_size")),
            "",
            "With more or fewer CPUs in the last group",
            *_table(["CPUs", "unit", "units", "holes", ""], rows(self.other_cpus, "nr_cpus")),
        ]


def _count(topology: Any) -> tuple[list[int], list[int]]:
    import numpy as np

    nodes, counts = np.unique(topology.cpu_to_node[topology.cpu_to_node >= 0], return_counts=True)
    return nodes.tolist(), counts.tolist()
