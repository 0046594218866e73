//! What operations cost: totals, and batches with a row of counters for each operation. And the thresholds of the worker.
//!
//! A worker that runs right after an operation is part of it.
//!
//! Source: `docs/design.md` section 6.

use super::{Allocator, BatchError, Placement};
use crate::cost::{Costs, Counting};
use crate::error::ConfigError;
use crate::request::Request;
use crate::units::Bytes;
use crate::variant::Thresholds;

/// Operations between two questions whether to go on.
const ASK_EVERY: usize = 1024;

impl Allocator {
    /// What was counted so far; `None` where the engine counts nothing.
    pub fn costs(&self) -> Option<Costs> {
        self.engine.costs()
    }

    /// What is counted; `None` where the engine counts nothing.
    pub fn counting(&self) -> Option<Counting> {
        self.engine.meter().map(|meter| meter.counting())
    }

    /// Sets what is counted from now on. Nothing happens where the engine counts nothing.
    pub fn set_counting(&mut self, counting: Counting) {
        if let Some(meter) = self.engine.meter_mut() {
            meter.set_counting(counting);
        }
    }

    /// The numbers at which something is done; `None` where there are none.
    pub fn thresholds(&self) -> Option<Thresholds> {
        self.engine.thresholds()
    }

    /// Sets them, from now on.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) -> Result<(), ConfigError> {
        self.engine.set_thresholds(thresholds)
    }

    /// Serves a batch and counts everything, one request at a time. Nothing is changed if it is interrupted.
    pub fn alloc_many_costed(
        &mut self,
        requests: impl ExactSizeIterator<Item = Request>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(Vec<Placement>, Vec<Costs>), BatchError> {
        let mut placements = Vec::with_capacity(requests.len());
        let costs = self.costed(requests, go_on, |allocator, request| {
            placements.push(allocator.alloc(&request));
            Ok(())
        })?;
        Ok((placements, costs))
    }

    /// Frees many areas, all or none, and counts everything, one free at a time.
    pub fn free_many_costed(
        &mut self,
        ptrs: &[u64],
        sizes: Option<&[u64]>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Costs>, BatchError> {
        let size = |index: usize| sizes.and_then(|sizes| sizes.get(index).or(sizes.last())).copied().map(Bytes);
        self.check_free_many(ptrs, &size)?;
        self.costed(ptrs.iter().enumerate(), go_on, |allocator, (index, ptr)| {
            allocator.free(*ptr, size(index)).map_err(|error| BatchError::Element(index, error))
        })
    }

    /// Runs `operate` on each item under [`Counting::Full`]: what each has cost.
    fn costed<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        go_on: &mut dyn FnMut() -> bool,
        mut operate: impl FnMut(&mut Self, T) -> Result<(), BatchError>,
    ) -> Result<Vec<Costs>, BatchError> {
        let before = self.clone();
        let counting = self.counting().unwrap_or_default();
        self.set_counting(Counting::Full);
        let mut rows = Vec::with_capacity(items.len());
        let mut known = self.costs().unwrap_or_default();
        for (index, item) in items.enumerate() {
            let interrupted = index % ASK_EVERY == ASK_EVERY - 1 && !go_on();
            let done = if interrupted { Err(BatchError::Interrupted) } else { operate(self, item) };
            if let Err(error) = done {
                *self = before;
                return Err(error);
            }
            let now = self.costs().unwrap_or_default();
            rows.push(now - known);
            known = now;
        }
        self.set_counting(counting);
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::Balance;
    use crate::geometry::Geometry;
    use crate::variant::Preset;

    fn bare(release: &str) -> Allocator {
        let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(65536), 2).unwrap();
        Allocator::bare(Preset::by_release(release).unwrap(), geometry, Balance::Eager).unwrap()
    }

    /// The rows add up to the totals, and the places are those of an ordinary batch.
    #[test]
    fn rows_add_up() {
        for release in ["2008", "4.13", "rfc-v1", "4.19", "5.4", "6.12"] {
            let (mut plain, mut costed) = (bare(release), bare(release));
            let request = |i: u32| Request::new(Bytes(4 + u64::from(i) * 36 % 200), Bytes(4 << (i % 5)));
            let expected = plain.alloc_many((0..300).map(request), &mut || true).unwrap();
            let (placements, mut rows) = costed.alloc_many_costed((0..300).map(request), &mut || true).unwrap();
            assert_eq!(placements, expected);
            let ptrs: Vec<u64> = placements.iter().rev().map(|placement| placement.ptr).collect();
            let sizes: Vec<u64> = (0..300).rev().map(|i| request(i).size.0).collect();
            plain.free_many(&ptrs, Some(&sizes), &mut || true).unwrap();
            rows.extend(costed.free_many_costed(&ptrs, Some(&sizes), &mut || true).unwrap());
            let sum = rows.into_iter().fold(Costs::ZERO, |sum, row| sum + row);
            assert_eq!(Some(sum), costed.costs());
            assert_eq!(Some(sum.without_full()), plain.costs(), "{release}");
            assert!(sum.cache_lines >= 600 && plain.costs().unwrap().cache_lines == 0);
            assert_eq!(costed.counting(), Some(Counting::Totals), "as it was");
        }
    }

    #[test]
    fn a_refused_or_interrupted_batch_costs_nothing() {
        let mut allocator = bare("4.13");
        let request = Request::new(Bytes(8), Bytes(8));
        let ptr = allocator.alloc(&request).ptr;
        let before = (allocator.costs(), format!("{:?}", allocator.engine()));
        assert!(allocator.free_many_costed(&[ptr, ptr], None, &mut || true).is_err());
        let many = std::iter::repeat_n(request, 2000);
        assert_eq!(allocator.alloc_many_costed(many, &mut || false), Err(BatchError::Interrupted));
        assert_eq!((allocator.costs(), format!("{:?}", allocator.engine())), before);
        assert_eq!(allocator.counting(), Some(Counting::Totals));
    }
}
