"""The extension module. Public API, docstrings and argument checks are in the .py files of the package."""

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

__all__ = [
    "COSTS",
    "EVENT_KINDS",
    "MESSAGE_KINDS",
    "NULL",
    "OUTCOMES",
    "OWNERS_BY",
    "REASONS",
    "RESERVED",
    "THRESHOLDS",
    "Allocator",
    "Areas",
    "CallSiteFilter",
    "Calls",
    "FirstChunkLayout",
    "Follow",
    "Judge",
    "Owners",
    "PercpuStats",
    "Replay",
    "Rerun",
    "Source",
    "Steps",
    "Symbols",
    "Trace",
    "TraceReader",
    "TraceSummary",
    "TraceWriter",
    "VmallocSpace",
    "Workload",
    "WorkloadRun",
    "__version__",
    "architectures",
    "check_changes",
    "closed_world",
    "find_messages",
    "fit_workload",
    "follow",
    "follow_blocks",
    "kernels",
    "owners",
    "parse_boot_log",
    "preset_of",
    "procedures",
    "read_percpu_stats",
    "recover_boot_log",
    "replay",
    "rerun",
    "rerun_blocks",
    "rerun_engine",
    "rules",
    "run_workload",
    "search_of",
    "sweep_machines",
    "sweep_points",
    "workload_of_trace",
]
__version__: Final[str]
# Pointer of no area.
NULL: Final[int]
# Stands for the reserved chunk where a chunk number is wanted.
RESERVED: Final[int]
# (name, the kernel's text) of each reason; code k is element k - 1.
REASONS: Final[tuple[tuple[str, str], ...]]
# (name, unit, text, counted only under full counting) of each work counter.
COSTS: Final[tuple[tuple[str, str, str, bool], ...]]
# Name and the kernel's value.
THRESHOLDS: Final[tuple[tuple[str, int], ...]]
# Names of the codes in the column `outcome` of a trace that was followed.
OUTCOMES: Final[tuple[str, ...]]
# What areas can be grouped by in `owners`.
OWNERS_BY: Final[tuple[str, ...]]
# Names of the codes in the column `kind` of a trace.
EVENT_KINDS: Final[tuple[str, ...]]

# Kinds of messages that `find_messages` tells apart.
MESSAGE_KINDS: Final[tuple[str, ...]]

# Messages of the allocator in a log: (line number, message, kind, values as JSON) of each; (line number, line) of those
# that speak of per-CPU memory and are none; the number of other lines.
def find_messages(text: str) -> tuple[list[tuple[int, str, str, str]], list[tuple[int, str]], int]: ...

# (release, engine, status) of each preset, oldest first.
def kernels() -> list[tuple[str, str, str]]: ...

# (name, meaning, section of the specification, value in linux-4.14, linux-5.2, linux-5.14).
def rules() -> list[tuple[str, str, str, bool, bool, bool]]: ...

# What a boot log shows of the set-up, None where it does not: static_size, reserved_size, dyn_size, unit_size,
# atom_size, nr_cpu_ids, groups (lists of cpu or None for a hole); lines: the lines of the set-up.
def parse_boot_log(text: str) -> dict[str, Any]: ...

# Rows of the table of architectures: arch (names), variant, since, until, word_bits, page_sizes, atom, has_reserved,
# distances, page_since, automatic.
def architectures() -> list[dict[str, Any]]: ...

# The preset of the engine that a release had; None if it is no release or too old.
def preset_of(kernel: str) -> str | None: ...

# The search for address space that a release has.
def search_of(kernel: str) -> str: ...

# What a log leads to (settings, cpu_to_node, flat, inputs, differences, lines, topology_known, from_release); or None
# and what is missing.
def recover_boot_log(
    text: str,
    arch: str | None,
    kernel: str | None,
    page_size: int | None,
    parameter: str | None,
    cpu_to_node: NDArray[np.int32] | None,
    cpu_distances: NDArray[np.uint32] | None,
    node_distances: NDArray[np.uint32] | None,
    flat: bool,
) -> tuple[dict[str, Any] | None, str | None]: ...

# points: nr_cpus, nr_online, nr_nodes, static, reserved, dynamic, atom, page. Columns over them, and the error of each
# point that has none.
def sweep_machines(
    kernel: str, word_bits: int, points: list[NDArray[np.uint64]], threads: int | None
) -> tuple[dict[str, NDArray[np.uint64]], list[str | None]]: ...

# The debugfs text percpu_stats of any kernel. Raises TraceError.
def read_percpu_stats(text: str) -> PercpuStats: ...

# Predicts the trace from the allocator's state, and leaves the allocator at its end; unchanged if it raises.
# progress, here and below: called now and then with the number of events read.
def replay(trace: Trace, allocator: Allocator, sample_every: int, progress: Callable[[int], Any] | None) -> Replay: ...

# Makes the trace's requests and frees on any engine, and leaves the allocator at its end; unchanged if it raises.
def rerun(trace: Trace, allocator: Allocator, sample_every: int, progress: Callable[[int], Any] | None) -> Rerun: ...

# The same of a trace in blocks; what came of single requests is not kept.
def rerun_blocks(
    blocks: Iterator[Trace], allocator: Allocator, sample_every: int, progress: Callable[[int], Any] | None
) -> Rerun: ...

# An allocator in the state that a trace suggests for its start.
def closed_world(
    trace: Trace,
    kernel: str,
    unit_size: int,
    nr_units: int,
    page_size: int,
    stats: str | None,
    balance_every: int,
) -> Allocator: ...

# Follows a trace without a start state. granule 0: inferred. boot: offset of the first chunk's base in the unit, hidden
# bytes before what it serves, their number; without it from the statistics.
def follow(
    trace: Trace,
    unit_size: int | None,
    granule: int,
    boot: tuple[int, int, int] | None,
    page_size: int,
    stats: str | None,
    stats_end: str | None,
    sample_every: int,
    progress: Callable[[int], Any] | None,
) -> Follow: ...

# The same of a trace in blocks; only what is live is kept.
def follow_blocks(
    blocks: Iterator[Trace],
    unit_size: int | None,
    granule: int,
    boot: tuple[int, int, int] | None,
    page_size: int,
    stats: str | None,
    stats_end: str | None,
    sample_every: int,
    progress: Callable[[int], Any] | None,
) -> Follow: ...

# Follows a trace, whole (one block) or in blocks, and tells owners apart. by: index in OWNERS_BY. prior: base address,
# offset and size of the areas that were live before, bytes. The others as of `follow`.
def owners(
    blocks: Iterator[Trace],
    whole: bool,
    by: int,
    prior: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]] | None,
    symbols: Symbols | None,
    unit_size: int | None,
    granule: int,
    boot: tuple[int, int, int] | None,
    page_size: int,
    stats: str | None,
    stats_end: str | None,
    progress: Callable[[int], Any] | None,
) -> tuple[Follow, Owners]: ...

# (name, summary, parameters, phases) of each workload; a parameter is (name, "number", "list" or "word", default or
# None, the words, meaning).
def procedures() -> list[tuple[str, str, list[tuple[str, str, Any, list[str], str]], list[str]]]: ...

# A mixture of n objects like the requests of the trace. Raises TraceError, InvalidRequest.
def fit_workload(trace: Trace, n: int, seed: int) -> Workload: ...

# Requests and frees of a trace. Raises InvalidRequest.
def workload_of_trace(trace: Trace) -> Workload: ...

# Runs a workload, and leaves the allocator at its end; unchanged if it raises.
def run_workload(workload: Workload, allocator: Allocator, places: bool, split: bool) -> WorkloadRun: ...

# Raises InvalidRequest if requests cannot be changed like this.
def check_changes(align: int | None, min_align: int | None, size_multiple: int | None, atomic: bool | None) -> None: ...

# Runs points on threads, 0 = one for each core. A point is (index, source, subject, changes): the subject an Allocator,
# which is not changed, or (engine in Python, unit_size, nr_units, page_size); changes as of check_changes. done gets
# (index, row, None, None) or (index, None, text, exception or None), as results come. Points are taken, and done is
# called, on the caller's thread. Columns of a row: nr_steps, alloc_ns and free_ns (with timing), counts, peak_* and
# end_*; cost_* (costs: "off", "totals" or "full"); phases: a list of rows (with phases), samples: one every so many
# steps.
def sweep_points(
    points: Iterable[tuple[Any, ...]],
    done: Callable[[int, dict[str, Any] | None, str | None, BaseException | None], None],
    threads: int,
    timing: bool,
    phases: bool,
    sample_every: int,
    costs: str,
) -> None: ...

# Makes the steps of a trace with (engine in Python, unit_size, nr_units, page_size). Returns event uint32, reason
# uint8, chunk uint32, off_bytes uint64 of each request, and the row of sweep_points. Raises what the engine raises, and
# VerifyError.
def rerun_engine(
    source: Source, engine: tuple[Any, int, int, int], sample_every: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]: ...

# Steps over object numbers.
@final
class Source:
    @staticmethod
    def of_trace(trace: Trace) -> Source: ...
    @staticmethod
    def of_workload(workload: Workload) -> Source: ...
    # What columns() returned; raises InvalidRequest if they are no such steps.
    @staticmethod
    def from_columns(
        op: NDArray[np.uint8],
        id: NDArray[np.uint32],
        size: NDArray[np.uint32],
        align: NDArray[np.uint32],
        phases: list[str],
        unseen_frees: int,
    ) -> Source: ...
    # op uint8 (0 alloc, 1 free, 2 phase, 3 balance; 4 atomic, 8 reserved), id (object or phase), size, align uint32;
    # None for a workload, which stores none.
    def columns(self) -> dict[str, NDArray[Any]] | None: ...
    # Of each step the event that it comes from; empty if it is not of a trace.
    def events(self) -> NDArray[np.uint32]: ...
    # nr_steps (None for a workload), nr_free_unseen, nr_free_lost, phases.
    def info(self) -> dict[str, Any]: ...

# Whether what an engine answers is legal.
@final
class Judge:
    def __new__(cls, unit_size: int, nr_units: int, page_size: int) -> Judge: ...
    # The text of the objection, or None.
    def take(self, offset: int, size: int, align: int) -> str | None: ...
    # False if no live area starts there.
    def give_back(self, offset: int) -> bool: ...
    # Live areas, their bytes, populated bytes of one unit, chunks.
    def held(self) -> tuple[int, int, int, int]: ...

@final
class Areas:
    def __new__(cls, offsets: list[int], sizes: list[int], align: int, page_size: int) -> Areas: ...
    @staticmethod
    def of_layout(layout: FirstChunkLayout) -> Areas: ...
    # Start and end of each at a base; None if they leave the address space.
    def ranges(self, base: int) -> list[tuple[int, int]] | None: ...

@final
class VmallocSpace:
    def __new__(
        cls,
        search: str,
        start: int,
        end: int,
        page_size: int,
        lazy_free: bool,
        lazy_threshold: int | None,
    ) -> VmallocSpace: ...
    def copy(self) -> VmallocSpace: ...
    def equals(self, other: VmallocSpace) -> bool: ...
    # search, start, end, page_size, lazy_free, lazy_threshold, hint, lazy_pages.
    def config(self) -> tuple[str, int, int, int, bool, int | None, int, int]: ...
    def busy(self) -> list[tuple[int, int, bool]]: ...
    def free_blocks(self) -> list[tuple[int, int]]: ...
    def occupy(self, start: int, end: int) -> None: ...
    def release(self, start: int) -> None: ...
    def purge(self) -> int: ...
    def find(self, areas: Areas) -> int | None: ...
    # Base, areas looked at, whether a purge was needed.
    def alloc(self, areas: Areas) -> tuple[int, int, bool]: ...
    def free(self, areas: Areas, base: int) -> None: ...
    def inject(self, fault: str, area: int, calls: int) -> None: ...
    def restore(self, lazy: list[int], hint: int) -> None: ...
    def verify(self) -> None: ...

@final
class FirstChunkLayout:
    # settings: all keys of _DEFAULTS in layout/first_chunk.py; None stands for the default of the architecture or the
    # release. cpu_to_node: (nr_cpu_ids,) with -1 for ids that are not possible; cpu_distances: (n, n), node_distances:
    # (m, m); flat: no distances at all.
    @staticmethod
    def build(
        settings: dict[str, Any],
        cpu_to_node: NDArray[np.int32],
        cpu_distances: NDArray[np.uint32] | None,
        node_distances: NDArray[np.uint32] | None,
        flat: bool,
    ) -> FirstChunkLayout: ...
    # Keys of LayoutExplanation, without per_cpu, per_node and total.
    def explain(self) -> dict[str, Any]: ...
    # Bytes of a large page; linear and mapped address of each that is mapped a second time.
    def large_pages(self) -> tuple[int, list[tuple[int, int]]] | None: ...
    # kernel, first_chunk, page_size, static_size, reserved_size, dyn_size, unit_size, atom_size, alloc_size, nr_units,
    # nr_groups, nr_cpus, base_addr, size_sum.
    def record(self) -> dict[str, Any]: ...
    # (base_addr, start_offset, size, end_offset, nr_pages) of the first and of the reserved chunk, bytes and pages.
    def regions(self) -> tuple[tuple[int, int, int, int, int], tuple[int, int, int, int, int] | None]: ...
    # One per cpu id; unit_map is -1 for ids that are not possible.
    def unit_map(self) -> NDArray[np.int32]: ...
    def unit_offsets(self) -> NDArray[np.uint64]: ...
    # (base_offset, cpu_map) of each group; -1 in cpu_map is a hole.
    def groups(self) -> list[tuple[int, NDArray[np.int32]]]: ...
    # The kernel's lines, each ended by a newline.
    def boot_log(self) -> str: ...

# Single calls of an allocator: the base of `percpu.Allocator`, where they are documented.
@disjoint_base
class Calls:
    def __new__(cls, core: Allocator) -> Self: ...
    # Raises AllocError, InvalidRequest.
    def alloc(
        self,
        size: int,
        align: int = 4,
        *,
        atomic: bool = False,
        reserved: bool = False,
        nowarn: bool = False,
        accounted: bool = False,
    ) -> int: ...
    # size: only used by cpu_alloc-2008. Raises InvalidFree.
    def free(self, ptr: int, size: int | None = None) -> None: ...

@final
class Allocator:
    # balance_every: the worker runs after the operation that scheduled it (1), if scheduled after every k-th (k), or
    # only when told (0). backend: "vm" or "km".
    @staticmethod
    def on_layout(
        layout: FirstChunkLayout, balance_every: int, backend: str, vmalloc: VmallocSpace | None
    ) -> Allocator: ...
    # A copy of the vmalloc space that chunks lie in.
    def vmalloc(self) -> VmallocSpace | None: ...
    @staticmethod
    def plain(
        kernel: str,
        unit_size: int,
        nr_units: int,
        page_size: int,
        min_alloc_size: int,
        block_size: int,
        balance_every: int,
        backend: str,
    ) -> Allocator: ...
    # A recorded state file (JSON), plain or gzip.
    @staticmethod
    def from_state(data: bytes, kernel: str, balance_every: int) -> Allocator: ...
    @staticmethod
    def restore(data: bytes) -> Allocator: ...
    def snapshot(self) -> bytes: ...
    def copy(self) -> Allocator: ...
    # The whole state as recorded state files have it (JSON).
    def state_json(self) -> str: ...
    # Differences from a state file or snapshot, one line each; what only one side has is passed over.
    def differences(self, data: bytes, limit: int) -> list[str]: ...
    # engine, kernel, page_size, min_alloc_size, block_size, unit_size, nr_units, nr_slots, nr_cpus, balance_every,
    # backend, has_layout.
    def config(self) -> dict[str, Any]: ...

    # `every` is 0 for by hand, 1 for eager.
    def set_balance_policy(self, every: int, since: int) -> None: ...

    # Arrays of length n or 1; returns ptr, chunk, off_bytes, unit_off_bytes, reason, each (n,).
    def alloc_many(
        self,
        sizes: NDArray[np.uint64],
        aligns: NDArray[np.uint64],
        sleep: NDArray[np.uint8],
        reserved: bool,
        nowarn: bool,
        accounted: bool,
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]: ...
    # All or nothing: every pointer is checked before the first is freed.
    def free_many(self, ptrs: NDArray[np.uint64], sizes: NDArray[np.uint64] | None) -> None: ...
    # Totals in the order of COSTS; None where the engine counts nothing.
    def costs(self) -> list[int] | None: ...
    # 0 off, 1 totals, 2 full; None where the engine counts nothing.
    def counting(self) -> int | None: ...
    def set_counting(self, counting: int) -> None: ...
    # In the order of THRESHOLDS; None where there are none.
    def thresholds(self) -> list[int] | None: ...
    def set_thresholds(self, values: list[int]) -> None: ...
    # As alloc_many with arrays of one length; flags: reserved, nowarn, accounted. Also a row of COSTS for each request.
    def alloc_many_costed(
        self,
        sizes: NDArray[np.uint64],
        aligns: NDArray[np.uint64],
        sleep: NDArray[np.uint8],
        flags: tuple[bool, bool, bool],
    ) -> tuple[
        tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]],
        NDArray[np.uint64],
    ]: ...
    # As free_many; a row of COSTS for each free.
    def free_many_costed(self, ptrs: NDArray[np.uint64], sizes: NDArray[np.uint64] | None) -> NDArray[np.uint64]: ...
    # Runs the worker once; True if it was pending.
    def balance(self) -> bool: ...
    def balance_pending(self) -> bool: ...
    # How many more pages, mapping calls and chunks can be had; None = no limit.
    def set_supply(
        self, pages: int | None, mappings: int | None, chunks: int | None, extensions: int | None
    ) -> None: ...
    # As alloc, killed while it waits; flags are atomic, reserved, nowarn, nofail.
    def alloc_killed(self, size: int, align: int, flags: tuple[bool, bool, bool, bool]) -> int: ...

    # (chunk, off_bytes, unit_off_bytes, size_bytes).
    def locate(self, ptr: int) -> tuple[int, int, int, int]: ...
    # The same of the area at an address, and the cpu whose copy it is; None where no area is. Both raise
    # InvalidAddress where the engine cannot tell areas apart.
    def find(self, address: int) -> tuple[int, int, int, int, int] | None: ...
    def per_cpu_ptr(self, ptr: int, cpu: int) -> int: ...

    # Ascending creation numbers, without the reserved chunk.
    def chunk_numbers(self) -> NDArray[np.uint32]: ...
    def has_reserved(self) -> bool: ...
    # Creation numbers on each list, head first.
    def slots(self) -> list[NDArray[np.uint32]]: ...
    # Scalars under the kernel's names: base_addr, free_bytes, start_offset, end_offset, nr_pages, nr_populated,
    # nr_empty_pop_pages (None: not counted), nr_alloc, max_alloc_size, slot (None: on no list), immutable, isolated,
    # is_first, unit_off; of areamap contig_hint, first_free, map_alloc, has_reserved; of rfc-v1 contig_hint,
    # contig_hint_start, first_free_block, has_reserved; of cpu_alloc-2008 nr_units, first_free, cpu_bytes.
    # Raises StaleChunk, as all of the following; they raise NotKept where the engine has no such thing.
    def chunk_info(self, chunk: int) -> dict[str, Any]: ...
    def chunk_alloc_map(self, chunk: int) -> NDArray[np.bool_]: ...
    def chunk_alloc_words(self, chunk: int) -> NDArray[np.uint64]: ...
    def chunk_bound_map(self, chunk: int) -> NDArray[np.bool_]: ...
    def chunk_populated(self, chunk: int) -> NDArray[np.bool_]: ...
    # Names of the fields, and one row of int32 a block.
    def chunk_blocks(self, chunk: int) -> tuple[list[str], NDArray[np.int32]]: ...
    # The same for the chunk's own record: one row.
    def chunk_hints(self, chunk: int) -> tuple[list[str], NDArray[np.int32]]: ...
    # Start of each area in bytes and whether it is in use; the last row is the end (areamap).
    def chunk_area_map(self, chunk: int) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]: ...

    # Global counters, under the kernel's names.
    def stats(self) -> dict[str, int]: ...
    def stats_text(self) -> str: ...
    # Raises VerifyError.
    def verify(self) -> None: ...

@final
class Symbols:
    # Address, name, module (empty for the kernel itself) of each function, in any order.
    def __new__(cls, functions: list[tuple[int, str, str]]) -> Self: ...
    def __len__(self) -> int: ...
    # A call site in full, or as it is.
    def resolve(self, text: str) -> str: ...

@final
class Trace:
    def __len__(self) -> int: ...
    # Columns by name, each (n,), and for those with gaps where a value is missing: kind uint8, time_ns uint64, line
    # uint32, cpu uint16, reserved, atomic, empty_only bool, size_bytes, align_bytes, base_addr, off_bytes, ptr,
    # alloc_bytes, nr_lost uint64, first_page, end_page, call_site, gfp_flags uint32 (codes).
    def columns(self) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.bool_]]]: ...
    def call_sites(self) -> list[str]: ...
    def gfp_flags(self) -> list[str]: ...
    # (event index, text) of each marker.
    def markers(self) -> list[tuple[int, str]]: ...
    # (event index, text) of each event with fields that are not known here.
    def extra_fields(self) -> list[tuple[int, str]]: ...
    # format ("ftrace", "trace-cmd", "perf", "bpftrace", "columns" or None), clock ("microseconds", "nanoseconds",
    # "counter"), hashed, skipped_lines, damaged_lines, first_damage, lost_events, overwritten_events.
    def info(self) -> dict[str, Any]: ...
    @staticmethod
    def from_columns(
        columns: dict[str, NDArray[Any]],
        missing: dict[str, NDArray[np.bool_]],
        call_sites: list[str],
        gfp_flags: list[str],
        markers: list[tuple[int, str]],
        extra_fields: list[tuple[int, str]],
        bases: list[int],
        info: dict[str, Any],
    ) -> Trace: ...
    def slice(self, start: int, stop: int) -> Trace: ...
    # Event numbers, each below the length.
    def take(self, events: NDArray[np.uint32]) -> Trace: ...
    # One bool a call site: its allocations and the frees of their areas.
    def of_call_sites(self, wanted: list[bool]) -> Trace: ...
    # first <= time < end.
    def within(self, first: int, end: int) -> Trace: ...
    # By time, or one after the other.
    @staticmethod
    def join(traces: list[Trace], by_time: bool) -> Trace: ...
    # The trace, and the new values of addresses.
    def anonymise(
        self, seed: int, call_sites: bool, times: bool, addresses: list[int], unit_size: int | None
    ) -> tuple[Trace, list[int]]: ...
    def __eq__(self, other: object, /) -> bool: ...

# Any text form, plain, gzip or zstd. source: a path, "-" for standard input, or an object whose read(n) gives bytes.
# max_events None: 2^26.
@final
class TraceReader:
    def __new__(cls, source: Any, name: str, strict: bool, max_events: int | None) -> TraceReader: ...
    # A block of about so many events; None at the end.
    def next_block(self, events: int) -> Trace | None: ...
    def read_all(self) -> Trace: ...
    # Bytes of the file as it is stored, lines, events.
    def position(self) -> tuple[int, int, int]: ...
    def close(self) -> None: ...

# Writes ftrace text; compression: "", "gzip" or "zstd".
@final
class TraceWriter:
    def __new__(cls, path: str | PathLike[str], compression: str) -> TraceWriter: ...
    def write(self, block: Trace) -> None: ...
    def finish(self) -> None: ...

# Selects the allocations of call sites, and the frees of their areas, block by block of one trace.
@final
class CallSiteFilter:
    def __new__(cls) -> CallSiteFilter: ...
    # One bool a call site of the block's dictionary.
    def select(self, block: Trace, wanted: list[bool]) -> Trace: ...

@final
class TraceSummary:
    def __new__(cls) -> TraceSummary: ...
    # The next block of one trace.
    def add(self, block: Trace) -> None: ...
    # format, clock, hashed, nr_events, first_ns, last_ns (None without events), nr_chunks, nr_unseen_free, nr_live,
    # live_bytes, peak_live_bytes, lost_events, nr_losses, overwritten_events, skipped_lines, damaged_lines.
    def totals(self) -> dict[str, Any]: ...
    # kind uint8 (code), nr_events, first_ns, last_ns, bytes uint64.
    def kinds(self) -> dict[str, NDArray[Any]]: ...
    # Texts, and nr_alloc, nr_atomic, nr_free, requested_bytes, charged_bytes, nr_live, live_bytes, peak_live_bytes.
    def call_sites(self) -> tuple[list[str | None], dict[str, NDArray[np.uint64]]]: ...
    # CPUs, and nr_events, nr_alloc, nr_free, nr_lost.
    def cpus(self) -> tuple[list[int | None], dict[str, NDArray[np.uint64]]]: ...

@final
class Replay:
    # nr_events, nr_alloc, nr_failed, nr_free, nr_predicted, nr_diverged, nr_late, nr_background, nr_unexplained.
    def summary(self) -> dict[str, int]: ...
    # event, line, size_bytes, align_bytes, atomic, predicted, recorded, text.
    def first_divergence(self) -> dict[str, Any] | None: ...
    # One row a request: event uint32, ok bool (recorded), predicted bool (as recorded), predicted_ok bool, chunk
    # uint32, off_bytes uint64 (of the prediction; meaningful where predicted_ok).
    def events(self) -> dict[str, NDArray[Any]]: ...
    # One row a sample: event int64, time_ns uint64; after its last event nr_cur_alloc, live_bytes, populated_pages,
    # nr_chunks, nr_empty_pop_pages int64; of each min_ and max_ int64, mean_ float64.
    def timeline(self) -> dict[str, NDArray[Any]]: ...
    # The allocator after the first `event` events.
    def at(self, event: int) -> Allocator: ...
    # The rest of the trace rerun from there on; target None: on this state.
    def fork(
        self, event: int, target: Allocator | None, sample_every: int, progress: Callable[[int], Any] | None
    ) -> Rerun: ...

@final
class Rerun:
    # nr_events, nr_alloc, nr_failed, nr_free, nr_free_unseen, nr_free_of_failed, nr_free_lost, nr_served_only_here,
    # nr_comparable, nr_same_place, first_event, nr_carried, nr_not_carried.
    def summary(self) -> dict[str, int]: ...
    # One row a request: event uint32, recorded_ok bool, ok bool, reason uint8, chunk uint32, off_bytes uint64,
    # unit_off_bytes uint64 (meaningful where ok), recorded_unit_off_bytes uint64, recorded_known bool (whether it is).
    def events(self) -> dict[str, NDArray[Any]]: ...
    # As of Replay.
    def timeline(self) -> dict[str, NDArray[Any]]: ...
    # The allocator after the last event.
    def allocator(self) -> Allocator: ...
    def at(self, event: int) -> Allocator: ...
    def fork(
        self, event: int, target: Allocator | None, sample_every: int, progress: Callable[[int], Any] | None
    ) -> Rerun: ...

@final
class Follow:
    # nr_events, nr_alloc, nr_failed, nr_free, nr_freed_prior, nr_freed_lost, nr_missing_free, nr_illegal,
    # nr_after_loss, nr_losses, nr_lost, nr_live, nr_chunks, nr_chunks_created, nr_chunks_destroyed; total_bytes,
    # live_bytes, held_bytes, free_bytes, unknown_bytes; unseen_objects, unseen_bytes, unseen_min_bytes,
    # unseen_max_bytes (None without statistics); unit_size, unit_size_inferred, granule, hashed, clock,
    # first_time_ns, last_time_ns.
    def summary(self) -> dict[str, Any]: ...
    # Event, line (0: not from a file), outcome.
    def first_illegal(self) -> tuple[int, int, str] | None: ...
    # (n,) codes of OUTCOMES by event; empty if the trace was read in blocks.
    def outcomes(self) -> NDArray[np.uint8]: ...
    def call_sites(self) -> list[str]: ...
    # The areas that are live after the first `events` events: chunk, call_site uint32, base_addr, off_bytes,
    # size_bytes, max_size_bytes, alloc_event, alloc_time_ns, free_event uint64, has_call_site, prior, atomic, reserved,
    # is_freed bool.
    def live(self, events: int) -> dict[str, NDArray[Any]]: ...
    # One row a chunk: base_addr, first_event, destroyed_event, total_bytes, live_bytes, held_bytes, free_bytes,
    # unknown_bytes uint64, created, exists, boot bool, nr_live, nr_freed_prior uint32.
    def chunks(self) -> dict[str, NDArray[Any]]: ...
    # By granule: 0 unknown, 1 free, 2 live, 3 held, 4 hidden; empty for a chunk that went away.
    def cells(self, chunk: int) -> NDArray[np.uint8]: ...
    # As of Replay, with live_bytes, nr_live, nr_chunks, nr_freed_prior.
    def timeline(self) -> dict[str, NDArray[Any]]: ...

@final
class Owners:
    # One row a group, the first of what was there before: nr_alloc, nr_atomic, alloc_bytes, nr_free, nr_live,
    # live_bytes, peak_bytes, nr_peak, peak_event, peak_time_ns uint64; mean_life_events, mean_life_ns float64 (NaN
    # without frees).
    def groups(self) -> dict[str, NDArray[Any]]: ...
    # All groups together: nr_alloc, nr_free, nr_live, live_bytes, peak_bytes, nr_peak, peak_event, peak_time_ns.
    def total(self) -> dict[str, int]: ...
    # Names of the groups; empty where there is no call site, and by size and chunk.
    def names(self) -> list[str]: ...
    # Bytes of a granule.
    def granule(self) -> int: ...
    # Group by call site plus one (0: none), by size in granules or by chunk; 2^32 - 1 where there is none.
    def group_of(self) -> NDArray[np.uint32]: ...
    # One element a sample: event (up to its end), time_ns uint64; one a change: entry_sample, entry_group uint32,
    # entry_bytes uint64.
    def course(self) -> dict[str, NDArray[Any]]: ...
    # base_addr, off_bytes, size_bytes uint64 of what is left of `prior`.
    def prior(self) -> dict[str, NDArray[np.uint64]] | None: ...
    # max_cpu (None: no CPU known), quotients (least and largest of bytes_alloc / size, None without), nr_odd, wide.
    def factor(self) -> dict[str, Any]: ...

@final
class PercpuStats:
    # "areamap", "rfc-v1", "linux" or "linux-memcg".
    def form(self) -> str: ...
    # Bytes, and counters (areamap lacks empty_pop_pages), under the kernel's names.
    def sizes(self) -> dict[str, int]: ...
    def totals(self) -> dict[str, int]: ...
    # Labels ("reserved", "first", "plain", "to_depopulate", "sidelined"), and columns of int64 under the kernel's
    # newest names; what the form lacks (areamap: empty_pop_pages, first_bit; all but linux-memcg: memcg_aware) is 0.
    def chunks(self) -> tuple[list[str], dict[str, NDArray[np.int64]]]: ...
    # As the kernel writes it.
    def to_text(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Workload:
    # Parameters: int, str, or (n,) uint64. Raises InvalidRequest.
    @staticmethod
    def make(name: str, parameters: dict[str, Any]) -> Workload: ...
    # The same with other parameters.
    def replace(self, parameters: dict[str, Any]) -> Workload: ...
    def name(self) -> str: ...
    # name(parameter=value, ...), long lists cut.
    def text(self) -> str: ...
    # The same for equal workloads, on every machine.
    def fingerprint(self) -> int: ...
    # Whether the steps depend on where objects lie.
    def needs_places(self) -> bool: ...
    def parameters(self) -> dict[str, Any]: ...
    def phase_name(self, phase: int) -> str: ...
    def steps(self) -> Steps: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Steps:
    # Up to so many steps, each column (n,): kind uint8 (0 alloc, 1 free, 2 phase, 3 balance), phase uint32, id uint32,
    # size_bytes, align_bytes uint64, atomic, reserved bool. Empty at the end.
    def next_batch(self, length: int) -> dict[str, NDArray[Any]]: ...

@final
class WorkloadRun:
    # One row a phase in the order they were entered, uint64: phase, nr_alloc, nr_failed, nr_free, nr_free_skipped,
    # alloc_bytes, nr_chunks_created; at its end nr_live, live_bytes, nr_chunks, populated_pages; nr_live_peak,
    # peak_live_bytes, nr_chunks_peak, peak_populated_pages; where the engine counts, cost_ and the name of each
    # counter; time_ns. With split also alloc_cost_ and alloc_time_ns.
    def phases(self) -> dict[str, NDArray[np.uint64]]: ...
    # Of each phase: failures by reason code less one.
    def failures(self) -> list[list[int]]: ...
    def nr_steps(self) -> int: ...
    # One row a request, if kept: entry uint32 (row of phases), id uint32, size_bytes, align_bytes uint64, atomic,
    # reserved bool, reason uint8 (0 = served), chunk uint32, off_bytes, unit_off_bytes uint64.
    def requests(self) -> dict[str, NDArray[Any]]: ...
