"""Figures from result types. Matplotlib is imported by the functions, and each returns the Axes."""

from percpu.plot.chunk import plot_chunk
from percpu.plot.compare import plot_comparison
from percpu.plot.layout import plot_address_space, plot_layout, plot_waste
from percpu.plot.owners import plot_owners
from percpu.plot.stats import plot_stats
from percpu.plot.pins import plot_pins
from percpu.plot.sweep import plot_sweep
from percpu.plot.timeline import plot_timeline

__all__ = [
    "plot_address_space",
    "plot_chunk",
    "plot_comparison",
    "plot_layout",
    "plot_owners",
    "plot_stats",
    "plot_pins",
    "plot_sweep",
    "plot_timeline",
    "plot_waste",
]
