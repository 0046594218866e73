//! Committing: maps, hints and page counts.
//!
//! Source: specification 13 sections 3 and 5.

use super::BitSpace;
use crate::bitmap;
use crate::block::Block;
use crate::cost::{Counter, Part};
use crate::geometry::Geometry;

/// Offers a free run to a contig hint: the first of equal runs stays.
fn offer(hint: &mut i32, hint_start: &mut i32, start: i32, len: i32) {
    if len > *hint {
        (*hint, *hint_start) = (len, start);
    }
}

fn offer_block(block: &mut Block, start: i32, len: i32) {
    offer(&mut block.contig_hint, &mut block.contig_hint_start, start, len);
}

impl BitSpace {
    /// Takes the area of `bits` bits at `off`, which is clear.
    pub(super) fn place<C: Counter>(&mut self, g: &Geometry, populated: &[u64], off: u32, bits: u32, costs: &mut C) {
        costs.touch(Part::AllocMap, off, off + bits);
        costs.touch(Part::BoundMap, off, off + bits + 1);
        bitmap::set_range(&mut self.alloc_map, off, off + bits);
        bitmap::set(&mut self.bound_map, off);
        bitmap::clear_range(&mut self.bound_map, off + 1, off + bits);
        bitmap::set(&mut self.bound_map, off + bits);
        self.free_bits -= bits;
        self.update_hints_alloc(g, populated, off, bits, costs);
        // After the refresh, which still sees the old value.
        let from = self.first_free_block;
        let behind = &self.blocks[from as usize..];
        self.first_free_block += behind.iter().take_while(|block| block.contig_hint == 0).count() as u32;
        costs.walk_blocks(from, (self.first_free_block + 1).min(self.blocks.len() as u32));
    }

    /// Gives back the area of `bits` bits at `off`.
    pub(super) fn release<C: Counter>(&mut self, g: &Geometry, populated: &[u64], off: u32, bits: u32, costs: &mut C) {
        costs.touch(Part::AllocMap, off, off + bits);
        bitmap::clear_range(&mut self.alloc_map, off, off + bits);
        self.free_bits += bits;
        let index = off >> g.block_bits_shift();
        let block = &mut self.blocks[index as usize];
        block.first_free = block.first_free.min((off & (g.block_bits() - 1)) as i32);
        self.first_free_block = self.first_free_block.min(index);
        self.update_hints_free(g, populated, off, bits, costs);
    }

    /// Recomputes the hints of block `index` from the map; the start of a hint of length 0 stays.
    fn refresh_block<C: Counter>(&mut self, g: &Geometry, index: usize, costs: &mut C) {
        let bits = g.block_bits();
        let base = index as u32 * bits;
        let block = &mut self.blocks[index];
        costs.count(|costs| costs.block_refreshes += 1);
        costs.search(Part::AllocMap, base + block.first_free as u32, base + bits);
        (block.contig_hint, block.left_free, block.right_free) = (0, 0, 0);
        for (start, end) in bitmap::clear_runs(&self.alloc_map, base + block.first_free as u32, base + bits) {
            let (start, len) = ((start - base) as i32, (end - start) as i32);
            if start == 0 {
                block.left_free = len;
            }
            if start + len == bits as i32 {
                block.right_free = len;
            }
            offer_block(block, start, len);
        }
    }

    /// Recomputes the chunk-wide hint and the count of empty pages from the blocks.
    fn refresh_chunk<C: Counter>(&mut self, g: &Geometry, populated: &[u64], costs: &mut C) {
        let nr_blocks = self.blocks.len() as u32;
        costs.count(|costs| costs.chunk_refreshes += 1);
        costs.walk_blocks(self.first_free_block, nr_blocks);
        costs.search(Part::Populated, self.first_free_block, nr_blocks);
        let size = g.block_bits() as i32;
        let (mut hint, mut hint_start) = (0, self.contig_hint_start);
        let (mut run, mut off) = (0, 0);
        let mut empty = 0;
        for (index, block) in self.blocks.iter().enumerate().skip(self.first_free_block as usize) {
            empty += i32::from(block.is_free() && bitmap::test(populated, index as u32));
            let base = index as i32 * size;
            if run != 0 {
                run += block.left_free;
                if block.left_free == size {
                    continue;
                }
                offer(&mut hint, &mut hint_start, off, run);
            }
            offer(&mut hint, &mut hint_start, base + block.contig_hint_start, block.contig_hint);
            run = block.right_free;
            off = base + size - run;
        }
        offer(&mut hint, &mut hint_start, off, run);
        (self.contig_hint, self.contig_hint_start) = (hint, hint_start);
        self.nr_empty_pop_pages = empty;
    }

    /// Keeps the hints after `[off, off + len)` was allocated; the map is already set.
    pub(super) fn update_hints_alloc<C: Counter>(
        &mut self,
        g: &Geometry,
        populated: &[u64],
        off: u32,
        len: u32,
        costs: &mut C,
    ) {
        let (bits, shift) = (g.block_bits(), g.block_bits_shift());
        let (first, last) = ((off >> shift) as usize, ((off + len - 1) >> shift) as usize);
        let base = first as u32 * bits;
        let start = off - base;
        costs.touch(Part::Blocks, first as u32, last as u32 + 1);
        let block = &mut self.blocks[first];
        if start as i32 == block.first_free {
            let clear = bitmap::next_zero(&self.alloc_map, base + bits, off + len);
            costs.search(Part::AllocMap, off + len, (clear + 1).min(base + bits));
            block.first_free = (clear - base) as i32;
        }
        let contig = block.contig_hint_start..block.contig_hint_start + block.contig_hint;
        if contig.contains(&(start as i32)) {
            costs.count(|costs| costs.hints_broken += 1);
            self.refresh_block(g, first, costs);
        } else {
            block.left_free = block.left_free.min(start as i32);
            let right = if first == last { (bits - start - len) as i32 } else { 0 };
            block.right_free = block.right_free.min(right);
        }
        if first != last {
            let base = last as u32 * bits;
            let clear = bitmap::next_zero(&self.alloc_map, base + bits, off + len);
            costs.search(Part::AllocMap, off + len, (clear + 1).min(base + bits));
            let block = &mut self.blocks[last];
            block.first_free = (clear - base) as i32;
            let reached = block.contig_hint > 0 && base as i32 + block.contig_hint_start < (off + len) as i32;
            costs.count(|costs| costs.hints_broken += u64::from(reached));
            self.refresh_block(g, last, costs);
            for block in &mut self.blocks[first + 1..last] {
                (block.contig_hint, block.left_free, block.right_free) = (0, 0, 0);
            }
        }
        // Kernel: only an area that starts inside the chunk-wide run makes it be computed anew.
        let contig = self.contig_hint_start..self.contig_hint_start + self.contig_hint;
        if contig.contains(&(off as i32)) {
            costs.count(|costs| costs.hints_broken += 1);
            self.refresh_chunk(g, populated, costs);
        }
    }

    /// Keeps the hints after `[off, off + len)` was freed; the map is already clear.
    fn update_hints_free<C: Counter>(&mut self, g: &Geometry, populated: &[u64], off: u32, len: u32, costs: &mut C) {
        let (bits, shift) = (g.block_bits(), g.block_bits_shift());
        let size = bits as i32;
        let (first, last) = ((off >> shift) as usize, ((off + len - 1) >> shift) as usize);
        let (first_base, last_base) = (first as u32 * bits, last as u32 * bits);

        // The freed area joined with its free neighbours inside the first and the last block.
        let block = &self.blocks[first];
        costs.touch(Part::Blocks, first as u32, last as u32 + 1);
        let start = if (off - first_base) as i32 == block.contig_hint + block.contig_hint_start {
            block.contig_hint_start
        } else {
            let used = bitmap::last_set(&self.alloc_map, first_base, off);
            costs.search(Part::AllocMap, used.unwrap_or(first_base), off);
            used.map_or(0, |bit| (bit + 1 - first_base) as i32)
        };
        let block = &self.blocks[last];
        let end = if (off + len - last_base) as i32 == block.contig_hint_start {
            block.contig_hint_start + block.contig_hint
        } else {
            let used = bitmap::next_set(&self.alloc_map, last_base + bits, off + len);
            costs.search(Part::AllocMap, off + len, (used + 1).min(last_base + bits));
            (used - last_base) as i32
        };

        let free_blocks = if first == last {
            let block = &mut self.blocks[first];
            if start == 0 {
                block.left_free = end;
            }
            if end == size {
                block.right_free = end - start;
            }
            block.first_free = block.first_free.min(start);
            offer_block(block, start, end - start);
            first..first
        } else {
            if start != 0 {
                let block = &mut self.blocks[first];
                block.first_free = block.first_free.min(start);
                block.right_free = size - start;
                offer_block(block, start, size - start);
            }
            if end != size {
                let block = &mut self.blocks[last];
                block.first_free = 0;
                block.left_free = end;
                offer_block(block, 0, end);
            }
            first + usize::from(start != 0)..last + usize::from(end == size)
        };
        self.blocks[free_blocks].fill(Block::free(size));

        let block = &self.blocks[first];
        if first != last || (start == 0 && end == size) {
            self.refresh_chunk(g, populated, costs);
        } else if block.contig_hint > self.contig_hint {
            self.contig_hint = block.contig_hint;
            self.contig_hint_start = first_base as i32 + block.contig_hint_start;
        }
    }
}
