//! Allocators as bytes: snapshots, and states recorded elsewhere.
//!
//! # Design
//!
//! The snapshot of a Linux generation is a state file with one more key, [`KEY`], that holds what a
//! state does not: chunk numbers, policy, addresses, what stands behind the chunks. So it is a
//! state file that other tools can read, and is checked like one. The engines before 4.14 have no
//! state files; their snapshot is [`KEY`] alone, with machine and engine in it ([`saved`]).

use serde_json::{json, Map, Value};

use super::saved::{self, Restored};
use super::{space, Allocator, Balance};
use crate::address::{AddressMap, NO_LAYOUT_BASE};
use crate::backend::Supply;
use crate::engine::linux::Linux;
use crate::engine::saved::Fields;
use crate::engine::Engine;
use crate::error::StateError;
use crate::layout::Backend;
use crate::request::ChunkId;
use crate::state::{self, State};
use crate::stats_text::StatsSizes;
use crate::units::{round_up, WordSize};
use crate::variant::{Preset, Thresholds};

/// The key of a snapshot's own part.
const KEY: &str = "percpu_snapshot";
/// A key of that part that is there only if area maps can run out of extensions.
const EXTEND: &str = "extend_supply";
/// Version of that part.
const VERSION: u64 = 1;

impl Allocator {
    /// The complete state, as state files have it.
    pub fn state(&self) -> Result<State, StateError> {
        let linux = self
            .engine
            .as_linux()
            .ok_or_else(|| StateError::new("engine", format!("{} has no state file form", self.engine.generation())))?;
        let map = &self.address;
        let low = map.units().min_by_key(|(_, offset)| *offset).map(|(cpu, _)| cpu);
        let high = map.units().max_by_key(|(_, offset)| *offset).map(|(cpu, _)| cpu);
        let backend = self.engine.backend();
        Ok(State {
            atom_size: (!backend.contiguous).then_some(self.sizes.atom_size),
            low_unit_cpu: low,
            high_unit_cpu: high,
            group_offsets: self.groups.iter().map(|(offset, _)| *offset).collect(),
            group_sizes: self.groups.iter().map(|(_, size)| *size).collect(),
            unit_map: map.unit_map.clone(),
            unit_offsets: map.unit_offsets.iter().map(|offset| offset.unwrap_or(0)).collect(),
            base_addr: map.base_addr,
            per_cpu_start: map.per_cpu_start,
            static_size: map.static_size,
            nr_cpu_ids: Some(map.unit_map.len() as u32),
            ..State::capture(linux)
        })
    }

    /// An allocator in a recorded state, by the rules of `preset`.
    pub fn from_state(state: &State, preset: &'static Preset, balance: Balance) -> Result<Self, StateError> {
        let linux = state.restore(preset)?;
        let contiguous = linux.backend.contiguous;
        let address = address_of(state, contiguous);
        let served = |index: Option<usize>| {
            index.map_or(0, |index| {
                let chunk = &state.chunks[index];
                u64::from(chunk.nr_pages) * state.page_size()
                    - u64::from(chunk.start_offset)
                    - u64::from(chunk.end_offset)
            })
        };
        let atom_size = state.atom_size.unwrap_or(state.unit_size);
        let sizes = StatsSizes {
            unit_size: state.unit_size,
            static_size: state.static_size,
            reserved_size: served(state.reserved_chunk),
            dyn_size: served(state.first_chunk),
            atom_size,
            alloc_size: round_up(state.unit_size, atom_size.max(1)),
        };
        let groups = state.group_offsets.iter().copied().zip(state.group_sizes.iter().copied()).collect();
        Ok(Self { engine: Box::new(linux), address, preset, sizes, groups, balance, since_balance: 0 })
    }

    /// Everything, as bytes that [`Allocator::from_snapshot`] turns into an equal allocator.
    pub fn snapshot(&self) -> Result<String, StateError> {
        let mut own = self.own_part();
        let mut put = |key: &str, value| own.insert(key.into(), value);
        if let Some(left) = self.engine.backend().extend_supply.left() {
            put(EXTEND, json!(left));
        }
        if let Some(linux) = self.engine.as_linux() {
            let numbers: Vec<Option<u32>> = linux.chunk_ids().map(|id| (!id.is_reserved()).then_some(id.0)).collect();
            put("numbers", json!(numbers));
            put("chunks_created", json!(linux.chunks_created()));
            put("warn_limit", json!(linux.warn_limit));
            let mut state = self.state()?;
            state.other.insert(KEY.into(), Value::Object(own));
            return Ok(state.to_json());
        }
        let engine = self.engine.save();
        let none = || StateError::new(KEY, format!("{} cannot be saved", self.engine.generation()));
        put("engine", engine.ok_or_else(none)?);
        put("machine", self.machine_to_saved());
        Ok(json!({ KEY: own }).to_string())
    }

    /// What the snapshots of all engines have.
    fn own_part(&self) -> Map<String, Value> {
        let backend = self.engine.backend();
        let (next_addr, chunk_span) = backend.address_space();
        let sizes = &self.sizes;
        let thresholds = self.engine.thresholds().unwrap_or_default().named();
        let own = json!({
            "version": VERSION,
            "thresholds": thresholds.map(|(name, value)| (name.to_owned(), json!(value))).into_iter().collect::<Map<_, _>>(),
            "kernel": self.preset.release,
            "balance": match self.balance {
                Balance::Eager => json!("eager"),
                Balance::Manual => json!("manual"),
                Balance::Every(k) => json!(k),
            },
            "since_balance": self.since_balance,
            "contiguous": backend.contiguous,
            "atom_size": sizes.atom_size,
            "backing_pages": backend.backing_pages,
            "vmalloc": backend.vmalloc().map(space::to_saved),
            "next_addr": next_addr,
            "chunk_span": chunk_span,
            "page_supply": backend.page_supply.left(),
            "map_supply": backend.map_supply.left(),
            "chunk_supply": backend.chunk_supply.left(),
            "address_limit": backend.address_limit,
            "word_bits": self.address.word.bits(),
            "linear": self.address.linear,
            "identity": self.address.identity,
            "boot_cpu": self.address.boot_cpu,
            "reserved_size": sizes.reserved_size,
            "dyn_size": sizes.dyn_size,
            "alloc_size": sizes.alloc_size,
        });
        match own {
            Value::Object(own) => own,
            _ => unreachable!("an object was written"),
        }
    }

    /// An allocator from the bytes of a snapshot.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, StateError> {
        let mut whole = state::parse(bytes)?;
        let own = whole.as_object_mut().and_then(|whole| whole.remove(KEY));
        let none = || StateError::new(KEY, "is missing: this is a state, but no snapshot");
        let own = own.ok_or_else(none)?;
        let own = Fields::new(&own, KEY)?;
        if own.number("version")? != VERSION {
            return Err(own.error("version", format!("is not {VERSION}")));
        }
        let preset = Preset::by_release(own.text("kernel")?).ok_or_else(|| own.bad("kernel"))?;
        let balance = match own.value("balance")? {
            Value::String(text) if text == "eager" => Balance::Eager,
            Value::String(text) if text == "manual" => Balance::Manual,
            _ => Balance::Every(own.small("balance")?.max(1)),
        };
        own.check(own.number("atom_size")?.is_power_of_two(), "atom_size")?;
        let since_balance = own.small("since_balance")?;
        let mut allocator = if preset.generation.rules().is_some() {
            Self::from_state_snapshot(State::from_value(whole)?, preset, balance, &own)?
        } else {
            let Restored { engine, address, sizes, groups } = saved::read(&own, preset)?;
            Self { engine, address, preset, sizes, groups, balance, since_balance }
        };
        allocator.since_balance = since_balance;
        allocator.set_thresholds(thresholds(&own)?).map_err(|error| own.error("thresholds", error.to_string()))?;
        let backend = allocator.engine.backend_mut();
        backend.page_supply = supply(&own, "page_supply")?;
        backend.map_supply = supply(&own, "map_supply")?;
        backend.chunk_supply = supply(&own, "chunk_supply")?;
        if own.value(EXTEND).is_ok() {
            backend.extend_supply = supply(&own, EXTEND)?;
        }
        Ok(allocator)
    }

    /// An allocator of a Linux generation from its state and what a state does not hold.
    fn from_state_snapshot(
        state: State,
        preset: &'static Preset,
        balance: Balance,
        own: &Fields<'_>,
    ) -> Result<Self, StateError> {
        let contiguous = own.flag("contiguous")?;
        let mut allocator = Self::from_state(&state, preset, balance)?;
        allocator.address.linear = own.flag("linear")?;
        allocator.address.identity = own.flag("identity")?;
        allocator.address.boot_cpu = own.small("boot_cpu")?;
        let word = WordSize::of_bits(own.number("word_bits")?);
        allocator.address.word = word.ok_or_else(|| own.bad("word_bits"))?;
        allocator.address.backend = if contiguous { Backend::KernelMemory } else { Backend::Vmalloc };
        let sizes = &mut allocator.sizes;
        sizes.atom_size = own.number("atom_size")?;
        sizes.reserved_size = own.number("reserved_size")?;
        sizes.dyn_size = own.number("dyn_size")?;
        sizes.alloc_size = own.number("alloc_size")?;
        let atom = sizes.atom_size;
        // The limits of a state's own atom size: the next snapshot writes it there.
        own.check(contiguous || (state.page_size()..=state::MAX_ATOM).contains(&atom), "atom_size")?;
        let numbers = own.list("numbers")?;
        own.check(numbers.len() == state.chunks.len(), "numbers")?;
        let numbers = own.optional_numbers("numbers")?;
        let created = own.chunks_created("chunks_created")?;
        let linux = allocator.engine.as_linux_mut().expect("restored from a state");
        linux.warn_limit = own.small("warn_limit")?;
        let backend = &mut linux.backend;
        backend.contiguous = contiguous;
        backend.backing_pages = own.number_to("backing_pages", u64::MAX / 2)?;
        let next_addr = own.number("next_addr")?;
        own.check(next_addr >= NO_LAYOUT_BASE, "next_addr")?;
        backend.set_address_space(next_addr, own.number("chunk_span")?, atom);
        space::read(own, backend)?;
        if backend.vmalloc().is_some() {
            let mut dynamic = state.chunks.iter().filter(|chunk| !chunk.immutable);
            if let Some(chunk) = dynamic.find(|chunk| !backend.holds_chunk(chunk.base_addr)) {
                return Err(own.error("vmalloc", format!("the chunk at {:#x} has no areas there", chunk.base_addr)));
            }
        }
        renumber(linux, &state, &numbers, created)?;
        Ok(allocator)
    }
}

/// The kernel's own where a snapshot does not name them: those of before had no others.
fn thresholds(own: &Fields<'_>) -> Result<Thresholds, StateError> {
    let mut thresholds = Thresholds::KERNEL;
    if own.has("thresholds") {
        let given = own.object("thresholds")?;
        for (name, _) in Thresholds::KERNEL.named() {
            thresholds = thresholds.with(name, given.small(name)?).expect("it is a name of one");
        }
    }
    Ok(thresholds)
}

fn supply(own: &Fields<'_>, name: &str) -> Result<Supply, StateError> {
    match own.value(name)? {
        Value::Null => Ok(Supply::ENDLESS),
        _ => own.number(name).map(Supply::of),
    }
}

/// Gives the chunks of a restored engine the numbers of the snapshot.
fn renumber(linux: &mut Linux, state: &State, numbers: &[Option<u64>], created: u32) -> Result<(), StateError> {
    let bad = |message: &str| StateError::new(format!("{KEY}.numbers"), message);
    let mut pairs = Vec::with_capacity(numbers.len());
    for (chunk, number) in state.chunks.iter().zip(numbers) {
        let reserved = state.reserved_chunk.is_some_and(|index| std::ptr::eq(&state.chunks[index], chunk));
        match number {
            None if reserved => {}
            Some(number) if !reserved && *number < u64::from(created) => {
                let id = linux.restored_id(chunk.base_addr).ok_or_else(|| bad("name an unknown chunk"))?;
                pairs.push((id, ChunkId(*number as u32)));
            }
            _ => return Err(bad("must be below chunks_created, and null for the reserved chunk only")),
        }
    }
    let mut seen: Vec<ChunkId> = pairs.iter().map(|(_, to)| *to).collect();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() != pairs.len() {
        return Err(bad("must differ"));
    }
    linux.renumber(&pairs, created);
    Ok(())
}

fn address_of(state: &State, contiguous: bool) -> AddressMap {
    let possible = |cpu: usize| state.unit_map.get(cpu).copied().flatten();
    let cpus = state.unit_map.len().max(1);
    let known = !state.unit_map.is_empty();
    let unit = |cpu: usize| if known { possible(cpu) } else { Some(0) };
    let unit_map: Vec<Option<u32>> = (0..cpus).map(unit).collect();
    let offset = |cpu: usize| unit_map[cpu].map(|_| state.unit_offsets.get(cpu).copied().unwrap_or(0));
    AddressMap {
        base_addr: state.base_addr,
        per_cpu_start: state.per_cpu_start,
        unit_offsets: (0..cpus).map(offset).collect(),
        boot_cpu: unit_map.iter().position(Option::is_some).unwrap_or(0) as u32,
        unit_map,
        unit_size: state.unit_size,
        page_size: state.page_size(),
        static_size: state.static_size,
        linear: true,
        identity: contiguous,
        backend: if contiguous { Backend::KernelMemory } else { Backend::Vmalloc },
        word: WordSize::Bits64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Geometry;
    use crate::layout::vm_areas::{Fault, Search};
    use crate::layout::{FirstChunkRequest, Topology, VmallocSpace};
    use crate::request::Request;
    use crate::units::Bytes;

    fn used(mut a: Allocator) -> Allocator {
        let mut ptrs = Vec::new();
        for n in 0..3000u64 {
            ptrs.push(a.alloc(&Request::new(Bytes(1 + n * 37 % 3000), Bytes(1 << (n % 9)))).ptr);
            if n % 3 == 0 {
                let ptr = ptrs.swap_remove((n * 7919) as usize % ptrs.len());
                a.free(ptr, None).unwrap();
            }
        }
        for ptr in ptrs.drain(200..2000) {
            a.free(ptr, None).unwrap();
        }
        a
    }

    fn on_a_machine(release: &str) -> Allocator {
        let preset = Preset::by_release(release).unwrap();
        let topology = Topology::from_nodes(&[2, 1]).unwrap();
        let chunk = FirstChunkRequest::new(topology, preset.layout, 98_392).build().unwrap();
        Allocator::with_layout(preset, &chunk, Balance::Every(3)).unwrap()
    }

    /// Two nodes, chunks in a vmalloc space with something in the way.
    fn in_vmalloc_space(search: Search) -> Allocator {
        let preset = Preset::by_release("6.12").unwrap();
        let topology = Topology::from_nodes(&[2, 1]).unwrap();
        let chunk = FirstChunkRequest::new(topology, preset.layout, 98_392).build().unwrap();
        let mut space = VmallocSpace::x86_64(search);
        space.occupy(0xffff_e8ff_ff80_0000..0xffff_e8ff_ffb0_5000).unwrap();
        Allocator::with_vmalloc(preset, &chunk, Balance::Every(3), space).unwrap()
    }

    #[test]
    fn chunks_lie_in_the_vmalloc_space_and_copies_share_nothing() {
        let mut a = in_vmalloc_space(Search::FreeBlocks);
        let copy = a.clone();
        let big = Request::new(Bytes(32768), Bytes(4096));
        let ptrs: Vec<u64> = (0..1000).map(|_| a.alloc(&big).ptr).collect();
        let bases: Vec<u64> = a.engine().chunk_ids().iter().map(|id| a.engine().chunk_base(*id)).collect();
        // Two groups of one atom each: pairs from the top, around the obstacle.
        assert_eq!(bases[1], 0xffff_e8ff_ff40_0000);
        assert!(bases.len() > 20 && bases[2..bases.len() - 1].windows(2).all(|pair| pair[1] == pair[0] - (2 << 21)));
        for ptr in &ptrs {
            let address = a.per_cpu_ptr(*ptr, 2).unwrap();
            assert_eq!(
                a.find(address).unwrap().map(|(area, cpu)| (a.pointer(area.chunk, area.off), cpu)),
                Some((*ptr, 2))
            );
        }
        assert_eq!(copy.engine().backend().vmalloc().unwrap().space.busy().count(), 1);
        a.free_many(&ptrs, None, &mut || true).unwrap();
        a.run_balance();
        assert!(a.engine().backend().vmalloc().unwrap().space.lazy_pages() > 0);
    }

    #[test]
    fn a_full_vmalloc_space_fails_requests() {
        let mut a = in_vmalloc_space(Search::FreeBlocks);
        let space = a.engine_mut().backend_mut().vmalloc_space_mut().unwrap();
        let (start, end) = space.bounds();
        space.occupy(start..0xffff_e8ff_ff80_0000).unwrap();
        space.occupy(0xffff_e8ff_ffb0_5000..end).unwrap();
        let big = Request::new(Bytes(32768), Bytes(4096));
        assert_eq!(a.alloc(&big).outcome, crate::request::Outcome::Failed(crate::request::Reason::NoChunk));
        a.engine().verify().unwrap();
    }

    #[test]
    fn damaged_spaces_are_refused() {
        let mut a = used(in_vmalloc_space(Search::FreeBlocks));
        a.engine_mut().backend_mut().vmalloc_space_mut().unwrap().inject(Fault::Split(1), 2).unwrap();
        let bytes = a.snapshot().unwrap();
        let b = Allocator::from_snapshot(bytes.as_bytes()).unwrap();
        assert_eq!(b.snapshot().unwrap(), bytes);
        assert_eq!(b.engine().backend().vmalloc(), a.engine().backend().vmalloc());
        let whole: Value = serde_json::from_str(&bytes).unwrap();
        let keys: Vec<String> = whole[KEY]["vmalloc"].as_object().unwrap().keys().cloned().collect();
        for key in keys {
            for nonsense in [json!([1, {"a": -3}]), json!([[5, 4]]), json!(-1), json!({})] {
                let mut damaged = whole.clone();
                damaged[KEY]["vmalloc"][&key] = nonsense;
                assert!(Allocator::from_snapshot(damaged.to_string().as_bytes()).is_err(), "{key}");
            }
        }
        let mut moved = whole;
        moved[KEY]["vmalloc"]["busy"].as_array_mut().unwrap().clear();
        moved[KEY]["vmalloc"]["lazy"].as_array_mut().unwrap().clear();
        let error = Allocator::from_snapshot(moved.to_string().as_bytes()).unwrap_err();
        assert!(error.message.contains("has no areas there"), "{error}");
    }

    /// Two CPUs with 32-bit words.
    fn narrow_chunk() -> crate::layout::FirstChunk {
        let rules = Preset::by_release("6.12").unwrap().layout;
        let request = FirstChunkRequest::new(Topology::from_nodes(&[2]).unwrap(), rules, 98_392);
        request.on_word(WordSize::Bits32).build().unwrap()
    }

    #[test]
    fn words_of_32_bits_run_out_of_address_space() {
        let chunk = narrow_chunk();
        let mut a = Allocator::with_layout(Preset::by_release("6.12").unwrap(), &chunk, Balance::Eager).unwrap();
        let unit = Request::new(Bytes(32768), Bytes(4096));
        let mut ptrs = Vec::new();
        let failed = loop {
            match a.alloc(&unit) {
                placed if placed.ptr != 0 => ptrs.push(placed.ptr),
                failed => break failed.outcome,
            }
        };
        assert_eq!(failed, crate::request::Outcome::Failed(crate::request::Reason::NoChunk));
        assert!(ptrs.iter().all(|ptr| *ptr <= u64::from(u32::MAX)));
        let ids = a.engine().chunk_ids();
        let later = ids.iter().map(|id| a.engine().chunk_base(*id)).filter(|base| *base < chunk.base_addr);
        assert!(later.max().unwrap() + chunk.span() <= chunk.base_addr, "below the first chunk");
        a.free_many(&ptrs, None, &mut || true).unwrap();
    }

    #[test]
    fn a_restored_snapshot_is_equal_and_goes_on_equally() {
        let preset = Preset::by_release("6.12").unwrap();
        let g = Geometry::new(Bytes(4096), Bytes(8), Bytes(1024), Bytes(65536), 2).unwrap();
        let bare = Allocator::bare(preset, g, Balance::Manual).unwrap();
        let machines = [on_a_machine("6.12"), on_a_machine("5.4"), on_a_machine("4.19"), bare];
        let narrow = Allocator::with_layout(preset, &narrow_chunk(), Balance::Eager).unwrap();
        let spaces = [Search::BusyAreas, Search::FreeBlocks, Search::Declarative].map(in_vmalloc_space);
        for a in machines.into_iter().chain(spaces).chain([narrow]) {
            let a = used(a);
            let bytes = a.snapshot().unwrap();
            let b = Allocator::from_snapshot(bytes.as_bytes()).unwrap();
            assert_eq!(b.snapshot().unwrap(), bytes);
            assert_eq!(b.stats(), a.stats());
            let (a, b) = (used(a), used(b));
            assert_eq!(a.snapshot().unwrap(), b.snapshot().unwrap());
        }
    }

    #[test]
    fn damaged_snapshots_are_refused() {
        let bytes = used(on_a_machine("6.12")).snapshot().unwrap();
        let whole: Value = serde_json::from_str(&bytes).unwrap();
        let keys: Vec<String> = whole[KEY].as_object().unwrap().keys().cloned().collect();
        for key in keys {
            let mut damaged = whole.clone();
            damaged[KEY][&key] = json!([1, {"a": -3}]);
            assert!(Allocator::from_snapshot(damaged.to_string().as_bytes()).is_err(), "{key}");
        }
        assert!(Allocator::from_snapshot(b"{}").is_err());
        assert!(Allocator::from_snapshot(&bytes.as_bytes()[..bytes.len() / 2]).is_err());
    }
}
