"""A laboratory for the Linux per-CPU memory allocator: every placement, hint and counter, bit for bit.

Start with `Allocator`; see `docs/design.md` for the model and `docs/fidelity.md` for what was proven.
"""

from percpu import distributions, engines, plot, workloads
from percpu._core import NULL, __version__
from percpu.allocator import Allocator, AllocBatch, Area, Chunk, Chunks, kernels
from percpu.answers.cost import cost
from percpu.answers.explain import Explained, Explanation, explain
from percpu.answers.owners import Owners, owners
from percpu.answers.owners_compare import OwnersComparison, compare_owners
from percpu.answers.pins import Freeing, Pins, pins
from percpu.compare import Comparison, compare
from percpu.costs import counters
from percpu.errors import (
    AllocError,
    CaptureError,
    InvalidAddress,
    InvalidFree,
    InvalidRequest,
    LayoutError,
    NotKept,
    PercpuError,
    StaleChunk,
    StateError,
    TraceError,
    VerifyError,
)
from percpu.kallsyms import Kallsyms, read_kallsyms
from percpu.layout import (
    MACHINES,
    FirstChunkLayout,
    Group,
    LayoutExplanation,
    PlacedAreas,
    Recovery,
    Region,
    Topology,
    VmallocSpace,
    architectures,
    layout_sweep,
)
from percpu.record import Capture, bpftrace_program, record
from percpu.replay import Follow, Replay, Rerun, replay
from percpu.report import Report, report
from percpu.results import Result
from percpu.stats import PercpuStats, compare_chunks, compare_stats, read_percpu_stats
from percpu.steps import Rule, Step, Steps, steps
from percpu.summary import TraceSummary
from percpu.sweep import Sweep, sweep
from percpu.trace import Trace, iter_trace, read_trace

__all__ = [
    "MACHINES",
    "NULL",
    "AllocBatch",
    "AllocError",
    "Allocator",
    "Area",
    "Capture",
    "CaptureError",
    "Chunk",
    "Chunks",
    "Comparison",
    "Explained",
    "Explanation",
    "FirstChunkLayout",
    "Follow",
    "Freeing",
    "Group",
    "InvalidAddress",
    "InvalidFree",
    "InvalidRequest",
    "Kallsyms",
    "LayoutError",
    "LayoutExplanation",
    "NotKept",
    "Owners",
    "OwnersComparison",
    "PercpuError",
    "PercpuStats",
    "Pins",
    "PlacedAreas",
    "Recovery",
    "Region",
    "Replay",
    "Report",
    "Rerun",
    "Result",
    "Rule",
    "StaleChunk",
    "StateError",
    "Step",
    "Steps",
    "Sweep",
    "Topology",
    "Trace",
    "TraceError",
    "TraceSummary",
    "VerifyError",
    "VmallocSpace",
    "__version__",
    "architectures",
    "bpftrace_program",
    "compare",
    "compare_chunks",
    "compare_owners",
    "compare_stats",
    "cost",
    "counters",
    "distributions",
    "engines",
    "explain",
    "iter_trace",
    "kernels",
    "layout_sweep",
    "owners",
    "pins",
    "plot",
    "read_kallsyms",
    "read_percpu_stats",
    "read_trace",
    "record",
    "replay",
    "report",
    "steps",
    "sweep",
    "workloads",
]
