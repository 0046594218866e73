//! What is live, kept as plainly as can be, and compared with what the engine shows.
//!
//! # Design
//!
//! A list of areas, and for each chunk a map that is written bit by bit, with none of the functions
//! of [`bitmap`](crate::bitmap). Maps are compared where a generation keeps one (`exact`); of the
//! others areas are asked for one by one.

use crate::allocator::{Allocator, Placement, NULL};
use crate::engine::{ChunkView, Engine};
use crate::request::{ChunkId, Outcome, Request};
use crate::units::Bytes;
use crate::variant::Generation;

/// A live area.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Its pointer.
    pub ptr: u64,
    /// Its chunk.
    pub chunk: ChunkId,
    /// Bytes from the chunk's base.
    pub off: u64,
    /// Bytes asked for.
    pub size: u64,
}

#[derive(Clone, Debug)]
struct Map {
    chunk: ChunkId,
    words: Vec<u64>,
    areas: u32,
}

/// Everything live.
#[derive(Clone, Debug, Default)]
pub struct Live {
    areas: Vec<Area>,
    maps: Vec<Map>,
}

/// Whether a generation's map has a bit set for a granule exactly if it is live or hidden.
fn exact(generation: Generation) -> bool {
    !matches!(generation, Generation::CpuAlloc2008 | Generation::AreaMap)
}

fn write(words: &mut [u64], bits: std::ops::Range<u64>, value: bool) {
    for bit in bits {
        let (word, mask) = (&mut words[bit as usize / 64], 1_u64 << (bit % 64));
        *word = if value { *word | mask } else { *word & !mask };
    }
}

impl Live {
    /// How many areas there are.
    pub fn len(&self) -> usize {
        self.areas.len()
    }

    /// Nothing is live.
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// The area at a position.
    pub fn get(&self, at: usize) -> Area {
        self.areas[at]
    }

    /// Whether an area starts at a pointer.
    pub fn starts_at(&self, ptr: u64) -> bool {
        self.areas.iter().any(|area| area.ptr == ptr)
    }

    fn map(&mut self, chunk: ChunkId, view: &ChunkView<'_>, granule: u64, page: u64) -> &mut Map {
        if let Some(at) = self.maps.iter().position(|map| map.chunk == chunk) {
            return &mut self.maps[at];
        }
        let bits = u64::from(view.nr_pages.0) * page / granule;
        let mut words = vec![0; bits.div_ceil(64) as usize];
        write(&mut words, 0..view.start_offset.0 / granule, true);
        write(&mut words, bits - view.end_offset.0 / granule..bits, true);
        self.maps.push(Map { chunk, words, areas: 0 });
        self.maps.last_mut().expect("just pushed")
    }

    /// Takes in the answer to a request, which must be legal. The chunk, if there is one.
    pub fn placed(&mut self, a: &Allocator, request: &Request, placed: &Placement) -> Result<Option<ChunkId>, String> {
        let Outcome::Placed { chunk, off } = placed.outcome else {
            return if placed.ptr == NULL { Ok(None) } else { Err(format!("{placed:?} has a pointer")) };
        };
        if chunk == ChunkId::ZERO_SIZE {
            return if request.size.0 == 0 { Ok(None) } else { Err(format!("{request:?} has a place in no chunk")) };
        }
        let new = Area { ptr: placed.ptr, chunk, off: off.0, size: request.size.0 };
        let engine = a.engine();
        let g = engine.geometry();
        let view = engine.chunk(chunk).ok_or_else(|| format!("{new:?} is in no chunk"))?;
        let (page, granule) = (g.page_size().0, g.min_alloc_size().0);
        let served = view.start_offset.0..=u64::from(view.nr_pages.0) * page - view.end_offset.0;
        if new.ptr == NULL || !served.contains(&new.off) || !served.contains(&(new.off + new.size)) {
            return Err(format!("{new:?} is outside {served:?}"));
        }
        if request.align.0.is_power_of_two() && new.off % request.align.0 != 0 {
            return Err(format!("{new:?} is not aligned to {}", request.align));
        }
        let hit = |area: &&Area| area.chunk == chunk && area.off < new.off + new.size && new.off < area.off + area.size;
        if let Some(other) = self.areas.iter().find(hit) {
            return Err(format!("{new:?} overlaps {other:?}"));
        }
        let bits = new.size.div_ceil(granule);
        let exact = exact(engine.generation());
        if engine.knows_areas() {
            let found = a.locate(new.ptr).map_err(|error| format!("{new:?}: {error}"))?;
            let size_fits = if exact { found.size.0 == bits * granule } else { found.size.0 >= new.size };
            if (found.chunk, found.off.0) != (chunk, new.off) || !size_fits {
                return Err(format!("{new:?} is located at {found:?}"));
            }
        }
        let map = self.map(chunk, &view, granule, page);
        map.areas += 1;
        write(&mut map.words, new.off / granule..new.off / granule + bits, true);
        self.areas.push(new);
        Ok(Some(chunk))
    }

    /// Takes the area at a position out.
    pub fn remove(&mut self, at: usize, engine: &dyn Engine) -> Area {
        let area = self.areas.swap_remove(at);
        let granule = engine.geometry().min_alloc_size().0;
        let map = self.maps.iter_mut().find(|map| map.chunk == area.chunk).expect("it was placed there");
        map.areas -= 1;
        let start = area.off / granule;
        write(&mut map.words, start..start + area.size.div_ceil(granule), false);
        area
    }

    /// What must hold after every step; `chunk` is the one that the step was about.
    pub fn check(&self, engine: &dyn Engine, chunk: ChunkId) -> Result<(), String> {
        let stats = engine.stats();
        if stats.nr_cur_alloc != self.areas.len() as u64 {
            return Err(format!("{stats:?} with {} live areas", self.areas.len()));
        }
        match self.maps.iter().find(|map| map.chunk == chunk) {
            Some(map) => map.check(engine),
            None => Ok(()),
        }
    }

    /// The same of every chunk; those that are gone had nothing live.
    pub fn check_all(&mut self, engine: &dyn Engine) -> Result<(), String> {
        self.maps.iter().try_for_each(|map| map.check(engine))?;
        self.maps.retain(|map| engine.chunk(map.chunk).is_some());
        Ok(())
    }

    /// Each area is found by its pointer and by the address of its last byte.
    pub fn find_all(&self, a: &Allocator) -> Result<(), String> {
        if !a.engine().knows_areas() {
            return Ok(());
        }
        for area in &self.areas {
            let found = a.engine().area_at(area.chunk, Bytes(area.off + area.size - 1));
            if a.locate(area.ptr).is_err() || found.is_none_or(|(start, _)| start.0 != area.off) {
                return Err(format!("{area:?} is found as {found:?}"));
            }
        }
        Ok(())
    }
}

impl Map {
    fn check(&self, engine: &dyn Engine) -> Result<(), String> {
        let Some(view) = engine.chunk(self.chunk) else {
            return match self.areas {
                0 => Ok(()),
                n => Err(format!("chunk {} is gone with {n} live areas", self.chunk)),
            };
        };
        // The hidden front of an area map is no area of anybody.
        if view.nr_alloc != self.areas {
            return Err(format!("chunk {}: nr_alloc {} with {} live areas", self.chunk, view.nr_alloc, self.areas));
        }
        if exact(engine.generation()) && view.alloc_map[..] != self.words[..] {
            return Err(format!("chunk {}: map {:x?}, live are {:x?}", self.chunk, view.alloc_map, self.words));
        }
        Ok(())
    }
}
