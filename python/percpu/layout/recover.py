"""Back from a boot log to what the first chunk was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from percpu import _core
from percpu.errors import LayoutError
from percpu.layout.topology import Topology

if TYPE_CHECKING:
    from percpu.layout.first_chunk import FirstChunkLayout

__all__ = ["Difference", "Input", "Recovery", "recover"]


class Input(NamedTuple):
    """One input of the layout.

    Attributes
    ----------
    name, value : str
        What it is.
    source : {"shown", "follows", "told", "assumed"}
        Printed in the log; follows from what is printed; given by the caller; neither, but it gives the printed lines.
    """

    name: str
    value: str
    source: str


class Difference(NamedTuple):
    """A line that does not come out.

    Attributes
    ----------
    line : int
        Number among the lines of the allocator, from 1.
    shown, computed : str or None
        What the log has and what was computed; None where there are no more lines.
    """

    line: int
    shown: str | None
    computed: str | None


class Recovery(NamedTuple):
    """Where the inputs of a layout come from, and what differs.

    Attributes
    ----------
    inputs : tuple of Input
        The inputs.
    differences : tuple of Difference
        Lines that differ; empty if every line came out to the byte, save trailing blanks.
    lines : tuple of str
        The computed lines.
    topology_known : bool
        Whether CPUs and nodes are known; if not, the layout is that of one CPU with the printed unit.
    from_release : bool
        Whether all constants are those of the release; else the printed sizes were taken as input.
    """

    inputs: tuple[Input, ...]
    differences: tuple[Difference, ...]
    lines: tuple[str, ...]
    topology_known: bool
    from_release: bool

    @property
    def ok(self) -> bool:
        """Whether every line came out."""
        return not self.differences

    def __str__(self) -> str:
        width = max(len(name) for name, _, _ in self.inputs)
        rows = [f"{name:{width}}  {source:8}  {value}" for name, value, source in self.inputs]
        if self.ok:
            return "\n".join([*rows, f"{len(self.lines)} lines computed, none differs"])
        for line, shown, computed in self.differences:
            rows += [f"line {line} differs", f"  log       {shown}", f"  computed  {computed}"]
        return "\n".join(rows)


def recover(
    cls: type[FirstChunkLayout],
    text: str,
    *,
    kernel: str | None,
    arch: str | None,
    page_size: int | None,
    topology: Topology | None,
    first_chunk: str | None,
) -> FirstChunkLayout:
    """Do what `FirstChunkLayout.from_boot_log` says."""
    if not isinstance(text, str):
        raise LayoutError(f"text must be text, not {type(text).__name__}")
    for name, value in (("kernel", kernel), ("arch", arch), ("first_chunk", first_chunk)):
        if value is not None and not isinstance(value, str):
            raise LayoutError(f"{name} must be text, not {type(value).__name__}")
    given: dict[str, Any] = {"cpu_to_node": None, "cpu_distances": None, "node_distances": None, "flat": False}
    if topology is not None:
        given = topology._for_core()
    found, missing = _core.recover_boot_log(
        text, arch=arch, kernel=kernel, page_size=page_size, parameter=first_chunk, **given
    )
    if found is None:
        raise LayoutError(f"the log shows too little: {missing}", missing=missing)
    settings = found["settings"]
    inputs = tuple(Input(*row) for row in found["inputs"])
    if settings["first_chunk"] != "explicit":
        settings["unit_size"] = None
    # The architecture's own rules are already in the settings, except those of messages, words and the era of 2009.
    layout = cls._make(
        Topology(np.array([-1 if node is None else node for node in found["cpu_to_node"]]), flat=found["flat"])
        if topology is None
        else topology,
        warn=False,  # the log itself is the comparison
        **settings,
    )
    layout._recovery = Recovery(
        inputs,
        tuple(Difference(*row) for row in found["differences"]),
        tuple(found["lines"]),
        found["topology_known"],
        found["from_release"],
    )
    return layout
