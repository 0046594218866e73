//! Writing the whole allocator down, and reading it back.
//!
//! Chunks are numbered entries, so that destroyed ones take no room. Reading checks what `verify`
//! relies on (lengths, membership, addresses); `verify` checks the rest.

use serde_json::{json, Value};

use super::{Early, Entry, PageMap, Space};
use crate::bitmap;
use crate::chunk::Role;
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
    pub(super) fn to_saved(&self) -> Value {
        let chunks = self.numbered().map(|(id, entry)| {
            let mut value = entry.to_saved();
            value["number"] = json!(id.0);
            value
        });
        json!({
            "chunks_created": self.chunks.len(),
            "chunks": chunks.collect::<Vec<_>>(),
            "reserved": self.reserved.as_deref().map(Entry::to_saved),
            "first": self.first.is_some(),
            "slots": self.slots.iter_lists().map(saved::chunk_ids).collect::<Vec<_>>(),
            "growth": saved::chunk_ids(self.growth.iter().copied()),
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

    pub(super) fn from_saved(setup: &Setup, saved: &Fields<'_>) -> Result<Self, StateError> {
        let config = |error: crate::error::ConfigError| saved.error(error.parameter, error.to_string());
        let mut early = Self::new(&Setup { boot: None, ..setup.clone() }).map_err(config)?;
        early.boot_base = saved.number_to("boot_base", u64::MAX - 2 * early.geometry.unit_size().0)?;
        early.read_chunks(saved)?;
        early.read_lists(saved)?;
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

    fn read_chunks(&mut self, saved: &Fields<'_>) -> Result<(), StateError> {
        let g = self.geometry;
        let created = saved.chunks_created("chunks_created")?;
        let first = saved.flag("first")?;
        self.chunks.resize_with(created as usize, || None);
        for chunk in saved.objects("chunks")? {
            let number = chunk.small("number")?;
            let role = if first && number == 0 { Role::First } else { Role::Dynamic };
            let entry = Entry::from_saved(&g, &chunk, role, self.boot_base)?;
            let free = self.chunks.get(number as usize).is_some_and(Option::is_none);
            chunk.check(free, "number")?;
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
        if let Some(reserved) = saved.optional("reserved")? {
            saved.check(first, "reserved")?;
            self.reserved = Some(Box::new(Entry::from_saved(&g, &reserved, Role::Reserved, self.boot_base)?));
        }
        Ok(())
    }

    fn read_lists(&mut self, saved: &Fields<'_>) -> Result<(), StateError> {
        let lists = saved.list("slots")?;
        saved.check(lists.len() == self.slots.len() as usize, "slots")?;
        let mut listed = Vec::new();
        for (slot, list) in (0..).zip(lists) {
            for number in list.as_array().ok_or_else(|| saved.bad("slots"))? {
                let id = number.as_u64().and_then(|n| u32::try_from(n).ok()).map(ChunkId);
                let id = id.filter(|id| !id.is_reserved() && self.entry(*id).is_some());
                listed.push((slot, id.ok_or_else(|| saved.bad("slots"))?));
            }
        }
        self.slots = Slots::with_lists(self.slots.len(), self.chunks.len(), &listed)
            .ok_or_else(|| saved.error("slots", "a chunk is on two lists"))?;
        self.growth = saved.chunk_ids("growth")?.into();
        saved.check(self.growth.iter().all(|id| self.entry(*id).is_some()), "growth")
    }
}

impl<S: Space> Entry<S> {
    fn to_saved(&self) -> Value {
        json!({
            "base_addr": self.base_addr,
            "start_offset": self.start_offset,
            "end_offset": self.end_offset,
            "nr_pages": self.pages.nr_pages(),
            "populated": self.pages.words(),
            "nr_alloc": self.nr_alloc,
            "max_alloc_size": self.max_alloc_size,
            "space": self.space.save(),
        })
    }

    fn from_saved(g: &Geometry, saved: &Fields<'_>, role: Role, boot_base: u64) -> Result<Self, StateError> {
        let unit = g.unit_size().0;
        let pages = saved.number_to("nr_pages", u64::from(g.unit_pages().0))? as u32;
        saved.check(pages > 0, "nr_pages")?;
        let limit = |name: &str| Ok::<u32, StateError>(saved.number_to(name, unit)? as u32);
        let (base_addr, start, end) = (saved.number("base_addr")?, limit("start_offset")?, limit("end_offset")?);
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
        let words = saved.words("populated", pages)?;
        let nr_populated = bitmap::count_set(&words, 0, pages);
        let entry = Self {
            base_addr,
            role,
            start_offset: start,
            end_offset: end,
            pages: PageMap { words, nr_pages: pages, nr_populated },
            nr_alloc: saved.small("nr_alloc")?,
            max_alloc_size: limit("max_alloc_size")?,
            space: S::load(g, &saved.object("space")?, Pages(pages))?,
        };
        Ok(entry)
    }
}
