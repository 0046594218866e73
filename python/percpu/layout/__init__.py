"""Topology of a machine, the first chunk on it, and the address space of later chunks.

`topology` reads machines, `first_chunk` computes layouts, `explain` says why, `boot_log` goes back from a log,
`vmalloc` is the address space, `machines` sweeps over many.
"""

from percpu.layout.explain import LayoutExplanation
from percpu.layout.first_chunk import FirstChunkLayout, Group, Region, architectures
from percpu.layout.machines import MACHINES, layout_sweep
from percpu.layout.recover import Recovery
from percpu.layout.topology import Topology
from percpu.layout.vmalloc import PlacedAreas, VmallocSpace

__all__ = [
    "MACHINES",
    "FirstChunkLayout",
    "Group",
    "LayoutExplanation",
    "PlacedAreas",
    "Recovery",
    "Region",
    "Topology",
    "VmallocSpace",
    "architectures",
    "layout_sweep",
]
