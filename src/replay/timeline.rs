//! The course of a replay in samples: each has the least, the mean and the largest of what was seen in it.
//!
//! # Design
//!
//! A [`Sampler`] is told some numbers after every event and gathers them into windows of equally many events. Of a
//! stream of unknown length it begins with windows of one event and joins them in pairs when there are too many, so
//! that the result is a few thousand samples whatever the length.
//!
//! A mean is over events, not over time: recorded clocks tie, and some have no unit.
//!
//! # Cost
//!
//! A handful of additions for each number; nothing is kept but the windows.

use crate::engine::linux::Linux;
use crate::engine::Engine;
use crate::request::ChunkId;

/// More windows than this are joined in pairs, where the length of a window is free.
const MANY: usize = 4096;

/// What one number did in a window.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Range {
    /// The least value after any event of the window.
    pub min: i64,
    /// The largest.
    pub max: i64,
    /// The value after the last event.
    pub last: i64,
    /// Sum of the values after each event, up to the last change.
    sum: i128,
    /// Events of the window before the last change.
    since: u64,
}

impl Range {
    fn of(value: i64) -> Self {
        Self { min: value, max: value, last: value, sum: 0, since: 0 }
    }

    /// The value after the event with this number in the window. Most values stay as they are.
    #[inline]
    fn add(&mut self, event: u64, value: i64) {
        if value != self.last {
            self.settle(event);
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.last = value;
        }
    }

    /// Sums up to `events` events of the window.
    fn settle(&mut self, events: u64) {
        self.sum += i128::from(self.last) * i128::from(events - self.since);
        self.since = events;
    }

    fn join(&mut self, later: &Self) {
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.last = later.last;
        self.sum += later.sum;
        self.since += later.since;
    }
}

/// A window of the timeline.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Window<const N: usize> {
    /// Events read up to the end of the window.
    pub event: u64,
    /// Events in it.
    pub events: u64,
    /// Time of its last event, by the trace's clock.
    pub time: u64,
    /// What each number did.
    pub ranges: [Range; N],
}

impl<const N: usize> Window<N> {
    /// The mean of number `index` over the events of the window.
    pub fn mean(&self, index: usize) -> f64 {
        self.ranges[index].sum as f64 / self.events as f64
    }
}

/// Gathers windows.
#[derive(Clone, Debug)]
pub struct Sampler<const N: usize> {
    /// Events of a full window.
    every: u64,
    /// Whether windows may grow.
    grows: bool,
    windows: Vec<Window<N>>,
    /// The last window is not full.
    open: bool,
    event: u64,
}

impl<const N: usize> Sampler<N> {
    /// Windows of `every` events; 0 = as long as it takes to have some thousand.
    pub fn new(every: u64) -> Self {
        Self { every: every.max(1), grows: every == 0, windows: Vec::new(), open: false, event: 0 }
    }

    /// As [`Self::new`], for a replay that begins with event `event`.
    pub fn starting_at(every: u64, event: u64) -> Self {
        Self { event, ..Self::new(every) }
    }

    /// Takes in the values after one event.
    #[inline]
    pub fn push(&mut self, time: u64, values: [i64; N]) {
        self.event += 1;
        if !self.open {
            return self.begin(time, values);
        }
        let Some(window) = self.windows.last_mut() else { return };
        let number = window.events;
        window.events += 1;
        window.event = self.event;
        window.time = time;
        window.ranges.iter_mut().zip(values).for_each(|(range, value)| range.add(number, value));
        if window.events >= self.every {
            self.close();
        }
    }

    /// Ends the window that is open.
    fn close(&mut self) {
        if let Some(window) = self.windows.last_mut() {
            window.ranges.iter_mut().for_each(|range| range.settle(window.events));
        }
        self.open = false;
    }

    fn begin(&mut self, time: u64, values: [i64; N]) {
        if self.grows && self.windows.len() >= MANY {
            self.join_pairs();
        }
        self.windows.push(Window { event: self.event, events: 1, time, ranges: values.map(Range::of) });
        self.open = true;
        if self.every == 1 {
            self.close();
        }
    }

    fn join_pairs(&mut self) {
        let joined = self.windows.chunks(2).map(|pair| {
            let mut window = pair[0];
            if let [_, later] = pair {
                (window.event, window.time) = (later.event, later.time);
                window.events += later.events;
                window.ranges.iter_mut().zip(&later.ranges).for_each(|(range, later)| range.join(later));
            }
            window
        });
        self.windows = joined.collect();
        self.every *= 2;
    }

    /// The windows; the last may be shorter.
    pub fn finish(mut self) -> Vec<Window<N>> {
        self.close();
        self.windows
    }
}

/// Numbers of the timeline of an engine: live areas, their bytes in one unit, chunks, populated pages of each unit,
/// empty populated pages that count as ready.
pub const ENGINE_NUMBERS: usize = 5;

/// A window of the timeline of an engine.
pub type EngineWindow = Window<ENGINE_NUMBERS>;

/// Bytes of the live areas of an engine in one unit; looks at every chunk.
pub fn live_bytes(engine: &dyn Engine) -> u64 {
    let page = engine.geometry().page_size().0;
    let views = engine.chunk_ids().into_iter().filter_map(|id| engine.chunk(id));
    views.map(|v| u64::from(v.nr_pages.0) * page - v.start_offset.0 - v.end_offset.0 - v.free_bytes.0).sum()
}

/// Populated pages of each unit; looks at every chunk where the generation keeps no total.
pub fn populated_pages(engine: &dyn Engine) -> u32 {
    let count = || {
        // The reserved chunk shares its pages with others.
        let ids = engine.chunk_ids().into_iter().filter(|id| !ChunkId::is_reserved(*id));
        ids.filter_map(|id| engine.chunk(id)).map(|view| view.nr_populated.0).sum()
    };
    engine.totals().nr_populated.unwrap_or_else(count)
}

/// The numbers of one of the engines of 4.14 and later.
#[inline]
pub(super) fn linux_numbers(engine: &Linux, live_bytes: u64) -> [i64; ENGINE_NUMBERS] {
    [
        engine.stats.nr_cur_alloc as i64,
        live_bytes as i64,
        i64::from(engine.stats.nr_chunks),
        i64::from(engine.nr_populated),
        i64::from(engine.nr_empty_pop_pages),
    ]
}

/// The numbers of any engine, with its populated pages as they were counted.
#[inline]
pub(super) fn engine_numbers(engine: &dyn Engine, live_bytes: u64, pages: u32) -> [i64; ENGINE_NUMBERS] {
    let (stats, totals) = (engine.stats(), engine.totals());
    [
        stats.nr_cur_alloc as i64,
        live_bytes as i64,
        i64::from(stats.nr_chunks),
        i64::from(totals.nr_populated.unwrap_or(pages)),
        totals.nr_empty_pop_pages,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: u64) -> Vec<[i64; 2]> {
        (0..n as i64).map(|i| [(i * 7919) % 1000 - 500, i]).collect()
    }

    fn check(windows: &[Window<2>], all: &[[i64; 2]]) {
        let mut from = 0;
        for window in windows {
            let part = &all[from as usize..window.event as usize];
            assert_eq!(part.len() as u64, window.events);
            for (index, range) in window.ranges.iter().enumerate() {
                let column = || part.iter().map(|row| row[index]);
                assert_eq!(Some((range.min, range.max)), column().min().zip(column().max()));
                assert_eq!(Some(range.last), column().next_back());
                let mean = column().sum::<i64>() as f64 / part.len() as f64;
                assert!((window.mean(index) - mean).abs() < 1e-9);
            }
            from = window.event;
        }
        assert_eq!(from as usize, all.len());
    }

    #[test]
    fn windows_cover_all_events() {
        for (n, every) in [(0, 5), (1, 5), (12, 5), (15, 5), (7, 1), (100, 0), (4096, 0), (4097, 0), (50_001, 0)] {
            let all = values(n);
            let mut sampler = Sampler::new(every);
            all.iter().enumerate().for_each(|(time, row)| sampler.push(time as u64, *row));
            let windows = sampler.finish();
            check(&windows, &all);
            let expected = if every > 0 { n.div_ceil(every) as usize } else { windows.len() };
            assert_eq!(windows.len(), expected);
            assert!(windows.len() <= MANY);
        }
    }
}
