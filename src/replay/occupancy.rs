//! What is known of the bytes of chunks: live, free, or never seen.
//!
//! # Design
//!
//! Chunks are cut into tiles of 256 granules, made when something in them is first seen. A tile has three bitmaps
//! and, for each area that starts in it, the caller's number of that area, in the order of the starts:
//!
//! ```text
//! known   .XXXXX...XX.....    something was seen here: what is not live is free
//! live    ..XXXX...X......    in a live area
//! starts  ..X..X...X......    a live area starts here       areas  [7, 3, 12]
//! ```
//!
//! The number of an area is found by the rank of its start among the starts of the tile, so that memory follows what
//! was touched, not the size of units: a damaged trace can name any address and any offset, and pays for tiles only.
//!
//! After a loss of events nothing is known any more but that areas not freed since may be live:
//! [`Occupancy::forget_free`] drops the knowledge of free granules at once, by a count that each tile compares with its own.
//!
//! # Units
//!
//! Granules from the chunk's base; areas by the caller's numbers.
//!
//! # Invariants
//!
//! O1 `starts` is within `live`, `live` within `known`. O2 a tile has as many areas as starts.
//!
//! # Cost
//!
//! One look-up of a tile (none if it is that of the call before), then words. About 130 bytes a tile and 4 bytes a live area.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::bitmap;

/// Granules of a tile.
const TILE: u32 = 256;
const WORDS: usize = (TILE / 64) as usize;

/// A stretch of one chunk.
#[derive(Clone, Debug)]
struct Tile {
    /// Knowledge of free granules is of this time.
    epoch: u32,
    known: [u64; WORDS],
    live: [u64; WORDS],
    starts: [u64; WORDS],
    /// Numbers of the areas that start here, ascending by their start.
    areas: Vec<u32>,
    key: u64,
    /// Another tile of the chunk.
    next: u32,
}

/// No tile.
const NONE: u32 = u32::MAX;

impl Tile {
    fn new(epoch: u32, key: u64, next: u32) -> Self {
        Self { epoch, known: [0; WORDS], live: [0; WORDS], starts: [0; WORDS], areas: Vec::new(), key, next }
    }

    /// The known granules, as far as they are known at `epoch`.
    fn known_at(&self, epoch: u32) -> &[u64; WORDS] {
        if self.epoch == epoch {
            &self.known
        } else {
            &self.live
        }
    }

    /// How many areas start before granule `at` of the tile.
    fn rank(&self, at: u32) -> usize {
        bitmap::count_set(&self.starts, 0, at) as usize
    }
}

/// What is known of one granule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granule {
    /// Never seen, or not since the last loss.
    Unknown,
    /// Free.
    Free,
    /// In a live area, but not where it starts.
    Inside,
    /// Where the live area of this number starts.
    Start(u32),
}

/// Tiles by chunk and position.
#[derive(Clone, Debug, Default)]
pub struct Occupancy {
    tiles: Vec<Tile>,
    unused: Vec<u32>,
    by_place: HashMap<u64, u32, Mix>,
    /// By chunk: one of its tiles.
    heads: Vec<u32>,
    /// The place and the tile of the call before.
    last: Option<(u64, u32)>,
    epoch: u32,
}

impl Occupancy {
    fn key(chunk: u32, granule: u32) -> u64 {
        u64::from(chunk) << 32 | u64::from(granule / TILE)
    }

    #[inline]
    fn find(&self, chunk: u32, granule: u32) -> Option<&Tile> {
        let key = Self::key(chunk, granule);
        let index = match self.last {
            Some((last, index)) if last == key => index,
            _ => *self.by_place.get(&key)?,
        };
        Some(&self.tiles[index as usize])
    }

    /// The tile of a granule that is about to change, made if need be.
    #[inline]
    fn tile(&mut self, chunk: u32, granule: u32) -> &mut Tile {
        let key = Self::key(chunk, granule);
        let index = match self.last {
            Some((last, index)) if last == key => index,
            _ => self.find_or_make(key),
        };
        let tile = &mut self.tiles[index as usize];
        if tile.epoch != self.epoch {
            (tile.epoch, tile.known) = (self.epoch, tile.live);
        }
        tile
    }

    fn find_or_make(&mut self, key: u64) -> u32 {
        let Self { tiles, unused, epoch, heads, .. } = self;
        let index = *self.by_place.entry(key).or_insert_with(|| {
            let chunk = (key >> 32) as usize;
            if heads.len() <= chunk {
                heads.resize(chunk + 1, NONE);
            }
            let tile = Tile::new(*epoch, key, heads[chunk]);
            let index = unused.pop().unwrap_or(tiles.len() as u32);
            if index as usize == tiles.len() {
                tiles.push(tile);
            } else {
                tiles[index as usize] = tile;
            }
            heads[chunk] = index;
            index
        });
        self.last = Some((key, index));
        index
    }

    /// The granules `from..to` tile by tile: first granule of the tile, and the range inside it.
    fn pieces(from: u32, to: u32) -> impl Iterator<Item = (u32, u32, u32)> {
        (from / TILE..to.div_ceil(TILE)).map(move |tile| {
            let base = tile * TILE;
            (base, from.max(base) - base, to.min(base + TILE) - base)
        })
    }

    /// What is known of a granule.
    #[inline]
    pub fn get(&self, chunk: u32, granule: u32) -> Granule {
        let Some(tile) = self.find(chunk, granule) else { return Granule::Unknown };
        let at = granule % TILE;
        if bitmap::test(&tile.starts, at) {
            Granule::Start(tile.areas[tile.rank(at)])
        } else if bitmap::test(&tile.live, at) {
            Granule::Inside
        } else if tile.epoch == self.epoch && bitmap::test(&tile.known, at) {
            Granule::Free
        } else {
            Granule::Unknown
        }
    }

    /// Live granules in `from..to`.
    #[inline]
    pub fn count_live(&self, chunk: u32, from: u32, to: u32) -> u32 {
        let live = |tile: &Tile, a, b| bitmap::count_set(&tile.live, a, b);
        Self::pieces(from, to).filter_map(|(base, a, b)| self.find(chunk, base).map(|tile| live(tile, a, b))).sum()
    }

    /// Puts a live area on `from..to`, which must hold no live one.
    #[inline]
    pub fn place(&mut self, chunk: u32, from: u32, to: u32, area: u32) {
        for (base, a, b) in Self::pieces(from, to) {
            let tile = self.tile(chunk, base);
            debug_assert_eq!(bitmap::count_set(&tile.live, a, b), 0);
            bitmap::set_range(&mut tile.live, a, b);
            bitmap::set_range(&mut tile.known, a, b);
        }
        let tile = self.tile(chunk, from);
        let at = from % TILE;
        let rank = tile.rank(at);
        bitmap::set(&mut tile.starts, at);
        tile.areas.insert(rank, area);
    }

    /// Takes the live area on `from..to` away. Its granules are free then, or unknown if `known` is false.
    #[inline]
    pub fn remove(&mut self, chunk: u32, from: u32, to: u32, known: bool) {
        for (base, a, b) in Self::pieces(from, to) {
            let tile = self.tile(chunk, base);
            bitmap::clear_range(&mut tile.live, a, b);
            if !known {
                bitmap::clear_range(&mut tile.known, a, b);
            }
        }
        let tile = self.tile(chunk, from);
        let at = from % TILE;
        let rank = tile.rank(at);
        bitmap::clear_range(&mut tile.starts, at, at + 1);
        tile.areas.remove(rank);
    }

    /// Says that a granule which is not live is free.
    pub fn mark_free(&mut self, chunk: u32, granule: u32) {
        let tile = self.tile(chunk, granule);
        bitmap::set(&mut tile.known, granule % TILE);
    }

    /// The first granule of `from..to` of which something is known, else `to`.
    pub fn next_known(&self, chunk: u32, from: u32, to: u32) -> u32 {
        for (base, a, b) in Self::pieces(from, to) {
            let Some(tile) = self.find(chunk, base) else { continue };
            let found = bitmap::next_set(tile.known_at(self.epoch), b, a);
            if found < b {
                return base + found;
            }
        }
        to
    }

    /// Numbers of the live areas that share a granule with `from..to`. None is longer than `longest`.
    pub fn areas_in(&self, chunk: u32, from: u32, to: u32, longest: u32) -> Vec<u32> {
        let mut found = Vec::new();
        // The area that begins before and reaches in, if the first granule is not a start itself.
        if self.get(chunk, from) == Granule::Inside {
            let low = from.saturating_sub(longest);
            let pieces: Vec<_> = Self::pieces(low, from).collect();
            found.extend(pieces.into_iter().rev().find_map(|(base, a, b)| {
                let tile = self.find(chunk, base)?;
                let start = bitmap::last_set(&tile.starts, a, b)?;
                Some(tile.areas[tile.rank(start)])
            }));
        }
        for (base, a, b) in Self::pieces(from, to) {
            let Some(tile) = self.find(chunk, base) else { continue };
            found.extend_from_slice(&tile.areas[tile.rank(a)..tile.rank(b)]);
        }
        found
    }

    /// Granules of `from..to` that are live, and that are free.
    pub fn census(&self, chunk: u32, from: u32, to: u32) -> (u32, u32) {
        let (mut live, mut known) = (0, 0);
        for tile in self.tiles_of(chunk) {
            let base = tile.key as u32 * TILE;
            let (a, b) = (from.max(base), to.min(base + TILE));
            if a < b {
                live += bitmap::count_set(&tile.live, a - base, b - base);
                known += bitmap::count_set(tile.known_at(self.epoch), a - base, b - base);
            }
        }
        (live, known - live)
    }

    fn tiles_of(&self, chunk: u32) -> impl Iterator<Item = &Tile> {
        let mut next = self.heads.get(chunk as usize).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let tile = self.tiles.get(next as usize)?;
            next = tile.next;
            Some(tile)
        })
    }

    /// Numbers of all live areas of a chunk, in no order.
    pub fn areas_of(&self, chunk: u32) -> Vec<u32> {
        self.tiles_of(chunk).flat_map(|tile| tile.areas.iter().copied()).collect()
    }

    /// Forgets everything about a chunk.
    pub fn drop_chunk(&mut self, chunk: u32) {
        let Some(head) = self.heads.get_mut(chunk as usize) else { return };
        let mut index = std::mem::replace(head, NONE);
        while let Some(tile) = self.tiles.get_mut(index as usize) {
            self.by_place.remove(&tile.key);
            tile.areas = Vec::new();
            self.unused.push(index);
            index = std::mem::replace(&mut tile.next, NONE);
        }
        self.last = None;
    }

    /// Forgets which granules are free.
    pub fn forget_free(&mut self) {
        self.epoch += 1;
    }

    /// Checks the invariants of every tile; the first that is broken.
    #[cfg(any(test, feature = "testing"))]
    pub fn verify(&self) -> Result<(), String> {
        for (key, index) in &self.by_place {
            let tile = &self.tiles[*index as usize];
            let known = tile.known_at(self.epoch);
            let within = |a: &[u64; WORDS], b: &[u64; WORDS]| a.iter().zip(b).all(|(a, b)| a & !b == 0);
            if !within(&tile.starts, &tile.live) || !within(&tile.live, known) {
                return Err(format!("O1 tile {key:#x}"));
            }
            if bitmap::count_set(&tile.starts, 0, TILE) as usize != tile.areas.len() {
                return Err(format!("O2 tile {key:#x}"));
            }
        }
        Ok(())
    }
}

/// Hashing of one number, keyed so that no trace can be made to collide. Nothing depends on the order of a map.
#[derive(Clone, Debug)]
pub(super) struct Mix(u64);

impl Default for Mix {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0_u64) | 1)
    }
}

impl BuildHasher for Mix {
    type Hasher = Mixed;

    fn build_hasher(&self) -> Mixed {
        Mixed { key: self.0, state: 0 }
    }
}

/// See [`Mix`].
#[derive(Debug)]
pub(super) struct Mixed {
    key: u64,
    state: u64,
}

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        let wide =
            u128::from(self.state.rotate_left(29) ^ value ^ self.key) * u128::from(self.key ^ 0x9e37_79b9_7f4a_7c15);
        self.state = wide as u64 ^ (wide >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against one entry a granule.
    #[test]
    fn agrees_with_plain_arrays() {
        #[derive(Clone, Copy, PartialEq, Debug)]
        enum Plain {
            Unknown,
            Free,
            Live(u32, u32, u32),
        }
        const END: u32 = 3 * TILE + 40;
        fn sorted_areas(cells: &[Plain]) -> Vec<u32> {
            let area = |cell: &Plain| match cell {
                Plain::Live(area, ..) => Some(*area),
                _ => None,
            };
            cells.iter().filter_map(area).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
        }
        let mut seed = 1_u64;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((seed >> 33) % u64::from(below)) as u32
        };
        let mut plain = [[Plain::Unknown; END as usize]; 2];
        let mut occupancy = Occupancy::default();
        for number in 0..60_000 {
            let chunk = random(2);
            let cells = &mut plain[chunk as usize];
            let from = random(END);
            let longest = if random(10) == 0 { 700 } else { 9 };
            let to = (from + 1 + random(longest)).min(END);
            let range = from as usize..to as usize;
            let live = cells[range.clone()].iter().filter(|cell| matches!(cell, Plain::Live(..))).count() as u32;
            assert_eq!(occupancy.count_live(chunk, from, to), live);
            let free = cells[range.clone()].iter().filter(|cell| **cell == Plain::Free).count() as u32;
            assert_eq!(occupancy.census(chunk, from, to), (live, free));
            let first_known = cells[range.clone()].iter().position(|cell| *cell != Plain::Unknown);
            assert_eq!(occupancy.next_known(chunk, from, to), first_known.map_or(to, |at| from + at as u32));
            let mut inside: Vec<u32> = Vec::new();
            for cell in &cells[range.clone()] {
                if let Plain::Live(area, ..) = cell {
                    if inside.last() != Some(area) {
                        inside.push(*area);
                    }
                }
            }
            assert_eq!(occupancy.areas_in(chunk, from, to, END), inside);
            let expected = match cells[from as usize] {
                Plain::Unknown => Granule::Unknown,
                Plain::Free => Granule::Free,
                Plain::Live(area, start, _) if start == from => Granule::Start(area),
                Plain::Live(..) => Granule::Inside,
            };
            assert_eq!(occupancy.get(chunk, from), expected);
            match (expected, random(400)) {
                (_, 0) => {
                    occupancy.forget_free();
                    plain
                        .iter_mut()
                        .flatten()
                        .filter(|cell| **cell == Plain::Free)
                        .for_each(|cell| *cell = Plain::Unknown);
                }
                (_, 1) => {
                    let mut all = occupancy.areas_of(chunk);
                    all.sort_unstable();
                    assert_eq!(all, sorted_areas(cells));
                    occupancy.drop_chunk(chunk);
                    cells.fill(Plain::Unknown);
                }
                (Granule::Unknown | Granule::Free, 2..=20) => {
                    occupancy.mark_free(chunk, from);
                    cells[from as usize] = Plain::Free;
                }
                (Granule::Start(_), odd) => {
                    let Plain::Live(_, start, end) = cells[from as usize] else { unreachable!() };
                    occupancy.remove(chunk, start, end, odd % 8 != 0);
                    let then = if odd % 8 != 0 { Plain::Free } else { Plain::Unknown };
                    cells[start as usize..end as usize].fill(then);
                }
                _ if live == 0 => {
                    occupancy.place(chunk, from, to, number);
                    cells[range].fill(Plain::Live(number, from, to));
                }
                _ => {}
            }
            if number % 1000 == 0 {
                occupancy.verify().unwrap();
            }
        }
    }
}
