"""How many possible CPUs a trace is of."""

from __future__ import annotations

import numpy as np

from percpu.trace import Trace

__all__ = ["possible_cpus"]


def possible_cpus(trace: Trace) -> tuple[int, str]:
    """Return the number of possible CPUs, and where it comes from.

    From 5.19 on an event tells the bytes of all copies: size times CPUs, and twice the size on top where memory cgroups
    are built in (specification 40 section 6). Which of both it is shows if the lower number is too small for a CPU that
    wrote an event; else the kernel is taken for one with memory cgroups, as all distributors build it. Without these
    bytes it is the number of the highest CPU that wrote an event, and one.
    """
    seen = 1
    if len(trace):
        cpu = trace["cpu"][~trace.missing("cpu")]
        seen = int(cpu.max(initial=0)) + 1
    told = ~trace.missing("alloc_bytes") & (trace["size_bytes"] > 0)
    size, total = trace["size_bytes"][told], trace["alloc_bytes"][told]
    if not len(size) or (total % size).any() or len(np.unique(total // size)) != 1:
        return seen, "the highest CPU that wrote an event; there may be more"
    factor = int(total[0] // size[0])
    if factor - 2 >= seen:
        return (
            factor - 2,
            f"bytes_alloc of the events, less what memory cgroups add ({factor} if they are not built in)",
        )
    return factor, "bytes_alloc of the events"
