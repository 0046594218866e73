"""How many possible CPUs a trace is of: what its columns say, judged as for `owners`."""

from __future__ import annotations

import os

import numpy as np

from percpu.answers._machine import possible_cpus
from percpu.layout import FirstChunkLayout
from percpu.trace import Trace

__all__ = ["cpus_of_trace"]


def cpus_of_trace(
    trace: Trace, given: int | None, layout: FirstChunkLayout | None, path: str | os.PathLike[str] | None
) -> tuple[int, str]:
    """Return the number of possible CPUs, and where it comes from.

    Where nothing tells it, it is taken for the number of the highest CPU that wrote an event, and one.
    """
    cpu = trace["cpu"][~trace.missing("cpu")]
    top = int(cpu.max(initial=0)) if len(cpu) else None
    told = ~trace.missing("alloc_bytes") & (trace["size_bytes"] > 0)
    size, total = trace["size_bytes"][told], trace["alloc_bytes"][told]
    whole = (total >= size) & (total % np.maximum(size, 1) == 0)
    quotients = (total // np.maximum(size, 1))[whole]
    addresses = trace["base_addr"][~trace.missing("base_addr")]
    factor = {
        "max_cpu": top,
        "quotients": (int(quotients.min()), int(quotients.max())) if len(quotients) else None,
        "wide": bool(trace.attrs["hashed"] or (addresses >> np.uint64(32)).any()),
    }
    found = possible_cpus(given, layout, None, path, trace.geometry, factor)
    if found.number is None:
        return 1 if top is None else top + 1, "the highest CPU that wrote an event; there may be more"
    return found.number, found.source
