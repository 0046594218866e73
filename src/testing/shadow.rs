//! What every engine owes, judged by a table of live areas.
//!
//! # Design
//!
//! [`check`] drives any engine with a list of [`Op`]s beside a shadow: a plain list of what was
//! placed where. It judges legality, not placement: areas of a chunk never overlap, are aligned
//! and inside the served range; the counters agree with the list; [`Engine::verify`] holds after
//! every operation; a copy made half-way and given the same operations ends in the same state.
//!
//! Source: specification 90 section 1.

use proptest::prelude::*;

use crate::backend::{Backend, Supply};
use crate::engine::{BootChunks, BootRegion, Engine, Setup};
use crate::geometry::Geometry;
use crate::request::{ChunkId, Outcome, Request, Sleep};
use crate::units::{Bytes, Pages};
use crate::variant::{Generation, Regions, Rules};

/// One step against an engine.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// A request.
    Alloc(Request),
    /// Frees one of the live areas, by an index taken modulo their number.
    Free(usize),
    /// Runs the worker if it is scheduled, or in any case.
    Balance {
        /// Also when it is not scheduled.
        always: bool,
    },
    /// Sets the supply of pages, mappings or chunks.
    Supply {
        /// Which of the three.
        kind: u8,
        /// How many are left; `None` = endless.
        left: Option<u64>,
    },
}

/// Random operations for units of `unit` bytes with pages of `page` bytes.
pub fn ops(unit: u64, page: u64, len: usize) -> impl Strategy<Value = Vec<Op>> {
    let size = prop_oneof![6 => 1..=page / 4, 3 => 1..=page * 2, 1 => 1..=unit];
    let align = (0..=page.trailing_zeros()).prop_map(|shift| 1 << shift);
    let request = (size, align, 0..8u8).prop_map(|(size, align, kind)| Request {
        sleep: match kind {
            0 | 1 => Sleep::Never,
            2 => Sleep::NoFs,
            _ => Sleep::Full,
        },
        reserved: kind % 4 == 3,
        ..Request::new(Bytes(size), Bytes(align))
    });
    let op = prop_oneof![
        10 => request.prop_map(Op::Alloc),
        8 => any::<usize>().prop_map(Op::Free),
        3 => any::<bool>().prop_map(|always| Op::Balance { always }),
        1 => (0..3u8, prop::option::of(0..6u64)).prop_map(|(kind, left)| Op::Supply { kind, left }),
    ];
    prop::collection::vec(op, 1..len)
}

/// A small machine of two CPUs: units of `unit` bytes, pages of 64, and a boot area of `head` bytes
/// of static data, `reserved` and `first` bytes, as `regions` lays them. `first` = 0: no boot area.
pub fn small_setup(generation: Generation, unit: u64, head: u64, reserved: u64, first: u64) -> Setup {
    const PAGE: u64 = 64;
    let geometry = Geometry::new(Bytes(PAGE), Bytes(4), Bytes(PAGE), Bytes(unit), 2).expect("a legal geometry");
    let regions = match generation {
        Generation::CpuAlloc2008 | Generation::AreaMap => Regions::WholeUnit,
        Generation::RfcV1 => Regions::PaddedReserved,
        _ => Regions::HiddenEnds,
    };
    let region = |from: u64, size: u64| {
        let base_addr = if regions == Regions::WholeUnit { 0 } else { from - from % PAGE };
        BootRegion { base_addr, start_offset: Bytes(from - base_addr), size: Bytes(size) }
    };
    let boot = (first > 0).then(|| BootChunks {
        base_addr: 0,
        first: region(head + reserved, first),
        reserved: (reserved > 0).then(|| region(head, reserved)),
        nr_populated: Pages(((head + reserved + first) / PAGE) as u32),
    });
    Setup {
        geometry,
        rules: generation.rules().unwrap_or(Rules::LINUX_5_14),
        warn_atomic: false,
        async_enabled: true,
        boot,
        backend: Backend::new(2, PAGE, PAGE, 2 * unit),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Live {
    chunk: ChunkId,
    off: u64,
    /// As asked for.
    size: u64,
}

#[derive(Clone)]
struct Shadow {
    engine: Box<dyn Engine>,
    live: Vec<Live>,
}

/// Runs `ops` on `engine` and describes what it did wrong.
pub fn check(engine: Box<dyn Engine>, ops: &[Op]) -> Result<(), String> {
    let mut shadow = Shadow { engine, live: Vec::new() };
    shadow.after()?;
    let (before, behind) = ops.split_at(ops.len() / 2);
    before.iter().try_for_each(|op| shadow.step(op))?;
    let mut copy = shadow.clone();
    behind.iter().try_for_each(|op| shadow.step(op))?;
    behind.iter().try_for_each(|op| copy.step(op))?;
    if shadow.live != copy.live || format!("{:?}", shadow.engine) != format!("{:?}", copy.engine) {
        return Err("a copy went another way".into());
    }
    while !shadow.live.is_empty() {
        shadow.step(&Op::Free(0))?;
    }
    Ok(())
}

impl Shadow {
    fn step(&mut self, op: &Op) -> Result<(), String> {
        self.act(op).and_then(|()| self.after()).map_err(|error| format!("{op:?}: {error}"))
    }

    fn act(&mut self, op: &Op) -> Result<(), String> {
        match *op {
            Op::Alloc(request) => {
                if let Outcome::Placed { chunk, off } = self.engine.alloc(&request) {
                    self.placed(&request, chunk, off)?;
                }
            }
            Op::Free(_) if self.live.is_empty() => {}
            Op::Free(index) => {
                let live = self.live.swap_remove(index % self.live.len());
                let (off, size) = (Bytes(live.off), Some(Bytes(live.size)));
                self.engine.check_free(live.chunk, off, size).map_err(|error| error.to_string())?;
                let freed = self.engine.free(live.chunk, off, size).map_err(|error| error.to_string())?;
                if freed.0 < live.size {
                    return Err(format!("{freed} freed of {live:?}"));
                }
                let before = format!("{:?}", self.engine);
                if self.engine.generation() != Generation::CpuAlloc2008 {
                    let again = self.engine.free(live.chunk, off, size);
                    if again.is_ok() || format!("{:?}", self.engine) != before {
                        return Err(format!("{live:?} could be freed twice, or the refusal left a trace"));
                    }
                }
            }
            Op::Balance { always } => {
                if always || self.engine.balance_pending() {
                    self.engine.balance();
                }
            }
            Op::Supply { kind, left } => {
                let backend = self.engine.backend_mut();
                let supply = match kind {
                    0 => &mut backend.page_supply,
                    1 => &mut backend.map_supply,
                    _ => &mut backend.chunk_supply,
                };
                *supply = left.map_or(Supply::ENDLESS, Supply::of);
            }
        }
        Ok(())
    }

    fn placed(&mut self, request: &Request, chunk: ChunkId, off: Bytes) -> Result<(), String> {
        let new = Live { chunk, off: off.0, size: request.size.0 };
        let view = self.engine.chunk(chunk).ok_or_else(|| format!("{new:?} is in no chunk"))?;
        let page = self.engine.geometry().page_size().0;
        let served = view.start_offset.0..=u64::from(view.nr_pages.0) * page - view.end_offset.0;
        if !served.contains(&new.off) || !served.contains(&(new.off + new.size)) {
            return Err(format!("{new:?} is outside {served:?}"));
        }
        if new.off % request.align.0 != 0 {
            return Err(format!("{new:?} is not aligned to {}", request.align));
        }
        let hit = |live: &&Live| live.chunk == chunk && live.off < new.off + new.size && new.off < live.off + live.size;
        if let Some(other) = self.live.iter().find(hit) {
            return Err(format!("{new:?} overlaps {other:?}"));
        }
        let found = self.engine.find_chunk(view.base_addr + new.off);
        if found != Some(chunk) {
            return Err(format!("{new:?} is found in {found:?}"));
        }
        if let Some((start, size)) = self.engine.area_at(chunk, Bytes(new.off + new.size - 1)) {
            if start != off || size.0 < new.size {
                return Err(format!("{new:?} is shown as {size} at {start}"));
            }
        }
        self.live.push(new);
        Ok(())
    }

    fn after(&self) -> Result<(), String> {
        self.engine.verify().map_err(|violation| violation.to_string())?;
        let stats = self.engine.stats();
        if stats.nr_cur_alloc != self.live.len() as u64 {
            return Err(format!("{stats:?} with {} live areas", self.live.len()));
        }
        for id in self.engine.chunk_ids() {
            let view = self.engine.chunk(id).ok_or("a listed chunk is missing")?;
            let wanted: u64 = self.live.iter().filter(|live| live.chunk == id).map(|live| live.size).sum();
            let all = u64::from(view.nr_pages.0) * self.engine.geometry().page_size().0;
            if all - view.start_offset.0 - view.end_offset.0 < view.free_bytes.0 + wanted {
                return Err(format!("chunk {id}: {} free beside {wanted} live bytes", view.free_bytes));
            }
        }
        Ok(())
    }
}

mod tests {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Every generation owes the same; chunk 0 of a machine without a boot area is an ordinary one.
        #[test]
        fn every_engine_serves_legally(ops in ops(512, 64, 80), boot in any::<bool>()) {
            for generation in Generation::ALL {
                let setup = small_setup(generation, 512, 64, 64, if boot { 192 } else { 0 });
                let engine = crate::engine::new(generation, &setup).unwrap();
                prop_assert_eq!(engine.generation(), generation);
                prop_assert_eq!(check(engine, &ops), Ok(()), "{}", generation);
            }
        }
    }
}
