"""Points of an experiment: what is run, on which machine, with which engine.

A `Point` is plain data and pickles, so that it can be run in another process; `Point.run_with` makes what the core
needs. `compare` and `sweep` are lists of points and tables of their rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from percpu import _core
from percpu._checks import choice, engine_release, integer
from percpu.allocator import Allocator
from percpu.engines import Geometry, check_engine, stats_of
from percpu.errors import InvalidRequest
from percpu.layout import FirstChunkLayout
from percpu.trace import Trace
from percpu.workloads import Workload

__all__ = ["GEOMETRY", "POLICY", "REQUEST", "Point", "Source", "engine_name", "run_points"]

_PLAIN = ("unit_size", "nr_units")
_LAYOUT = ("static_size", "reserved_size", "dyn_size", "atom_size", "early_size", "nr_cpus", "topology", "first_chunk",
           "word_bits", "vmalloc_size")  # fmt: skip
_COMMON = ("page_size", "min_alloc_size", "block_size")
GEOMETRY = (*_PLAIN, *_COMMON, *_LAYOUT, "backend")
"""Names of what the machine can be given."""
REQUEST = ("align", "min_align", "size_multiple", "atomic")
"""Names of what can be changed in requests."""
THRESHOLDS = tuple(name for name, _ in _core.THRESHOLDS)
POLICY = ("balance", "every", *THRESHOLDS)
"""Names of what says when the balance worker runs, and how much it does."""

_DEFAULT_LAYOUT = {"static_size": 185_496, "reserved_size": 0, "dyn_size": 28_672, "atom_size": 2 << 20}
_DEFAULT_CPUS = 4


_KEPT = 256
"""Changed workloads that are kept."""


class Source:
    """What is run: the requests and frees of a trace, or of a workload.

    Parameters
    ----------
    what : Trace or Workload
        Where the steps come from.
    """

    def __init__(self, what: Trace | Workload) -> None:
        self.workload = what if isinstance(what, Workload) else None
        if isinstance(what, Workload):
            self._core = _core.Source.of_workload(what._core)
        elif isinstance(what, Trace):
            self._core = _core.Source.of_trace(what._core)
        else:
            raise TypeError(f"a Trace or a Workload is needed, not {type(what).__name__}")
        self._hash: str | None = None
        self._changed: dict[str, _core.Source] = {}

    @property
    def hash(self) -> str:
        """Says what is run: equal for equal steps, on every machine."""
        if self._hash is None:
            self._hash = _hash(self._core) if self.workload is None else f"workload-{self.workload.fingerprint}"
        return self._hash

    @property
    def text(self) -> str:
        """For people."""
        return f"trace, {self._core.info()['nr_steps']} steps" if self.workload is None else repr(self.workload)

    def of(self, changes: Mapping[str, Any]) -> _core.Source:
        """Return the core's source, with other parameters of the workload."""
        if not changes:
            return self._core
        assert self.workload is not None, "parameters are checked before"
        changed = self.workload.replace(**changes)
        # Kept, for its moment of the most bytes is found by going over all steps.
        if changed.fingerprint not in self._changed:
            if len(self._changed) >= _KEPT:
                self._changed.clear()
            self._changed[changed.fingerprint] = _core.Source.of_workload(changed._core)
        return self._changed[changed.fingerprint]

    def __reduce__(self) -> tuple[Any, ...]:
        if self.workload is not None:
            return Source, (self.workload,)
        columns = self._core.columns()
        assert columns is not None
        return _rebuild_source, (columns, self._core.info()["phases"], self._core.info()["nr_free_unseen"], self._hash)


@lru_cache(maxsize=2)
def _rebuilt(hash_: str) -> list[Source]:
    """A place for the source of this hash, so that a worker rebuilds it once and not for each point."""
    return []


def _rebuild_source(columns: dict[str, np.ndarray], phases: list[str], unseen: int, hash_: str | None) -> Source:
    kept = _rebuilt(hash_) if hash_ else []
    if not kept:
        source = Source.__new__(Source)
        source.workload, source._hash, source._changed = None, hash_, {}
        source._core = _core.Source.from_columns(**columns, phases=phases, unseen_frees=unseen)
        kept.append(source)
    return kept[0]


def _hash(core: _core.Source) -> str:
    digest = hashlib.sha256()
    columns = core.columns()
    assert columns is not None
    for name in ("op", "id", "size", "align"):
        digest.update(np.ascontiguousarray(columns[name], dtype=columns[name].dtype.newbyteorder("<")).tobytes())
    digest.update("\0".join(core.info()["phases"]).encode())
    return f"steps-{digest.hexdigest()[:32]}"


def engine_name(engine: Any) -> str:
    """Name of an engine: its own, or that of the factory."""
    return engine if isinstance(engine, str) else str(getattr(engine, "__name__", type(engine).__name__))


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes
    ----------
    engine, kernel : str, callable or None
        The engine, or what makes one; the release.
    geometry, request, policy, workload : dict
        Settings by name, those of the experiment and those of the point together.
    """

    engine: Any = None
    kernel: str | None = None
    geometry: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    workload: dict[str, Any] = field(default_factory=dict)

    def subject(self) -> tuple[Any, Any]:
        """Make what the steps are made with: for the core, and the engine in Python or None."""
        if callable(self.engine):
            if self.kernel is not None:
                raise InvalidRequest(f"kernel={self.kernel!r}: an engine in Python has no release", parameter="kernel")
            geometry = _machine(self.geometry)
            engine = check_engine("engine", self.engine(geometry))
            return (engine, geometry.unit_size, geometry.nr_units, geometry.page_size), engine
        release = engine_release(self.kernel, self.engine, "6.12")[0]
        settings = dict(self.geometry)
        backend = settings.pop("backend", "vm")
        if _is_plain(settings):
            unit = {"unit_size": 512 << 10, "nr_units": _DEFAULT_CPUS, **settings}
            return Allocator(kernel=release, backend=backend, **unit, **_policy(self.policy))._core, None
        allocator = Allocator(_layout(release, settings), backend=backend, **_policy(self.policy))
        for name in ("min_alloc_size", "block_size"):
            fixed = getattr(allocator, name)
            if settings.get(name, fixed) != fixed:
                text = f"geometry.{name}={settings[name]}: is always {fixed} in engine {allocator.engine}"
                raise InvalidRequest(text, parameter=f"geometry.{name}")
        return allocator._core, None

    def changes(self) -> tuple[int | None, int | None, int | None, bool | None]:
        """Return how requests are changed, in the core's order."""
        numbers = []
        for name in REQUEST[:3]:
            value = self.request.get(name)
            numbers.append(None if value is None else integer(f"request.{name}", value))
        atomic = self.request.get("atomic")
        if not isinstance(atomic, (bool, np.bool_, type(None))):
            raise TypeError(f"request.atomic must be a bool or None, not {type(atomic).__name__}")
        align, min_align, size_multiple = numbers
        return align, min_align, size_multiple, None if atomic is None else bool(atomic)


def _policy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an `Allocator`."""
    own = {name: value for name, value in settings.items() if name not in THRESHOLDS}
    thresholds = {name: value for name, value in settings.items() if name in THRESHOLDS}
    return {**own, "thresholds": thresholds} if thresholds else own


def _is_plain(settings: Mapping[str, Any]) -> bool:
    plain = [name for name in _PLAIN if name in settings]
    layout = [name for name in _LAYOUT if name in settings]
    if plain and layout:
        raise InvalidRequest(
            f"geometry.{plain[0]} (no first chunk) and geometry.{layout[0]} (with one) exclude each other",
            parameter=f"geometry.{plain[0]}",
        )
    return bool(plain)


_layouts: dict[tuple[Any, ...], FirstChunkLayout] = {}


def _layout(release: str, settings: Mapping[str, Any]) -> FirstChunkLayout:
    key = (release, *sorted(settings.items(), key=lambda item: item[0]))
    try:
        if key in _layouts:
            return _layouts[key]
        keep = True
    except TypeError:  # a list, say, where a Topology or a number should be: `build` says so
        keep = False
    given = {**_DEFAULT_LAYOUT, **settings}
    cpus = given.pop("nr_cpus", None)
    if cpus is not None and "topology" in given:
        raise InvalidRequest("geometry.nr_cpus and geometry.topology exclude each other", parameter="nr_cpus")
    given.setdefault("topology", _DEFAULT_CPUS if cpus is None else cpus)
    layout = FirstChunkLayout.build(kernel=release, **given)
    if keep:
        if len(_layouts) >= 64:
            _layouts.clear()
        _layouts[key] = layout
    return layout


def _machine(settings: Mapping[str, Any]) -> Geometry:
    """Sizes for an engine in Python."""
    settings = {name: value for name, value in settings.items() if name != "backend"}
    if _is_plain(settings):
        page = integer("geometry.page_size", settings.get("page_size", 4096))
        sizes = {"page_size": page, "block_size": page, **settings}
        return Geometry(**{name: integer(f"geometry.{name}", value) for name, value in sizes.items()})
    layout = _layout("6.12", settings)
    page = layout.page_size
    granule = integer("geometry.min_alloc_size", settings.get("min_alloc_size", 4))
    block = integer("geometry.block_size", settings.get("block_size") or page)
    return Geometry(layout.unit_size, layout.nr_units, page, granule, block)


def geometry_settings(geometry: Any) -> dict[str, Any]:
    """Settings of the machine that hold for every point: of a mapping, or of a layout."""
    if geometry is None:
        return {}
    if isinstance(geometry, Geometry):
        return dict(vars(geometry))
    if isinstance(geometry, FirstChunkLayout):
        own = geometry._arguments
        kept = ("topology", "first_chunk", "static_size", "reserved_size", "dyn_size", "atom_size", "page_size",
                "min_alloc_size", "block_size", "word_bits", "vmalloc_size")  # fmt: skip
        return {name: own[name] for name in kept if own[name] is not None}
    return _settings("geometry", geometry, GEOMETRY)


def _settings(group: str, given: Mapping[str, Any] | None, allowed: Iterable[str]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{group} must be a mapping, not {type(given).__name__}")
    names = {str(name).removeprefix(f"{group}."): value for name, value in given.items()}
    for name in names:
        choice(f"name in {group}", name, tuple(allowed))
    return names


def request_settings(request: Mapping[str, Any] | None) -> dict[str, Any]:
    """Changes of requests that hold for every point."""
    return _settings("request", request, REQUEST)


def policy_settings(policy: Mapping[str, Any] | None) -> dict[str, Any]:
    """Balance policy that holds for every point."""
    return _settings("policy", policy, POLICY)


Row = dict[str, Any]
Told = Callable[[int, Row, BaseException | None], None]


def run_points(
    source: Source,
    points: Iterable[tuple[int, Point]],
    told: Told,
    *,
    threads: int,
    timing: bool,
    phases: bool,
    costs: str = "totals",
    sample_every: int = 0,
) -> None:
    """Run points; ``told(index, row, exception)`` gets each result as it comes, in any order.

    A point that cannot be run is a row with ``status`` "failed" and ``error``, the text; what was raised is handed
    over beside it.
    """
    engines: dict[int, Any] = {}

    def failed(index: int, text: str, error: BaseException | None) -> None:
        told(index, {"status": "failed", "error": text}, error)

    def parts() -> Iterator[tuple[Any, ...]]:
        for index, point in points:
            try:
                subject, engine = point.subject()
                ready = (index, source.of(point.workload), subject, point.changes())
                _core.check_changes(*ready[3])
            except Exception as error:  # whatever a factory raises is the result of this point
                failed(index, f"{type(error).__name__}: {error}", error)
                continue
            if engine is not None:
                engines[index] = engine
            yield ready

    def done(index: int, row: Row | None, text: str | None, error: BaseException | None) -> None:
        engine = engines.pop(index, None)
        if row is None:
            failed(index, text or "", error)
            return
        try:
            more = {} if engine is None else stats_of(engine)
        except Exception as wrong:
            failed(index, f"{type(wrong).__name__}: {wrong}", wrong)
            return
        told(index, {"status": "ok", "error": None, **row, **more}, None)

    _core.sweep_points(parts(), done, threads, timing, phases, sample_every, costs)
