//! Whether another engine is in the same state, without building a dump.

use super::{Gen, Naive};
use crate::cost::{Costs, Counting};
use crate::engine::{ChunkView, Engine};
use crate::request::ChunkId;

impl Naive {
    /// The first thing in which the complete state of `other` differs: counters, flags, list order,
    /// maps, every hint. `None` if there is no difference.
    pub fn difference(&self, other: &dyn Engine) -> Option<String> {
        macro_rules! same {
            ($mine:expr, $theirs:expr, $($what:tt)+) => {
                let (mine, theirs) = (&$mine, &$theirs);
                if mine != theirs {
                    return Some(format!("{}: naive {mine:?}, engine {theirs:?}", format!($($what)+)));
                }
            };
        }
        same!(self.pending, other.balance_pending(), "pending");
        same!(self.totals(), other.totals(), "totals");
        same!(self.stats, *other.stats(), "stats");
        same!(self.backend.backing_pages, other.backend().backing_pages, "backing pages");
        if let Some(meter) = other.meter().filter(|meter| meter.counting() != Counting::Off) {
            let full = meter.counting() == Counting::Full;
            let shown = |costs: Costs| if full { costs } else { costs.without_full() };
            same!(shown(self.costs), shown(meter.costs()), "costs");
        }
        same!(self.chunks_created(), other.chunks_created(), "chunks created");
        let lists = other.slots();
        same!(self.lists.len(), lists.len(), "slots");
        for (slot, (mine, theirs)) in self.lists.iter().zip(&lists).enumerate() {
            if mine.len() != theirs.len() || mine.iter().zip(theirs).any(|(a, b)| *a != b.0) {
                return Some(format!("list {slot}: naive {mine:?}, engine {theirs:?}"));
            }
        }
        let ids = other.chunk_ids();
        same!(self.chunk_ids(), ids, "chunks");
        for id in ids {
            let found = self.chunk_difference(id, &other.chunk(id).expect("a listed chunk exists"));
            if let Some(text) = found {
                return Some(format!("chunk {id} {text}"));
            }
        }
        None
    }

    fn chunk_difference(&self, id: ChunkId, view: &ChunkView<'_>) -> Option<String> {
        let mine = self.get(id.0);
        let numbers = [
            ("base", mine.base as i64, view.base_addr as i64),
            ("role", mine.role as i64, view.role as i64),
            ("free_bytes", mine.free_bytes, view.free_bytes.0 as i64),
            ("nr_pages", mine.nr_pages(), i64::from(view.nr_pages.0)),
            ("start_offset", mine.start_offset, view.start_offset.0 as i64),
            ("end_offset", mine.end_offset, view.end_offset.0 as i64),
            ("nr_alloc", mine.nr_alloc, i64::from(view.nr_alloc)),
            ("max_alloc_size", mine.max_alloc_size, view.max_alloc_size.0 as i64),
            ("nr_populated", mine.nr_populated(), i64::from(view.nr_populated.0)),
            ("nr_empty_pop_pages", mine.nr_empty, i64::from(view.nr_empty_pop_pages.unwrap_or(-1))),
            ("isolated", i64::from(mine.isolated), i64::from(view.isolated.unwrap_or(false))),
        ];
        for (name, a, b) in numbers {
            if a != b {
                return Some(format!("{name}: naive {a}, engine {b}"));
            }
        }
        let bound = view.bound_map.as_deref().unwrap_or_default();
        for (name, a, b) in [
            ("alloc_map", &mine.alloc, &*view.alloc_map),
            ("bound_map", &mine.bound, bound),
            ("populated", &mine.populated, &*view.populated),
        ] {
            if let Some(bit) = map_difference(a, b) {
                return Some(format!("{name}: bit {bit} differs"));
            }
        }
        let old = self.gen == Gen::V4_14;
        let hints = view.hints.expect("a bitmap engine has hints");
        let chunk_wide = [
            mine.md.contig,
            mine.md.contig_start,
            mine.md.first,
            mine.md.scan,
            mine.md.scan_start,
            mine.md.left,
            mine.md.right,
            mine.md.bits,
        ];
        let theirs = [
            hints.contig_hint,
            hints.contig_hint_start,
            hints.first_free,
            hints.scan_hint,
            hints.scan_hint_start,
            hints.left_free,
            hints.right_free,
            hints.nr_bits,
        ]
        .map(i64::from);
        let kept = if old { 3 } else { 8 };
        if chunk_wide[..kept] != theirs[..kept] {
            return Some(format!("hints: naive {:?}, engine {hints:?}", mine.md));
        }
        let blocks = view.blocks.as_deref().unwrap_or_default();
        if blocks.len() != mine.blocks.len() {
            return Some("number of blocks".into());
        }
        for (i, (a, b)) in mine.blocks.iter().zip(blocks).enumerate() {
            let same = a.contig == i64::from(b.contig_hint)
                && a.contig_start == i64::from(b.contig_hint_start)
                && a.left == i64::from(b.left_free)
                && a.right == i64::from(b.right_free)
                && a.first == i64::from(b.first_free)
                && (old || (a.scan == i64::from(b.scan_hint) && a.scan_start == i64::from(b.scan_hint_start)));
            if !same {
                return Some(format!("block {i}: naive {a:?}, engine {b:?}"));
            }
        }
        None
    }
}

fn map_difference(mine: &[bool], words: &[u64]) -> Option<usize> {
    for (i, bits) in mine.chunks(64).enumerate() {
        let word = bits.iter().enumerate().fold(0, |word, (k, bit)| word | u64::from(*bit) << k);
        let theirs = words.get(i).copied().unwrap_or(0);
        if word != theirs {
            return Some(i * 64 + (word ^ theirs).trailing_zeros() as usize);
        }
    }
    words.iter().skip(mine.len().div_ceil(64)).position(|word| *word != 0)
}
