"""`percpu layout`: the first chunk of a machine."""

from __future__ import annotations

import argparse

import percpu
from percpu.cli.arguments import Verbs, add_kernel, byte_size
from percpu.cli.show import show


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("layout", run, "compute the first chunk for CPUs and nodes")
    cpus = parser.add_mutually_exclusive_group(required=True)
    cpus.add_argument("--nodes", type=int, nargs="+", metavar="CPUS", help="CPUs of each node")
    cpus.add_argument("--sysfs", action="store_true", help="take the machine that this runs on")
    parser.add_argument("--static", type=byte_size, required=True, metavar="BYTES", help="static section, not rounded")
    parser.add_argument("--reserved", type=byte_size, default=8 << 10, metavar="BYTES", help="default: 8K")
    parser.add_argument("--dyn", type=byte_size, default=28 << 10, metavar="BYTES", help="default: 28K")
    parser.add_argument("--atom", type=byte_size, default=2 << 20, metavar="BYTES", help="default: 2M")
    parser.add_argument("--page-size", type=byte_size, default=4096, metavar="BYTES", help="default: 4K")
    parser.add_argument("--first-chunk", choices=("auto", "embed", "page", "up"), default="auto")
    add_kernel(parser)


def _topology(arguments: argparse.Namespace) -> percpu.Topology:
    if arguments.sysfs:
        return percpu.Topology.from_sysfs()
    return percpu.Topology.from_nodes(arguments.nodes)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    layout = percpu.FirstChunkLayout.build(
        static_size=arguments.static,
        reserved_size=arguments.reserved,
        dyn_size=arguments.dyn,
        atom_size=arguments.atom,
        topology=_topology(arguments),
        kernel=arguments.kernel,
        first_chunk=arguments.first_chunk,
        page_size=arguments.page_size,
    )
    facts = {
        "unit_size_bytes": layout.unit_size,
        "dyn_size_bytes": layout.dyn_size,
        "alloc_size_bytes": layout.alloc_size,
        "nr_units": layout.nr_units,
        "nr_groups": len(layout.groups),
        "nr_holes": layout.nr_holes,
        "hole_bytes": layout.nr_holes * layout.unit_size,
    }
    if arguments.json:
        groups = [{"base_offset": g.base_offset, "cpu_map": g.cpu_map} for g in layout.groups]
        show(arguments, {**facts, "groups": groups, "boot_log": layout.boot_log()})
    else:
        show(arguments, layout.boot_log())
        show(arguments, facts)
    return 0
