//! Chunks and lists of a snapshot: straight from an engine, and back into a state.
//!
//! # Design
//!
//! A section for each chunk, in the order of `Linux::chunk_ids`, and one for the lists, which name chunks by their place in
//! that order. What is read is no more than a state: [`State::validate`] judges it.
//!
//! # Units
//!
//! As [`ChunkState`].

use super::capture::slots_of;
use super::{md, ChunkState, Hints, State};
use crate::engine::linux::Linux;
use crate::engine::saved::bulk::{Kind, Reader, Section, Writer};
use crate::error::StateError;
use crate::request::ChunkId;

impl State {
    /// Writes chunks and lists of an engine.
    pub(crate) fn write_chunks(linux: &Linux, out: &mut Writer) {
        for id in linux.chunk_ids() {
            let chunk = linux.chunk(id).expect("listed by chunk_ids");
            out.section(Kind::Chunk, |out| {
                let numbers = [
                    u64::from(id.0),
                    chunk.base_addr,
                    chunk.free_bytes.into(),
                    chunk.start_offset.into(),
                    chunk.end_offset.into(),
                    chunk.nr_pages.into(),
                    chunk.nr_populated.into(),
                    i64::from(chunk.nr_empty_pop_pages) as u64,
                    chunk.immutable().into(),
                    chunk.isolated.into(),
                    chunk.nr_alloc.into(),
                    chunk.max_alloc_size.into(),
                ];
                out.words(&numbers);
                let rows = std::iter::once(&chunk.md).chain(chunk.blocks.iter());
                out.rows(1 + chunk.blocks.len(), rows.map(|block| Hints::from(*block).map(|number| number as u32)));
                out.words(&chunk.alloc_map);
                out.words(&chunk.bound_map);
                out.words(&chunk.populated);
            });
        }
        out.section(Kind::Lists, |out| {
            slots_of(linux).into_iter().for_each(|list| out.list(list.into_iter().map(|index| index as u64)));
        });
    }

    /// Reads `count` chunks and the lists, and gives the number of each chunk. The sizes must be those of a valid state.
    pub(crate) fn read_chunks(&mut self, count: u64, bulk: &mut Reader<'_>) -> Result<Vec<ChunkId>, StateError> {
        self.validate_sizes()?;
        let mut numbers = Vec::new();
        for index in 0..count {
            let mut section = bulk.section(Kind::Chunk, format!("chunks[{index}]"))?;
            numbers.push(ChunkId(section.small("number")?));
            let chunk = self.read_chunk(&mut section)?;
            section.end()?;
            self.chunks.push(chunk);
        }
        let mut lists = bulk.section(Kind::Lists, "lists")?;
        for _ in 0..self.nr_slots.min(64) {
            self.slots.push(lists.list("slots")?.map(|index| index as usize).collect());
        }
        lists.end()?;
        Ok(numbers)
    }

    fn read_chunk(&self, section: &mut Section<'_>) -> Result<ChunkState, StateError> {
        let mut chunk = ChunkState {
            base_addr: section.word("base_addr")?,
            free_bytes: section.small("free_bytes")?,
            start_offset: section.small("start_offset")?,
            end_offset: section.small("end_offset")?,
            nr_pages: section.word_to("nr_pages", self.unit_pages.into())? as u32,
            nr_populated: section.small("nr_populated")?,
            nr_empty_pop_pages: section.signed_to("nr_empty_pop_pages", i32::MAX.into())? as i32,
            immutable: section.flag("immutable")?,
            isolated: section.flag("isolated")?,
            nr_alloc: Some(section.word("nr_alloc")?),
            max_alloc_size: Some(section.word_to("max_alloc_size", self.unit_size)?),
            ..ChunkState::default()
        };
        let bits = self.nr_bits(&chunk) as u32;
        let size = u64::from(chunk.nr_pages) * self.page_size();
        let mut rows = section.rows::<8>("md_blocks", 1 + size.div_ceil(self.block_size) as usize)?;
        let row = |row: [u32; md::NR_BITS + 1]| row.map(|number| number as i32);
        chunk.chunk_md = rows.next().map(row).expect("one row at least");
        chunk.md_blocks = rows.map(row).collect();
        chunk.alloc_map = section.map("alloc_map", bits)?.into();
        chunk.bound_map = section.map("bound_map", bits + 1)?.into();
        chunk.populated = section.map("populated", chunk.nr_pages)?.into();
        Ok(chunk)
    }
}
