//! Allocators as bytes: snapshots, and states recorded elsewhere.
//!
//! # Design
//!
//! A snapshot is binary ([`bulk`](crate::engine::saved::bulk)): sections of words for busy ranges, chunks and lists, and a head
//! with policy, addresses, what stands behind the chunks, and the rest of the engine. A Linux generation is written and
//! checked as a [`State`], whose totals are in the head; the engines before 4.14 have no states, and write themselves
//! ([`saved`]).
//!
//! # Cost
//!
//! Linear in the maps. Everything is checked as a state file is, word by word.

use serde_json::{json, Map, Value};

use super::saved::{self, Restored};
use super::{space, Allocator, Balance};
use crate::address::{AddressMap, NO_LAYOUT_BASE};
use crate::backend::Supply;
use crate::engine::linux::Linux;
use crate::engine::saved::bulk::{self, Reader, Writer};
use crate::engine::saved::{Fields, MAX_CHUNKS};
use crate::error::StateError;
use crate::layout::Backend;
use crate::request::ChunkId;
use crate::state::{self, State};
use crate::stats_text::StatsSizes;
use crate::units::{round_up, WordSize};
use crate::variant::{Preset, Thresholds};

/// How errors call the head.
const HEAD: &str = "snapshot";
/// A key of the head that is there only if area maps can run out of extensions.
const EXTEND: &str = "extend_supply";

impl Allocator {
    /// The complete state, as state files have it.
    pub fn state(&self) -> Result<State, StateError> {
        let linux = self
            .engine
            .as_linux()
            .ok_or_else(|| StateError::new("engine", format!("{} has no state file form", self.engine.generation())))?;
        Ok(self.with_machine(State::capture(linux)))
    }

    /// A state of the engine, with what this knows of the machine.
    fn with_machine(&self, state: State) -> State {
        let map = &self.address;
        let low = map.units().min_by_key(|(_, offset)| *offset).map(|(cpu, _)| cpu);
        let high = map.units().max_by_key(|(_, offset)| *offset).map(|(cpu, _)| cpu);
        let backend = self.engine.backend();
        State {
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
            ..state
        }
    }

    /// The state in a state file, compressed or not, or in a snapshot.
    pub fn read_state(bytes: &[u8]) -> Result<State, StateError> {
        if bytes.starts_with(&bulk::MAGIC) {
            Self::from_snapshot(bytes)?.state()
        } else {
            State::from_json(bytes)
        }
    }

    /// An allocator in a recorded state, by the rules of `preset`.
    pub fn from_state(state: &State, preset: &'static Preset, balance: Balance) -> Result<Self, StateError> {
        Self::from_state_taking(&mut state.clone(), preset, balance)
    }

    /// The same; maps and hints are taken out of the state.
    fn from_state_taking(state: &mut State, preset: &'static Preset, balance: Balance) -> Result<Self, StateError> {
        let linux = state.restore_taking(preset)?;
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
    pub fn snapshot(&self) -> Result<Vec<u8>, StateError> {
        let created = self.engine.chunks_created();
        if created > MAX_CHUNKS {
            return Err(StateError::new(
                HEAD,
                format!("{created} chunks were made, more than the {MAX_CHUNKS} it can tell"),
            ));
        }
        let mut out = Writer::default();
        // Sections are written in the order in which they are wanted.
        let linux = self.engine.as_linux();
        linux.inspect(|linux| State::write_chunks(linux, &mut out));
        let mut own = self.own_part(&mut out);
        let mut put = |key: &str, value| own.insert(key.into(), value);
        if let Some(left) = self.engine.backend().extend_supply.left() {
            put(EXTEND, json!(left));
        }
        if let Some(linux) = linux {
            put("chunks", json!(linux.chunk_ids().count()));
            put("chunks_created", json!(created));
            put("warn_limit", json!(linux.warn_limit));
            put("state", self.with_machine(State::capture_totals(linux)).to_value());
        } else {
            let engine = self.engine.save(&mut out);
            let none = || StateError::new(HEAD, format!("{} cannot be saved", self.engine.generation()));
            put("engine", engine.ok_or_else(none)?);
            put("machine", self.machine_to_saved());
        }
        Ok(out.finish(&Value::Object(own)))
    }

    /// What the snapshots of all engines have.
    fn own_part(&self, out: &mut Writer) -> Map<String, Value> {
        let backend = self.engine.backend();
        let (next_addr, chunk_span) = backend.address_space();
        let sizes = &self.sizes;
        let thresholds = self.engine.thresholds().unwrap_or_default().named();
        let own = json!({
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
            "vmalloc": backend.vmalloc().map(|vmalloc| space::to_saved(vmalloc, out)),
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
        let (head, mut bulk) = Reader::open(bytes)?;
        let own = Fields::new(&head, HEAD)?;
        let preset = Preset::by_release(own.text("kernel")?).ok_or_else(|| own.bad("kernel"))?;
        let balance = match own.value("balance")? {
            Value::String(text) if text == "eager" => Balance::Eager,
            Value::String(text) if text == "manual" => Balance::Manual,
            _ => Balance::Every(own.small("balance")?.max(1)),
        };
        own.check(own.number("atom_size")?.is_power_of_two(), "atom_size")?;
        let since_balance = own.small("since_balance")?;
        let mut allocator = if preset.generation.rules().is_some() {
            Self::from_state_snapshot(&mut bulk, preset, balance, &own)?
        } else {
            let Restored { engine, address, sizes, groups } = saved::read(&own, &mut bulk, preset)?;
            Self { engine, address, preset, sizes, groups, balance, since_balance }
        };
        bulk.end()?;
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
        bulk: &mut Reader<'_>,
        preset: &'static Preset,
        balance: Balance,
        own: &Fields<'_>,
    ) -> Result<Self, StateError> {
        let contiguous = own.flag("contiguous")?;
        let mut state = State::from_unchecked(own.value("state")?.clone())?;
        own.check(state.chunks.is_empty() && state.slots.is_empty(), "state")?;
        let numbers = state.read_chunks(own.number("chunks")?, bulk)?;
        let mut allocator = Self::from_state_taking(&mut state, preset, balance)?;
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
        let created = own.chunks_created("chunks_created")?;
        let linux = allocator.engine.as_linux_mut().expect("restored from a state");
        linux.warn_limit = own.small("warn_limit")?;
        let backend = &mut linux.backend;
        backend.contiguous = contiguous;
        backend.backing_pages = own.number_to("backing_pages", u64::MAX / 2)?;
        let next_addr = own.number("next_addr")?;
        own.check(next_addr >= NO_LAYOUT_BASE, "next_addr")?;
        backend.set_address_space(next_addr, own.number("chunk_span")?, atom);
        space::read(own, bulk, backend)?;
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
    let given = own.object("thresholds")?;
    for (name, _) in Thresholds::KERNEL.named() {
        thresholds = thresholds.with(name, given.small(name)?).expect("it is a name of one");
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
fn renumber(linux: &mut Linux, state: &State, numbers: &[ChunkId], created: u32) -> Result<(), StateError> {
    let bad = |index: usize, message: &str| StateError::new(format!("chunks[{index}].number"), message);
    let mut pairs = Vec::with_capacity(numbers.len());
    for (index, number) in numbers.iter().enumerate() {
        let reserved = state.reserved_chunk == Some(index);
        if number.is_reserved() != reserved || (!reserved && number.0 >= created) {
            return Err(bad(index, "must be below chunks_created, and that of the reserved chunk for it only"));
        }
        if !reserved {
            let id = linux.restored_id(state.chunks[index].base_addr);
            pairs.push((id.ok_or_else(|| bad(index, "names an unknown chunk"))?, *number));
        }
    }
    let mut seen: Vec<ChunkId> = pairs.iter().map(|(_, to)| *to).collect();
    seen.sort_unstable();
    if let Some(pair) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(StateError::new("chunks", format!("{} is the number of two", pair[0])));
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
        let b = Allocator::from_snapshot(&bytes).unwrap();
        assert_eq!(b.snapshot().unwrap(), bytes);
        assert_eq!(b.engine().backend().vmalloc(), a.engine().backend().vmalloc());
        let (head, _) = Reader::open(&bytes).unwrap();
        for key in head["vmalloc"].as_object().unwrap().keys() {
            for nonsense in [json!([1, {"a": -3}]), json!([[5, 4]]), json!(-1), json!({})] {
                let mut damaged = head.clone();
                damaged["vmalloc"][key] = nonsense;
                assert!(Allocator::from_snapshot(&bulk::with_head(&bytes, &damaged)).is_err(), "{key}");
            }
        }
        let with_busy = |busy: &[u64], lazy: &[u64]| {
            let bytes = bulk::with_section(&bytes, bulk::Kind::Space, |out| {
                out.list(busy.iter().copied());
                out.list(lazy.iter().copied());
            });
            Allocator::from_snapshot(&bytes).unwrap_err()
        };
        assert!(with_busy(&[], &[]).message.contains("has no areas there"));
        for (busy, lazy) in [(&[5_u64, 4][..], &[][..]), (&[1 << 63], &[]), (&[], &[7])] {
            with_busy(busy, lazy);
        }
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
            let b = Allocator::from_snapshot(&bytes).unwrap();
            assert_eq!(b.snapshot().unwrap(), bytes);
            assert_eq!(b.stats(), a.stats());
            let (a, b) = (used(a), used(b));
            assert_eq!(a.snapshot().unwrap(), b.snapshot().unwrap());
        }
    }

    #[test]
    fn damaged_snapshots_are_refused() {
        let bytes = used(on_a_machine("6.12")).snapshot().unwrap();
        let (head, _) = Reader::open(&bytes).unwrap();
        for key in head.as_object().unwrap().keys() {
            let mut damaged = head.clone();
            damaged[key] = json!([1, {"a": -3}]);
            assert!(Allocator::from_snapshot(&bulk::with_head(&bytes, &damaged)).is_err(), "{key}");
        }
        assert!(Allocator::from_snapshot(b"{}").is_err());
        assert!(Allocator::from_snapshot(&bytes[..bytes.len() / 2]).is_err());
    }

    #[test]
    fn a_snapshot_holds_a_state_as_a_state_file_does() {
        for release in ["4.19", "6.12"] {
            let a = used(on_a_machine(release));
            let state = a.state().unwrap();
            assert_eq!(Allocator::read_state(&a.snapshot().unwrap()).unwrap(), state);
            assert_eq!(Allocator::read_state(state.to_json().as_bytes()).unwrap(), state);
        }
    }
}
