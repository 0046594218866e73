"""The layouts of very many machines at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from percpu import _core
from percpu._checks import column, integer, release, warn_assumed
from percpu.errors import InvalidRequest, LayoutError
from percpu.layout.topology import MAX_CPUS
from percpu.results import Result

__all__ = ["MACHINES", "layout_sweep"]

_MAX_POINTS = 1 << 24
_NAMES = ("nr_cpus", "nr_online", "nr_nodes", "static_size", "reserved_size", "dyn_size", "atom_size", "page_size")

MACHINES: dict[str, dict[str, int]] = {
    "laptop": {"nr_cpus": 12, "nr_nodes": 1, "static_size": 233_472},
    "two sockets": {"nr_cpus": 128, "nr_nodes": 2, "static_size": 233_472},
    "eight nodes": {"nr_cpus": 512, "nr_nodes": 8, "static_size": 233_472},
    "uneven nodes": {"nr_cpus": 9, "nr_nodes": 2, "static_size": 233_472},
    "possible far above online": {"nr_cpus": 1024, "nr_online": 16, "nr_nodes": 1, "static_size": 233_472},
    "64 KiB pages": {"nr_cpus": 64, "nr_nodes": 2, "static_size": 627_608, "atom_size": 1 << 20, "page_size": 1 << 16},
}
"""Named cases for `layout_sweep`; firmware often declares far more CPUs than are ever plugged in."""


def layout_sweep(
    *,
    nr_cpus: Any,
    nr_nodes: Any = 1,
    nr_online: Any = None,
    static_size: Any,
    reserved_size: Any = 8 << 10,
    dyn_size: Any = 28 << 10,
    atom_size: Any = 2 << 20,
    page_size: Any = 4096,
    kernel: str = "6.12",
    word_bits: int = 64,
    grid: bool = True,
    threads: int | None = None,
) -> Result:
    """Compute the layouts of many machines.

    Parameters
    ----------
    nr_cpus, nr_nodes : int or sequence of int
        Possible CPUs, and nodes that they are spread over evenly. More nodes than CPUs is a failed point.
    nr_online : int or sequence of int, optional
        CPUs that are running; all by default. The others have memory all the same.
    static_size, reserved_size, dyn_size, atom_size, page_size : int or sequence of int
        Bytes, as in `FirstChunkLayout.build`.
    kernel : str, optional
        Release or engine, see `kernels`.
    word_bits : {64, 32}, optional
        The machine's word.
    grid : bool, optional
        Every combination of the values given (True), or the first of each, the second of each, ... (False).
    threads : int, optional
        As many as there are cores by default. The result is the same for any number.

    Returns
    -------
    Result
        One row a machine, the last parameter running fastest. Parameters: ``nr_cpus``, ``nr_nodes``, ``nr_online``,
        ``static_size_bytes``, ``reserved_size_bytes``, ``atom_size_bytes``, ``page_size_bytes``, and
        ``wanted_dyn_bytes``. Outcomes: ``dyn_size_bytes``, ``unit_size_bytes``, ``alloc_size_bytes``,
        ``units_per_alloc``, ``nr_units``, ``nr_holes``; ``kept_bytes`` of the first chunk in use and ``offline_bytes``
        of them for CPUs that are not running; ``chunk_bytes`` of address space that a later chunk takes and
        ``hole_bytes`` of them; ``waste``: share of units that are holes; ``status``: ``ok`` or why there is no layout.
        Outcomes of a failed point are missing.

    Raises
    ------
    LayoutError
        If an argument is out of range, or there are more than 2^24 points.

    Examples
    --------
    >>> r = layout_sweep(nr_cpus=[12, 16], static_size=192_512)
    >>> r.unit_size_bytes.tolist(), r.nr_holes.tolist()
    ([262144, 262144], [4, 0])
    >>> layout_sweep(**MACHINES["possible far above online"]).offline_bytes.tolist()
    [272498688]
    """
    preset = release(kernel)
    warn_assumed(preset)
    if word_bits not in (32, 64):
        raise LayoutError(f"word_bits={word_bits}: must be 32 or 64")
    if threads is not None:
        threads = integer("threads", threads, 1, 1024, LayoutError)
    given = {
        "nr_cpus": nr_cpus,
        "nr_online": nr_online,
        "nr_nodes": nr_nodes,
        "static_size": static_size,
        "reserved_size": reserved_size,
        "dyn_size": dyn_size,
        "atom_size": atom_size,
        "page_size": page_size,
    }
    values: dict[str, np.ndarray] = {}
    for name, value in given.items():
        if name == "nr_online" and value is None:
            continue
        try:
            values[name] = column(name, value)
        except (TypeError, InvalidRequest) as error:
            raise LayoutError(str(error)) from None
        if name.startswith("nr_") and len(values[name]) and values[name].max() > MAX_CPUS:
            raise LayoutError(f"{name}={values[name].max()}: must be at most {MAX_CPUS}")
    names = [name for name in _NAMES if name in values]
    if grid:
        total = 1
        for array in values.values():
            total *= len(array)
    else:
        lengths = {len(array) for array in values.values()} - {1}
        if len(lengths) > 1:
            raise LayoutError(
                f"arguments of {sorted(lengths)} values: without a grid all must be as long, or one value"
            )
        total = lengths.pop() if lengths else 1
    if total > _MAX_POINTS:
        raise LayoutError(f"{total} points: must be at most {_MAX_POINTS}")
    if grid:
        mesh = np.meshgrid(*[values[name] for name in names], indexing="ij")
        points = {name: array.ravel() for name, array in zip(names, mesh, strict=True)}
    else:
        points = {name: np.broadcast_to(values[name], (total,)) for name in names}
    points.setdefault("nr_online", points["nr_cpus"])
    arrays = [np.ascontiguousarray(points[name], dtype=np.uint64) for name in _NAMES]
    found, errors = _core.sweep_machines(preset[0], word_bits, arrays, threads)
    failed = np.array([error is not None for error in errors], dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        waste = np.where(failed, np.nan, found["nr_holes"] / found["nr_units"])
    columns = {
        "nr_cpus": points["nr_cpus"],
        "nr_online": points["nr_online"],
        "nr_nodes": points["nr_nodes"],
        "static_size_bytes": points["static_size"],
        "reserved_size_bytes": points["reserved_size"],
        "wanted_dyn_bytes": points["dyn_size"],
        "atom_size_bytes": points["atom_size"],
        "page_size_bytes": points["page_size"],
        **found,
        "waste": waste,
        "status": np.array(["ok" if error is None else error for error in errors], dtype=object),
    }
    dims = ["nr_cpus", "nr_nodes", "static_size_bytes", "reserved_size_bytes", "wanted_dyn_bytes"]
    dims += ["atom_size_bytes", "page_size_bytes"]
    if nr_online is not None and grid:
        dims.insert(1, "nr_online")
    return Result(
        columns,
        mask=dict.fromkeys(found, failed),
        dims=dims if grid else (),
        attrs={"kernel": preset[0], "word_bits": word_bits},
    )
