//! Writing the whole allocator down, and reading it back.
//!
//! Chunks are sections with their number, so that destroyed ones take no room; lists are numbers of chunks. Reading checks what
//! `verify` relies on (lengths, membership, addresses); `verify` checks the rest.

use std::collections::VecDeque;

use serde_json::{json, Value};

use super::{Early, Entry, PageMap, Space};
use crate::bitmap;
use crate::chunk::Role;
use crate::engine::saved::bulk::{Kind, Reader, Section, Writer};
use crate::engine::saved::{self, Fields};
use crate::engine::Setup;
use crate::error::StateError;
use crate::geometry::Geometry;
use crate::request::ChunkId;
use crate::slots::Slots;
use crate::units::Pages;

/// Drifting counts stay within this.
const MAX_DRIFT: i64 = 1 << 30;

impl<S: Space> Early<S> {
    pub(super) fn to_saved(&self, out: &mut Writer) -> Value {
        let chunks = self.with_reserved();
        chunks.for_each(|(id, entry)| out.section(Kind::Chunk, |out| entry.to_saved(id, out)));
        out.section(Kind::Lists, |out| {
            self.slots.iter_lists().for_each(|list| out.list(list.map(|id| id.0.into())));
            out.list(self.growth.iter().map(|id| id.0.into()));
        });
        json!({
            "chunks_created": self.chunks.len(),
            "chunks": self.numbered().count(),
            "reserved": self.reserved.is_some(),
            "first": self.first.is_some(),
            "nr_empty_pop_pages": self.nr_empty_pop_pages,
            "atomic_failed": self.atomic_failed,
            "async_enabled": self.async_enabled,
            "balance_pending": self.balance_pending,
            "warned_early": self.warned_early,
            "warn_limit": self.warn_limit,
            "boot_base": self.boot_base,
            "stats": saved::stats(&self.stats),
        })
    }

    pub(super) fn from_saved(setup: &Setup, saved: &Fields<'_>, bulk: &mut Reader<'_>) -> Result<Self, StateError> {
        let config = |error: crate::error::ConfigError| saved.error(error.parameter, error.to_string());
        let mut early = Self::new(&Setup { boot: None, ..setup.clone() }).map_err(config)?;
        early.boot_base = saved.number_to("boot_base", u64::MAX - 2 * early.geometry.unit_size().0)?;
        early.read_chunks(saved, bulk)?;
        early.read_lists(bulk)?;
        early.nr_empty_pop_pages = saved.signed_to("nr_empty_pop_pages", MAX_DRIFT)? as i32;
        early.atomic_failed = saved.flag("atomic_failed")?;
        early.async_enabled = saved.flag("async_enabled")?;
        early.balance_pending = saved.flag("balance_pending")?;
        early.warned_early = saved.flag("warned_early")?;
        early.warn_limit = saved.number_to("warn_limit", u64::from(super::WARN_LIMIT))? as u32;
        early.stats = saved.stats("stats")?;
        saved.check(early.stats.nr_alloc >= early.stats.nr_dealloc, "stats")?;
        let largest = early.geometry.unit_size();
        saved.check(early.stats.min_alloc_size <= largest && early.stats.max_alloc_size <= largest, "stats")?;
        let pages = |(_, entry): (ChunkId, &Entry<S>)| u64::from(entry.pages.nr_populated());
        let held = early.dynamic().map(pages).sum::<u64>() * early.backend.nr_cpus();
        if early.backend.backing_pages != held {
            let text = format!("{} pages are held, the chunks have {held}", early.backend.backing_pages);
            return Err(saved.error("chunks", text));
        }
        early.verify().map_err(|violation| saved.error("chunks", violation.to_string()))?;
        Ok(early)
    }

    fn read_chunks(&mut self, saved: &Fields<'_>, bulk: &mut Reader<'_>) -> Result<(), StateError> {
        let g = self.geometry;
        let created = saved.chunks_created("chunks_created")?;
        let (count, first) = (saved.number("chunks")?, saved.flag("first")?);
        // Each has a section.
        saved.check(count <= u64::from(created) && count <= bulk.left() as u64, "chunks")?;
        self.chunks.resize_with(created as usize, || None);
        for index in 0..count {
            let mut chunk = bulk.section(Kind::Chunk, format!("chunks[{index}]"))?;
            let number = chunk.small("number")?;
            let free = self.chunks.get(number as usize).is_some_and(Option::is_none);
            chunk.check(free, "number")?;
            let role = if first && number == 0 { Role::First } else { Role::Dynamic };
            let entry = Entry::from_saved(&g, &mut chunk, role, self.boot_base)?;
            if role == Role::Dynamic {
                chunk.check(self.backend.holds_chunk(entry.base_addr), "base_addr")?;
                chunk.check(self.by_base.at_base(entry.base_addr).is_none(), "base_addr")?;
                self.by_base.insert(entry.base_addr, ChunkId(number));
            }
            self.chunks[number as usize] = Some(Box::new(entry));
        }
        if first {
            saved.check(self.chunks.first().is_some_and(Option::is_some), "first")?;
            self.first = Some(ChunkId(0));
        }
        if saved.flag("reserved")? {
            saved.check(first, "reserved")?;
            let mut chunk = bulk.section(Kind::Chunk, "reserved")?;
            let number = chunk.small("number")?;
            chunk.check(ChunkId(number).is_reserved(), "number")?;
            let entry = Entry::from_saved(&g, &mut chunk, Role::Reserved, self.boot_base)?;
            self.reserved = Some(Box::new(entry));
        }
        Ok(())
    }

    fn read_lists(&mut self, bulk: &mut Reader<'_>) -> Result<(), StateError> {
        let mut lists = bulk.section(Kind::Lists, "lists")?;
        let mut listed = Vec::new();
        for slot in 0..self.slots.len() {
            for number in lists.list("slots")? {
                let id = u32::try_from(number).ok().map(ChunkId);
                let id = id.filter(|id| !id.is_reserved() && self.entry(*id).is_some());
                listed.push((slot, id.ok_or_else(|| lists.error("slots", format!("{number} is no chunk")))?));
            }
        }
        self.slots = Slots::with_lists(self.slots.len(), self.chunks.len(), &listed)
            .ok_or_else(|| lists.error("slots", "a chunk is on two lists"))?;
        let growth = lists.list("growth")?;
        let id = |number: u64| u32::try_from(number).ok().map(ChunkId).filter(|id| self.entry(*id).is_some());
        let growth: Option<VecDeque<ChunkId>> = growth.map(id).collect();
        self.growth = growth.ok_or_else(|| lists.error("growth", "has what is no chunk"))?;
        lists.end()
    }
}

impl<S: Space> Entry<S> {
    fn to_saved(&self, id: ChunkId, out: &mut Writer) {
        out.word(id.0.into());
        out.word(self.base_addr);
        let numbers = [self.start_offset, self.end_offset, self.pages.nr_pages(), self.nr_alloc, self.max_alloc_size];
        numbers.into_iter().for_each(|number| out.word(number.into()));
        out.words(self.pages.words());
        self.space.save(out);
    }

    /// What stands behind the number.
    fn from_saved(g: &Geometry, saved: &mut Section<'_>, role: Role, boot_base: u64) -> Result<Self, StateError> {
        let unit = g.unit_size().0;
        let base_addr = saved.word("base_addr")?;
        let (start, end) = (saved.word_to("start_offset", unit)? as u32, saved.word_to("end_offset", unit)? as u32);
        let pages = saved.word_to("nr_pages", g.unit_pages().0.into())? as u32;
        saved.check(pages > 0, "nr_pages")?;
        let (nr_alloc, max_alloc_size) = (saved.small("nr_alloc")?, saved.word_to("max_alloc_size", unit)? as u32);
        let whole = g.pages_to_bytes(Pages(pages)).0;
        saved.check(u64::from(start) + u64::from(end) <= whole, "end_offset")?;
        match role {
            Role::Dynamic => {
                saved.check(base_addr <= u64::MAX - 2 * unit, "base_addr")?;
                saved.check(pages == g.unit_pages().0, "nr_pages")?;
                saved.check(start == 0, "start_offset")?;
                saved.check(end == 0, "end_offset")?;
            }
            _ => saved.check(base_addr.checked_sub(boot_base).is_some_and(|off| off + whole <= unit), "base_addr")?,
        }
        let words = saved.map("populated", pages)?;
        let nr_populated = bitmap::count_set(&words, 0, pages);
        let entry = Self {
            base_addr,
            role,
            start_offset: start,
            end_offset: end,
            pages: PageMap { words, nr_pages: pages, nr_populated },
            nr_alloc,
            max_alloc_size,
            space: S::load(g, saved, Pages(pages))?,
        };
        saved.end()?;
        Ok(entry)
    }
}
