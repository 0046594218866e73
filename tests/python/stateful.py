"""A hypothesis state machine over `Allocator`: every operation, every engine, failures on command.

Each step is a line of Python that is executed and kept. When a step fails, what hypothesis shrinks to is printed as a
script that needs nothing but the package, so that it can be pasted into an issue.
"""

from __future__ import annotations

import copy
import itertools
import pickle

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import percpu as pc

ENGINES = ("cpu_alloc-2008", "areamap", "rfc-v1", "linux-4.14", "linux-5.2", "linux-5.14")
PREAMBLE = "import copy\nimport pickle\n\nimport percpu as pc\n"

sizes = st.one_of(
    st.sampled_from([1, 4, 8, 16, 60, 64, 256, 1024, 4092, 4096, 4100]),
    st.integers(1, 600),
    st.integers(1, 40_000),
)
aligns = st.sampled_from([1, 2, 4, 8, 16, 64, 256, 2048, 4096])


class AllocatorMachine(RuleBasedStateMachine):
    """Operations on one allocator beside a shadow of what is live."""

    def __init__(self):
        super().__init__()
        self.script = [PREAMBLE]
        self.names = {"pc": pc, "copy": copy, "pickle": pickle}
        self.live = {}  # name of the pointer in the script -> (pointer, bytes asked for, alignment)
        self.count = 0

    def run(self, line):
        """Execute one line of the script, and show the whole script if it fails."""
        self.script.append(line)
        try:
            exec(line, self.names)
        except BaseException:
            note(self.text())
            raise

    def expect(self, truth, what):
        if not truth:
            note(self.text())
            raise AssertionError(what)

    def text(self):
        return "# paste from here\n" + "\n".join(self.script)

    @property
    def a(self):
        return self.names["a"]

    def size_argument(self, name):
        """cpu_alloc-2008 does not know the size of what is freed."""
        return f", {self.live[name][1]}" if self.a.engine == "cpu_alloc-2008" else ""

    # -- where it starts -------------------------------------------------------------

    @initialize(
        engine=st.sampled_from(ENGINES),
        boot=st.booleans(),
        pages=st.sampled_from([1, 2, 4, 16]),
        policy=st.sampled_from(['balance="eager"', 'balance="manual"', "every=3"]),
        backend=st.sampled_from(["vm", "km"]),
        block=st.sampled_from([None, 256, 1024, 4096, 8192]),
    )
    def start(self, engine, boot, pages, policy, backend, block):
        if boot:
            self.run(
                "layout = pc.FirstChunkLayout.build(static_size=98_304, reserved_size=8_192, dyn_size=28_672, "
                f'atom_size=2 << 20, topology=pc.Topology.from_nodes([2, 2]), kernel="{engine}")'
            )
            self.run(f'a = pc.Allocator(layout, {policy}, backend="{backend}")')
            return
        pages = max(pages, 2) if block == 8192 else pages
        fixed = "" if block is None or not engine.startswith("linux") else f", block_size={block}"
        self.run(
            f'a = pc.Allocator(unit_size={pages * 4096}, nr_units=2, engine="{engine}", {policy}, '
            f'backend="{backend}"{fixed})'
        )

    # -- operations ------------------------------------------------------------------

    @rule(size=sizes, align=aligns, atomic=st.booleans(), reserved=st.booleans())
    def alloc(self, size, align, atomic, reserved):
        name = f"p{self.count}"
        self.count += 1
        before = self.a.stats()["nr_cur_alloc"]
        call = f"{name} = a.alloc({size}, {align}, atomic={atomic}, reserved={reserved})"
        self.run(f"try:\n    {call}\nexcept (pc.AllocError, pc.InvalidRequest):\n    {name} = None")
        ptr = self.names[name]
        self.expect(self.a.stats()["nr_cur_alloc"] == before + (ptr is not None), "nr_cur_alloc does not follow")
        if ptr is not None:
            self.expect(ptr != pc.NULL, "a served request has the null pointer")
            self.live[name] = (ptr, size, align)

    @rule(many=st.lists(st.tuples(sizes, aligns), max_size=12), atomic=st.booleans())
    def alloc_many(self, many, atomic):
        name = f"b{self.count}"
        self.count += 1
        self.run(f"{name} = a.alloc_many({[s for s, _ in many]}, {[a for _, a in many]}, atomic={atomic})")
        batch = self.names[name]
        for i, (size, align) in enumerate(many):
            if batch.ok[i]:
                self.live[f"int({name}.ptr[{i}])"] = (int(batch.ptr[i]), size, align)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data):
        name = data.draw(st.sampled_from(sorted(self.live)))
        self.run(f"a.free({name}{self.size_argument(name)})")
        del self.live[name]

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free_many(self, data):
        names = data.draw(st.lists(st.sampled_from(sorted(self.live)), unique=True, max_size=8))
        given = f", {[self.live[n][1] for n in names]}" if self.a.engine == "cpu_alloc-2008" else ""
        self.run(f"a.free_many([{', '.join(names)}]{given})")
        for name in names:
            del self.live[name]

    @precondition(lambda self: self.live)
    @rule(data=st.data(), behind=st.integers(1, 3))
    def free_what_is_not_there(self, data, behind):
        name = data.draw(st.sampled_from(sorted(self.live)))
        ptr, size, _ = self.live[name]
        if self.a.engine == "cpu_alloc-2008" or behind >= size:
            return
        before = self.a.snapshot()
        self.run(f"try:\n    a.free({name} + {behind})\nexcept pc.InvalidFree:\n    refused = True")
        self.expect(self.names.pop("refused", False), f"freed {behind} bytes inside an area at {ptr}")
        self.expect(self.a.snapshot() == before, "a refused free changed something")

    @rule()
    def balance(self):
        self.run("a.balance()")

    @rule(
        pages=st.none() | st.integers(0, 6),
        mappings=st.none() | st.integers(0, 6),
        chunks=st.none() | st.just(0),
        extensions=st.none() | st.just(0),
    )
    def limit_supply(self, pages, mappings, chunks, extensions):
        self.run(f"a.limit_supply(pages={pages}, mappings={mappings}, chunks={chunks}, extensions={extensions})")

    @rule(size=sizes, align=aligns)
    def alloc_killed(self, size, align):
        if not self.a.engine.startswith("linux"):
            return
        before = self.a.snapshot()
        self.run(
            f"try:\n    a.alloc_killed({size}, {align})\n"
            "except (pc.AllocError, pc.InvalidRequest) as error:\n    refused = type(error).__name__"
        )
        refused = self.names.pop("refused", None)
        self.expect(refused is not None, "a killed request was served")
        # An illegal one does not wait to be killed: it is an operation like any other.
        self.expect(refused == "InvalidRequest" or self.a.snapshot() == before, "a killed request changed something")

    @rule(how=st.sampled_from(["pc.Allocator.restore(a.snapshot())", "copy.copy(a)", "pickle.loads(pickle.dumps(a))"]))
    def go_on_with_a_copy(self, how):
        before = self.a.snapshot()
        self.run(f"a = {how}")
        self.expect(self.a.snapshot() == before, f"{how} is not the same allocator")

    # -- what must hold --------------------------------------------------------------

    @invariant()
    def holds(self):
        if "a" not in self.names:
            return
        try:
            self.a.verify()
        except pc.PercpuError:
            self.script.append("a.verify()")
            note(self.text())
            raise
        ends = sorted((ptr, ptr + size) for ptr, size, _ in self.live.values())
        overlap = [(one, two) for one, two in itertools.pairwise(ends) if one[1] > two[0]]
        self.expect(not overlap, f"areas overlap: {overlap}")
        self.expect(self.a.stats()["nr_cur_alloc"] == len(self.live), "nr_cur_alloc is not the number of live areas")
        if self.a.engine != "cpu_alloc-2008":
            for ptr, size, align in self.live.values():
                area = self.a.locate(ptr)
                self.expect(area.size_bytes >= size, f"{area} is smaller than {size}")
                self.expect(area.off_bytes % align == 0, f"{area} is not aligned to {align}")
