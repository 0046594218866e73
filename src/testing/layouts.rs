//! Layouts out of bytes: the first chunk of any machine, judged.
//!
//! # Design
//!
//! [`run`] reads bytes as a request for a first chunk. What is refused must be refused with an error that names
//! a parameter. Of what is built:
//!
//! * the layout record is that of `slow`, which is steps A to E of the specification, word by word;
//! * every CPU has one unit, units do not overlap, tables and groups agree;
//! * addresses lead to the CPU that they came from;
//! * the boot lines, read again, give the record;
//! * an allocator can begin there, serves legally, and is whole.
//!
//! # Source
//!
//! Specification 30 sections 3 to 9; 31 section 3.

use std::panic::{catch_unwind, AssertUnwindSafe};

use super::operations::input::Input;
use super::operations::{case_bytes, Finding};
use crate::address::AddressMap;
use crate::allocator::{Allocator, Balance, NULL};
use crate::boot_log::BootLog;
use crate::error::LayoutError;
use crate::layout::{AllocInfo, Distance, FirstChunk, FirstChunkRequest, Kind, Topology};
use crate::request::Request;
use crate::units::{Bytes, WordSize};
use crate::variant::{BootAllocators, Build, Generation, Grouping, LayoutRules, Preset, Regions, DYN_PADDING};

/// Most CPUs of a request.
const MAX_CPUS: u64 = 40;
/// Units of more bytes get no allocator: that would be slow.
const ALLOCATOR_UNIT: u64 = 1 << 21;

fn topology(input: &mut Input<'_>) -> Option<Topology> {
    let nr = 1 + input.below(MAX_CPUS);
    let nodes = 1 + input.below(5) as u32;
    let mut topology = match input.below(3) {
        // Node after node, or in turn.
        0 => Topology::from_cpu_nodes((0..nr as u32).map(|cpu| cpu * nodes / nr as u32).collect()),
        1 => Topology::from_cpu_nodes((0..nr as u32).map(|cpu| cpu % nodes).collect()),
        _ => Topology::from_cpu_nodes((0..nr).map(|_| input.below(u64::from(nodes)) as u32).collect()),
    }
    .ok()?;
    let mut table = |n: u64| -> Vec<Vec<u32>> {
        (0..n).map(|_| (0..n).map(|_| input.of(&[10, 10, 20, 21, 5])).collect()).collect()
    };
    topology = match nr % 4 {
        0 => topology.with_distance(Distance::Nodes(table(u64::from(nodes)))).ok()?,
        1 if nr <= 13 => topology.with_distance(Distance::Cpus(table(nr))).ok()?,
        2 if input.one_in(3) => topology.without_distance(),
        _ => topology,
    };
    if input.one_in(3) {
        let gone: Vec<u32> = (0..nr as u32).filter(|_| input.one_in(4)).collect();
        topology = topology.with_impossible(&gone).ok()?;
    }
    Some(topology)
}

fn rules(input: &mut Input<'_>, word: WordSize) -> Option<LayoutRules> {
    if input.one_in(8) {
        return Some(Preset::of_generation(Generation::RfcV1).layout);
    }
    let release = input.of(&[
        (2, 6, 30),
        (2, 6, 31),
        (2, 6, 32),
        (2, 6, 36),
        (3, 2, 0),
        (4, 9, 0),
        (4, 14, 0),
        (4, 19, 0),
        (5, 4, 0),
        (5, 12, 0),
        (5, 14, 0),
        (6, 2, 0),
        (6, 12, 0),
    ]);
    let build = Build { modules: input.one_in(2), ..Build::default() };
    LayoutRules::of_release(release, word, build).ok()
}

/// A size of up to `2^bits`, small ones as often as large ones.
fn size(input: &mut Input<'_>, bits: u64) -> u64 {
    let power = input.below(bits + 1);
    input.below(1 << power)
}

fn request(input: &mut Input<'_>) -> Option<FirstChunkRequest> {
    let word = if input.one_in(4) { WordSize::Bits32 } else { WordSize::Bits64 };
    let rules = rules(input, word)?;
    let topology = topology(input)?;
    let static_size = size(input, 20);
    let mut request = FirstChunkRequest::new(topology, rules, static_size).on_word(word);
    let page = input.of(&[4096, 4096, 4096, 4096, 16384, 65536, 64, 8192, 1 << 20, 3000]);
    request.page_size = page;
    request.reserved_size = if input.one_in(2) { size(input, 17) } else { rules.module_reserve };
    request.dyn_size = match input.below(8) {
        0 => DYN_PADDING,
        1 => 0,
        2 | 3 => size(input, 18),
        _ => rules.dyn_reserve,
    };
    request.atom_size = match input.below(6) {
        0 => page * (1 + input.below(700)),
        1 => input.below(1 << 24),
        2 => page,
        _ => 2 << 20,
    };
    request.kind = match input.below(12) {
        0 => Kind::Page,
        1 => Kind::Explicit { unit_size: page * (1 + input.below(512)) },
        2 => Kind::Up,
        3 => Kind::LargePage,
        4 => Kind::Embed,
        _ => Kind::Auto,
    };
    if input.one_in(8) {
        request.min_unit_size = Some(size(input, 20));
    }
    if input.one_in(8) {
        request.vmalloc_total = size(input, 40);
    }
    request.page_allocator = !input.one_in(8);
    request.fallback = !input.one_in(8);
    Some(request)
}

fn up(x: u64, a: u64) -> u64 {
    x.div_ceil(a) * a
}

/// Steps A to E as they are written, for releases that have this function (2.6.32 and later).
fn slow(request: &FirstChunkRequest) -> AllocInfo {
    let (page, rules, topology) = (request.page_size, &request.rules, &request.topology);
    // Step A.
    let mut reserved = request.reserved_size;
    if rules.regions == Regions::PaddedReserved && reserved != 0 {
        reserved = up(request.static_size + reserved, page) - request.static_size;
    }
    let wanted = if rules.signed_dyn && request.dyn_size == DYN_PADDING { 0 } else { request.dyn_size };
    let d = wanted.max(rules.early_size);
    let size_sum = up(request.static_size + reserved + d, page);
    let stays = rules.signed_dyn && request.dyn_size == 0;
    let dyn_size = if stays { 0 } else { size_sum - request.static_size - reserved };
    let min_unit = size_sum.max(request.min_unit_size()).max(page);
    // Step B.
    let alloc_size = up(min_unit, request.atom_size);
    let mut max_upa = alloc_size / min_unit;
    while alloc_size % max_upa != 0 || (alloc_size / max_upa) % page != 0 {
        max_upa -= 1;
    }
    // Step C.
    let groups = match rules.grouping {
        Grouping::FirstMember => by_first_member(topology),
        Grouping::AllMembers => by_all_members(topology),
    };
    // Step D.
    let nr_possible: u64 = groups.iter().map(|group| group.len() as u64).sum();
    let (mut last_allocs, mut best) = (2_147_483_647, 0);
    for upa in (1..=max_upa).rev() {
        if alloc_size % upa != 0 || (alloc_size / upa) % page != 0 {
            continue;
        }
        let (mut allocs, mut wasted) = (0, 0);
        for group in &groups {
            let count = group.len() as u64;
            let ours = count.div_ceil(upa);
            allocs += ours;
            wasted += ours * upa - count;
        }
        if wasted > nr_possible / 3 {
            continue;
        }
        if allocs > last_allocs {
            break;
        }
        (last_allocs, best) = (allocs, upa);
    }
    // Step E.
    let unit_size = alloc_size / best;
    let mut base_offset = 0;
    let groups = groups
        .iter()
        .map(|cpus| {
            let nr_units = up(cpus.len() as u64, best);
            let cpu_map = (0..nr_units as usize).map(|unit| cpus.get(unit).copied()).collect();
            let group = crate::layout::Group { nr_units: nr_units as u32, base_offset, cpu_map };
            base_offset += unit_size * nr_units;
            group
        })
        .collect();
    let (static_size, atom_size) = (request.static_size, request.atom_size);
    AllocInfo { static_size, reserved_size: reserved, dyn_size, unit_size, atom_size, alloc_size, groups }
}

fn by_first_member(topology: &Topology) -> Vec<Vec<u32>> {
    let mut group_of: Vec<Option<usize>> = vec![None; topology.nr_cpu_ids() as usize];
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for &c in topology.possible() {
        if group_of[c as usize].is_some() {
            continue;
        }
        let mut group = Vec::new();
        for &t in topology.possible() {
            let near = |from, to| topology.distance(from, to).is_none_or(|distance| distance == 10);
            if group_of[t as usize].is_none() && (t == c || near(c, t) && near(t, c)) {
                group_of[t as usize] = Some(groups.len());
                group.push(t);
            }
        }
        groups.push(group);
    }
    groups
}

fn by_all_members(topology: &Topology) -> Vec<Vec<u32>> {
    let possible = topology.possible();
    let mut group_of: Vec<usize> = Vec::new();
    for (index, &c) in possible.iter().enumerate() {
        let mut g = 0;
        'scan: loop {
            for (before, &t) in possible[..index].iter().enumerate() {
                let far = |from, to| topology.distance(from, to).is_some_and(|distance| distance > 10);
                if group_of[before] == g && (far(c, t) || far(t, c)) {
                    g += 1;
                    continue 'scan;
                }
            }
            break;
        }
        group_of.push(g);
    }
    let nr = group_of.iter().max().map_or(0, |last| last + 1);
    (0..nr).map(|g| (0..possible.len()).filter(|i| group_of[*i] == g).map(|i| possible[i]).collect()).collect()
}

/// Runs one request: whether a first chunk was built, or what was wrong.
pub fn run(bytes: &[u8]) -> Result<bool, String> {
    let mut input = Input::new(bytes);
    let Some(request) = request(&mut input) else { return Ok(false) };
    let shown = |what: String| format!("{what}\n{request:?}");
    if request.rules.allocators == BootAllocators::Groups {
        match request.alloc_info() {
            Ok(info) => {
                let slow = slow(&request);
                if info != slow {
                    return Err(shown(format!("the record is {info:?}, step by step {slow:?}")));
                }
                info.verify(&request.topology, request.page_size).map_err(|violation| shown(violation.to_string()))?;
            }
            Err(error) if error.parameter.is_empty() => return Err(shown("an error without a parameter".into())),
            Err(_) => {}
        }
    }
    match request.build() {
        Ok(chunk) => judge(&request, &chunk, &mut input).map_err(shown).map(|()| true),
        Err(LayoutError::Input(error)) if error.parameter.is_empty() => {
            Err(shown("an error without a parameter".into()))
        }
        Err(_) => Ok(false),
    }
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(what.to_owned())
    }
}

fn judge(request: &FirstChunkRequest, chunk: &FirstChunk, input: &mut Input<'_>) -> Result<(), String> {
    let unit = chunk.info.unit_size;
    let cpus: Vec<u32> = chunk.cpus().collect();
    if request.kind != Kind::Up {
        ensure(cpus == request.topology.possible(), "the CPUs are not those of the topology")?;
    }
    // Every CPU in exactly one unit, and units apart from each other.
    let mut starts: Vec<u64> = cpus.iter().map(|cpu| chunk.unit_offsets[*cpu as usize]).collect();
    starts.sort_unstable();
    ensure(starts.windows(2).all(|pair| pair[1] - pair[0] >= unit), "units overlap")?;
    let mut spans: Vec<(u64, u64)> =
        chunk.group_offsets.iter().copied().zip(chunk.group_sizes.iter().copied()).collect();
    spans.sort_unstable();
    ensure(spans.first().is_some_and(|(start, _)| *start == 0), "no group at offset 0")?;
    ensure(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "groups overlap")?;
    ensure(
        starts.iter().all(|start| spans.iter().any(|(from, size)| start >= from && start + unit <= from + size)),
        "a unit in no group",
    )?;
    ensure(chunk.info.size_sum() <= unit, "a unit is smaller than its parts")?;
    // Addresses and back.
    let map = AddressMap::from_first_chunk(chunk, 0);
    let off = input.below(unit.max(1));
    for &cpu in &cpus {
        let ptr = map.addr_to_ptr(map.word.wrap(chunk.base_addr.wrapping_add(off)));
        let addr = map.per_cpu_ptr(ptr, cpu).ok_or("no address for a possible CPU")?;
        let back = map.unit_address(addr, chunk.base_addr);
        let here = back.is_some_and(|found| found.cpu == cpu && found.offset == off);
        ensure(here || chunk.identity, "an address leads to another CPU or offset")?;
    }
    // Lines and back. They show whole atoms; the explicit allocator need not have such.
    if chunk.rules.allocators == BootAllocators::Groups && chunk.info.alloc_size % chunk.info.atom_size == 0 {
        let log = BootLog::parse(&chunk.boot_log());
        let record = chunk.info.boot_record();
        ensure(log.record().as_ref() == Some(&record), "the boot lines give another record")?;
    }
    begin(chunk, input)
}

/// An allocator of its time on it, if it is small enough to be quick.
fn begin(chunk: &FirstChunk, input: &mut Input<'_>) -> Result<(), String> {
    let generation = match (chunk.rules.regions, chunk.rules.extra_slots) {
        (Regions::WholeUnit, _) => Generation::AreaMap,
        (Regions::PaddedReserved, _) => Generation::RfcV1,
        (Regions::HiddenEnds, 4) => Generation::Linux514,
        (Regions::HiddenEnds, _) => input.of(&[Generation::Linux414, Generation::Linux52]),
    };
    if chunk.info.unit_size > ALLOCATOR_UNIT || chunk.unit_pages() > 4096 {
        return Ok(());
    }
    let preset = Preset::of_generation(generation);
    let Ok(mut a) = Allocator::with_layout(preset, chunk, Balance::Eager) else { return Ok(()) };
    let whole = |a: &Allocator| a.engine().verify().map_err(|violation| format!("{generation}: {violation}"));
    whole(&a)?;
    let mut live: Vec<(u64, u64)> = Vec::new();
    for _ in 0..4 {
        let size = 1 + input.below(300);
        let placed = a.alloc(&Request { reserved: input.one_in(4), ..Request::new(Bytes(size), Bytes(8)) });
        if placed.ptr != NULL {
            let apart = |(other, length): &(u64, u64)| placed.ptr + size <= *other || other + length <= placed.ptr;
            ensure(live.iter().all(apart), "areas overlap")?;
            live.push((placed.ptr, size));
        }
        whole(&a)?;
    }
    for (ptr, size) in live {
        a.free(ptr, Some(Bytes(size))).map_err(|error| format!("{generation}: {error}"))?;
    }
    whole(&a)
}

/// Runs cases `from..to` of `seed`, up to the first that fails: how many first chunks were built.
pub fn run_cases(seed: u64, from: u64, to: u64) -> (u64, Option<Finding>) {
    let mut built = 0;
    for index in from..to {
        let bytes = &case_bytes(seed, index)[..256];
        let result = catch_unwind(AssertUnwindSafe(|| run(bytes))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        });
        match result {
            Ok(one) => built += u64::from(one),
            Err(what) => return (built, Some(Finding { index, bytes: bytes.to_vec(), what })),
        }
    }
    (built, None)
}
