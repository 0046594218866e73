"""Figures from result types. Matplotlib is imported by the functions, and each returns the Axes."""

from percpu.plot.chunk import plot_chunk
from percpu.plot.compare import plot_comparison
from percpu.plot.costs import plot_costs
from percpu.plot.heatmap import ChunkHeat, chunk_heat, plot_heatmap
from percpu.plot.layout import plot_address_space, plot_layout, plot_waste
from percpu.plot.owners import plot_owners
from percpu.plot.pins import plot_pins
from percpu.plot.published import plot_bars, plot_published
from percpu.plot.slots import plot_slots, slot_name
from percpu.plot.stats import plot_stats
from percpu.plot.sweep import plot_sweep
from percpu.plot.timeline import plot_timeline
from percpu.plot.vmalloc import plot_vmalloc

__all__ = [
    "ChunkHeat",
    "chunk_heat",
    "plot_address_space",
    "plot_bars",
    "plot_chunk",
    "plot_comparison",
    "plot_costs",
    "plot_heatmap",
    "plot_layout",
    "plot_owners",
    "plot_pins",
    "plot_published",
    "plot_slots",
    "plot_stats",
    "plot_sweep",
    "plot_timeline",
    "plot_vmalloc",
    "plot_waste",
    "slot_name",
]
