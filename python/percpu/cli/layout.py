"""`percpu layout`: the first chunk of a machine, predicted, explained or recovered from a log."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import percpu
from percpu.cli.arguments import Verbs, byte_size
from percpu.cli.files import read_input
from percpu.cli.show import save_picture, show
from percpu.errors import LayoutError
from percpu.stats import read_text


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add("layout", run, "predict the first chunk of a machine, say why, or recover it from a boot log")
    machine = parser.add_argument_group("machine (one of these)").add_mutually_exclusive_group(required=True)
    machine.add_argument(
        "--nodes", nargs="+", metavar="CPUS", help="CPUs of each node: a number, or a list such as 0-3,8"
    )
    machine.add_argument("--this-machine", "--sysfs", action="store_true", help="the machine that this runs on")
    machine.add_argument("--lscpu", metavar="FILE", help="output of lscpu -p; - reads standard input")
    machine.add_argument("--numactl", metavar="FILE", help="output of numactl -H; - reads standard input")
    machine.add_argument(
        "--boot-log", metavar="FILE", help="recover everything from a boot log; - reads standard input"
    )
    parser.add_argument("--sysfs-root", default="/sys", metavar="DIR", help="for --this-machine (default: %(default)s)")
    sizes = parser.add_argument_group("sizes")
    sizes.add_argument(
        "--static-size",
        "--static",
        dest="static",
        type=byte_size,
        metavar="BYTES",
        help="per-CPU section of the kernel image, not rounded; needed where no boot log shows it",
    )
    sizes.add_argument("--reserved", type=byte_size, metavar="BYTES", help="default: 8K, or that of --arch")
    sizes.add_argument("--dyn", type=byte_size, metavar="BYTES", help="default: 28K, or that of --arch")
    sizes.add_argument("--atom", type=byte_size, metavar="BYTES", help="default: 2M, or that of --arch")
    sizes.add_argument("--page-size", type=byte_size, metavar="BYTES", help="default: 4K, or that of --arch")
    sizes.add_argument("--vmalloc-size", type=byte_size, metavar="BYTES", help="default: that of x86")
    kernel = parser.add_argument_group("kernel")
    kernel.add_argument("--arch", help="architecture whose constants are used, as uname -m says")
    kernel.add_argument("--variant", help="kind of machine where an architecture has several")
    kernel.add_argument("--kernel", help="release or engine (default: 6.12, or what the log says)")
    kernel.add_argument(
        "--first-chunk",
        choices=("auto", "embed", "page", "lpage", "up"),
        help="boot parameter percpu_alloc, or a kernel for one CPU (default: auto, or what the log says)",
    )
    kernel.add_argument(
        "--dyn-shift",
        type=int,
        choices=(10, 12, 13),
        default=10,
        help="PERCPU_DYNAMIC_SIZE_SHIFT: 12 with randomised kmalloc caches, 13 with lockdep as well (default: 10)",
    )
    parser.set_defaults(usage_error=parser.error)
    output = parser.add_argument_group("output")
    output.add_argument("--explain", action="store_true", help="say why, what it costs, and what would change it")
    output.add_argument("--plot", type=Path, metavar="FILE", help="write a picture")


def _read(path: str) -> str:
    if path == "-":
        return read_input()
    return read_text(Path(path))


def _topology(arguments: argparse.Namespace) -> percpu.Topology:
    if arguments.this_machine:
        return percpu.Topology.from_sysfs(arguments.sysfs_root)
    if arguments.lscpu:
        return percpu.Topology.from_lscpu(_read(arguments.lscpu))
    if arguments.numactl:
        return percpu.Topology.from_numactl(_read(arguments.numactl))
    return percpu.Topology.from_nodes([int(n) if n.isdigit() else n for n in arguments.nodes])


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {
        "reserved_size": arguments.reserved,
        "dyn_size": arguments.dyn,
        "atom_size": arguments.atom,
        "vmalloc_size": arguments.vmalloc_size,
        "page_size": arguments.page_size,
        "kernel": arguments.kernel,
        "first_chunk": arguments.first_chunk,
    }
    return {name: value for name, value in given.items() if value is not None}


def _shown_static_size(root: str) -> int | None:
    """What the running kernel shows of its static size: to the superuser, in its statistics or its symbols."""
    try:
        for line in Path(root, "kernel/debug/percpu_stats").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "static_size" and value.strip().isdigit():
                return int(value)
    except OSError:
        pass
    if root != "/sys":
        return None
    ends: dict[str, int] = {}
    try:
        with Path("/proc/kallsyms").open() as symbols:
            for line in symbols:
                if "__per_cpu_" in line:
                    address, _, name = line.split()[:3]
                    ends[name] = int(address, 16)
    except (OSError, ValueError):
        return None
    return ends.get("__per_cpu_end", 0) - ends.get("__per_cpu_start", 0) or None


def _layout(arguments: argparse.Namespace) -> percpu.FirstChunkLayout:
    if arguments.boot_log:
        return percpu.FirstChunkLayout.from_boot_log(
            _read(arguments.boot_log),
            kernel=arguments.kernel,
            arch=arguments.arch,
            page_size=arguments.page_size,
            first_chunk=arguments.first_chunk,
        )
    given = _given(arguments)
    arch = arguments.arch
    if arguments.this_machine:
        # The release and the architecture are those of this machine, too; its log is rarely readable.
        arch = arch or platform.machine()
        # A release that is newer than every preset has the rules of the newest as far as is known.
        release = platform.release()
        given.setdefault("kernel", release if percpu._core.preset_of(release) else str(percpu.kernels()["kernel"][-1]))
    static = arguments.static
    if static is None and arguments.this_machine:
        static = _shown_static_size(arguments.sysfs_root)
    if static is None and not arguments.this_machine:
        arguments.usage_error("--static-size is needed; a boot log or the kernel's symbols have it")
    if static is None:
        raise LayoutError(
            "static_size: not shown to this user; take it from the boot log (dmesg | percpu layout --boot-log -) "
            "or give --static-size"
        )
    given["static_size"] = static
    topology = _topology(arguments)
    if arch is not None:
        return percpu.FirstChunkLayout.for_machine(
            arch, topology=topology, variant=arguments.variant, dyn_shift=arguments.dyn_shift, **given
        )
    return percpu.FirstChunkLayout.build(topology=topology, **{"reserved_size": 8 << 10, **given})


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; 1 if a line of the boot log does not come out."""
    layout = _layout(arguments)
    facts: dict[str, Any] = {
        "unit_size_bytes": layout.unit_size,
        "dyn_size_bytes": layout.dyn_size,
        "alloc_size_bytes": layout.alloc_size,
        "nr_units": layout.nr_units,
        "nr_groups": len(layout.groups),
        "nr_holes": layout.nr_holes,
        "hole_bytes": layout.nr_holes * layout.unit_size,
    }
    recovery = layout.recovery
    if arguments.json:
        groups = [{"base_offset": g.base_offset, "cpu_map": g.cpu_map} for g in layout.groups]
        value = {**facts, "groups": groups, "boot_log": layout.boot_log()}
        if recovery is not None:
            value["recovery"] = {
                "inputs": [row._asdict() for row in recovery.inputs],
                "differences": [row._asdict() for row in recovery.differences],
                "lines": recovery.lines,
                "topology_known": recovery.topology_known,
                "from_release": recovery.from_release,
            }
        if arguments.explain:
            value["explain"] = layout.explain().to_dict()
        show(arguments, value)
    elif recovery is not None:
        show(arguments, str(recovery))
    else:
        show(arguments, layout.boot_log())
    if not arguments.json:
        if arguments.explain:
            print()
            show(arguments, str(layout.explain()))
        else:
            show(arguments, facts)
    if arguments.plot is not None:
        save_picture(layout.plot(), arguments.plot)
        if not arguments.json:
            print(f"picture in {arguments.plot}")
    return 1 if recovery is not None and not recovery.ok else 0
