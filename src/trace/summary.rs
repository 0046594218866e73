//! What is in a trace, in numbers: by kind of event, by call site, by CPU.
//!
//! # Design
//!
//! Blocks are added one by one, so that a file of any size can be summed up; a whole trace is one
//! block. Which area a free gives back is known by chunk and offset: an allocation over one that is
//! live replaces it (its free was lost), a free of an area that was not seen being allocated is
//! counted as unseen.
//!
//! # Units
//!
//! Bytes for each CPU, and `charged` over all CPUs as the kernel prints it.
//!
//! # Cost
//!
//! One hash look-up for each allocation and free; memory grows with the areas that live, not with events.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::event::{Clock, Format, Kind};
use super::{flag, Trace, NONE, NO_CPU};

/// Events of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KindRow {
    /// How many.
    pub events: u64,
    /// Time of the first and the last one, if there is any; a loss has none of its own.
    pub times: Option<(u64, u64)>,
    /// Requested, by allocations and failed requests; given back, by frees of areas that were seen being
    /// allocated. Bytes for each CPU.
    pub bytes: u64,
}

/// What one call site did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SiteRow {
    /// Served requests.
    pub allocs: u64,
    /// Of them, those that may not sleep.
    pub atomic: u64,
    /// Frees of areas that it got.
    pub frees: u64,
    /// Bytes for each CPU, requested in all.
    pub requested: u64,
    /// Bytes over all CPUs, charged in all.
    pub charged: u64,
    /// Areas that are live at the end.
    pub live: u64,
    /// Bytes for each CPU, live at the end.
    pub live_bytes: u64,
    /// Bytes for each CPU, live at the most.
    pub peak_bytes: u64,
}

/// What one CPU wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuRow {
    /// Events, without losses.
    pub events: u64,
    /// Served requests.
    pub allocs: u64,
    /// Frees.
    pub frees: u64,
    /// Events lost on this CPU.
    pub lost: u64,
}

/// An area that lives.
#[derive(Clone, Copy)]
struct Area {
    size: u32,
    site: u32,
}

/// The numbers of a trace.
#[derive(Clone, Default)]
pub struct Summary {
    kinds: [KindRow; Kind::ALL.len()],
    sites: Vec<SiteRow>,
    names: Vec<String>,
    without_site: SiteRow,
    cpus: BTreeMap<u16, CpuRow>,
    live: HashMap<(u32, i32), Area>,
    /// Chunks that an event has named.
    named: Vec<bool>,
    totals: Totals,
}

/// The numbers that belong to no row.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// What times count.
    pub clock: Clock,
    /// Whether pointers are hashed.
    pub hashed: bool,
    /// The form of the text.
    pub format: Option<Format>,
    /// All rows but losses.
    pub events: u64,
    /// Time of the first event and of the last one, the earliest and the latest.
    pub times: Option<(u64, u64)>,
    /// Chunks that any event names.
    pub chunks: u64,
    /// Frees of areas that were not seen being allocated.
    pub unseen_frees: u64,
    /// Areas that are live at the end.
    pub live: u64,
    /// Bytes for each CPU, live at the end, of what was seen being allocated.
    pub live_bytes: u64,
    /// Bytes for each CPU, live at the most.
    pub peak_bytes: u64,
    /// Events lost in the middle, as far as the text tells how many.
    pub lost: u64,
    /// Places where events were lost.
    pub losses: u64,
    /// Events overwritten before the first one.
    pub overwritten: u64,
    /// Lines with something else.
    pub skipped_lines: u64,
    /// Lines that could not be read.
    pub damaged_lines: u64,
}

fn widen(times: &mut Option<(u64, u64)>, time: u64) {
    *times = Some(times.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
}

impl Summary {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The summary of a whole trace.
    pub fn of(trace: &Trace) -> Self {
        let mut summary = Self::new();
        summary.add(trace);
        summary
    }

    /// Adds the next block of one trace; its dictionaries continue those of the block before.
    pub fn add(&mut self, block: &Trace) {
        self.begin(block);
        self.add_part(block, 0..block.len());
    }

    /// Takes note of a block as a whole; its events follow by [`Self::add_part`].
    pub fn begin(&mut self, block: &Trace) {
        self.sites.resize(block.call_sites().len().max(self.sites.len()), SiteRow::default());
        self.names.extend(block.call_sites().iter().skip(self.names.len()).cloned());
        self.named.resize(block.bases().len().max(self.named.len()), false);
        let facts = block.facts();
        let totals = &mut self.totals;
        (totals.clock, totals.hashed, totals.format) = (block.clock(), block.hashed(), facts.format);
        totals.overwritten += facts.overwritten_events;
        totals.skipped_lines += facts.skipped_lines;
        totals.damaged_lines += facts.damaged_lines;
    }

    /// Adds some events of a block, those behind the ones that were added before.
    pub fn add_part(&mut self, block: &Trace, events: Range<usize>) {
        for index in events {
            self.event(block, index);
        }
        self.totals.live = self.live.len() as u64;
    }

    fn event(&mut self, block: &Trace, index: usize) {
        let c = block.columns();
        let (kind, time) = (c.kind[index], c.time[index]);
        let row = &mut self.kinds[kind as usize];
        row.events += 1;
        let cpu = self.cpus.entry(c.cpu[index]).or_default();
        if kind == Kind::Lost {
            cpu.lost = cpu.lost.saturating_add(c.count[index]);
            self.totals.lost = self.totals.lost.saturating_add(c.count[index]);
            self.totals.losses += 1;
            return;
        }
        cpu.events += 1;
        widen(&mut row.times, time);
        widen(&mut self.totals.times, time);
        self.totals.events += 1;
        if let Some(named) = self.named.get_mut(c.base[index] as usize) {
            self.totals.chunks += u64::from(!std::mem::replace(named, true));
        }
        let place = (c.base[index], c.off[index]);
        match kind {
            Kind::Alloc => {
                cpu.allocs += 1;
                row.bytes += u64::from(c.size[index]);
                if let Some(area) = self.live.remove(&place) {
                    self.gone(area, false);
                }
                let area = Area { size: c.size[index], site: c.text[index] };
                let charged = if c.flags[index] & flag::COUNT != 0 { c.count[index] } else { 0 };
                self.taken(area, charged, c.flags[index] & flag::ATOMIC != 0);
                self.live.insert(place, area);
            }
            Kind::AllocFail => row.bytes += u64::from(c.size[index]),
            Kind::Free => {
                cpu.frees += 1;
                match self.live.remove(&place) {
                    Some(area) => {
                        row.bytes += u64::from(area.size);
                        self.gone(area, true);
                    }
                    None => self.totals.unseen_frees += 1,
                }
            }
            _ => {}
        }
    }

    fn site(&mut self, site: u32) -> &mut SiteRow {
        match site {
            NONE => &mut self.without_site,
            site => &mut self.sites[site as usize],
        }
    }

    fn taken(&mut self, area: Area, charged: u64, atomic: bool) {
        let size = u64::from(area.size);
        let site = self.site(area.site);
        site.allocs += 1;
        site.atomic += u64::from(atomic);
        site.requested += size;
        site.charged = site.charged.saturating_add(charged);
        site.live += 1;
        site.live_bytes += size;
        site.peak_bytes = site.peak_bytes.max(site.live_bytes);
        self.totals.live_bytes += size;
        self.totals.peak_bytes = self.totals.peak_bytes.max(self.totals.live_bytes);
    }

    fn gone(&mut self, area: Area, freed: bool) {
        let size = u64::from(area.size);
        let site = self.site(area.site);
        site.frees += u64::from(freed);
        site.live -= 1;
        site.live_bytes -= size;
        self.totals.live_bytes -= size;
    }

    /// The kinds that occur, in the order of their codes.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, &KindRow)> {
        Kind::ALL.into_iter().zip(&self.kinds).filter(|(_, row)| row.events > 0)
    }

    /// The call sites that got anything, most bytes requested first; `None` for events without one.
    pub fn sites(&self) -> Vec<(Option<&str>, &SiteRow)> {
        let named = self.names.iter().map(|name| Some(name.as_str())).zip(&self.sites);
        let mut rows: Vec<_> = named.chain([(None, &self.without_site)]).filter(|(_, row)| row.allocs > 0).collect();
        rows.sort_by(|(a, left), (b, right)| {
            (right.requested, right.allocs).cmp(&(left.requested, left.allocs)).then_with(|| a.cmp(b))
        });
        rows
    }

    /// The CPUs, ascending; `None` for events without one.
    pub fn cpus(&self) -> impl Iterator<Item = (Option<u16>, &CpuRow)> {
        self.cpus.iter().map(|(&cpu, row)| ((cpu != NO_CPU).then_some(cpu), row))
    }

    /// The rest.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }
}
