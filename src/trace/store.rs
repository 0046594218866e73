//! The columns of a trace, and views of them.
//!
//! # Design
//!
//! One vector a column; dictionaries are shared between a trace, its slices and the blocks of
//! one stream. Which column means what for which kind is said at [`Columns`].
//!
//! # Units
//!
//! As in [`super`].
//!
//! # Cost
//!
//! A view of an event is O(1), a slice O(its events).

use std::ops::Range;
use std::sync::Arc;

use super::event::{Alloc, Base, Clock, Event, Format, Kind, Record};
use super::NO_CPU;
use crate::units::{Bits, Bytes, Pages};

/// What is known of the file as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The form of the text; `None` if the trace was not read from one.
    pub format: Option<Format>,
    /// Lines with something else than an event that is known here.
    pub skipped_lines: u64,
    /// Lines that could not be read, where that is allowed.
    pub damaged_lines: u64,
    /// What was wrong with the first of them.
    pub first_damage: Option<String>,
    /// Events that were overwritten in the ring buffer before the first one, as the head of the file says.
    pub overwritten_events: u64,
}

/// How many events of each kind a trace has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    by_kind: [u64; Kind::ALL.len()],
}

impl Counts {
    /// Events of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.by_kind[kind as usize]
    }

    /// All rows.
    pub fn total(&self) -> u64 {
        self.by_kind.iter().sum()
    }

    /// All events but those of the kernel's own five kinds and the population probes: what the
    /// recordings call `other`.
    pub fn other(&self) -> u64 {
        self.by_kind[Kind::BalanceBegin as usize..Kind::Lost as usize].iter().sum()
    }
}

/// The raw columns, each as long as the trace. What a column means depends on the kind.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// Kind of the event.
    pub kind: &'a [Kind],
    /// CPU; [`NO_CPU`] where unknown.
    pub cpu: &'a [u16],
    /// Time by [`Trace::clock`].
    pub time: &'a [u64],
    /// Line in the file, from 1.
    pub line: &'a [u32],
    /// Bits [`flag::RESERVED`], [`flag::ATOMIC`] and so on.
    pub flags: &'a [u8],
    /// Index into [`Trace::bases`], or [`NONE`](super::NONE).
    pub base: &'a [u32],
    /// Bytes from the chunk's base; first page of a page range; start bit of an `alloc_area`;
    /// -1 in an `alloc_area_ret` that found nothing.
    pub off: &'a [i32],
    /// Bytes of a request; end page of a page range; bits of an `alloc_area`.
    pub size: &'a [u32],
    /// Alignment in bytes; in bits in an `alloc_area`.
    pub align: &'a [u32],
    /// Per-CPU pointer where [`flag::PTR`] is set.
    pub ptr: &'a [u64],
    /// `bytes_alloc` where [`flag::COUNT`] is set; number of lost events.
    pub count: &'a [u64],
    /// Index into [`Trace::call_sites`] for an allocation, into [`Trace::markers`] for a marker,
    /// else [`NONE`](super::NONE).
    pub text: &'a [u32],
    /// Index into [`Trace::gfp_flags`], or [`NONE`](super::NONE).
    pub gfp: &'a [u32],
}

/// Bits of the `flags` column.
pub mod flag {
    /// The request is for the reserved chunk.
    pub const RESERVED: u8 = 1;
    /// The request may not sleep.
    pub const ATOMIC: u8 = 2;
    /// The worker's last step.
    pub const EMPTY_ONLY: u8 = 4;
    /// The `ptr` column holds a pointer.
    pub const PTR: u8 = 8;
    /// The `count` column holds `bytes_alloc`.
    pub const COUNT: u8 = 16;
}

/// A trace in columns. Made by [`read_trace`](super::read_trace) or a [`TraceBuilder`](super::TraceBuilder).
///
/// Equality compares events, not the lines or the format they were read from.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub(super) clock: Clock,
    pub(super) hashed: bool,
    pub(super) facts: Facts,
    pub(super) kind: Vec<Kind>,
    pub(super) cpu: Vec<u16>,
    pub(super) time: Vec<u64>,
    pub(super) line: Vec<u32>,
    pub(super) flags: Vec<u8>,
    pub(super) base: Vec<u32>,
    pub(super) off: Vec<i32>,
    pub(super) size: Vec<u32>,
    pub(super) align: Vec<u32>,
    pub(super) ptr: Vec<u64>,
    pub(super) count: Vec<u64>,
    pub(super) text: Vec<u32>,
    pub(super) gfp: Vec<u32>,
    pub(super) bases: Arc<Vec<u64>>,
    pub(super) call_sites: Arc<Vec<String>>,
    pub(super) gfp_texts: Arc<Vec<String>>,
    pub(super) markers: Arc<Vec<String>>,
    /// Fields that no version of the kernel is known to print: event index, `name=value ...`.
    pub(super) extras: Vec<(u32, String)>,
}

impl Trace {
    /// Number of events.
    pub fn len(&self) -> usize {
        self.kind.len()
    }

    /// True without events.
    pub fn is_empty(&self) -> bool {
        self.kind.is_empty()
    }

    /// What the time column counts.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// True when pointers are hashed: equal values mean equal pointers, and nothing more.
    pub fn hashed(&self) -> bool {
        self.hashed
    }

    /// What is known of the file as a whole; in a block of a stream, of what was read for it.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Lines with something else than an event that is known here.
    pub fn skipped_lines(&self) -> u64 {
        self.facts.skipped_lines
    }

    /// Events that the ring buffer is known to have lost.
    pub fn lost_events(&self) -> u64 {
        let lost = self.kind.iter().zip(&self.count).filter(|(&kind, _)| kind == Kind::Lost);
        lost.fold(0, |sum, (_, &count)| sum.saturating_add(count))
    }

    /// Base addresses of chunks, in order of appearance.
    pub fn bases(&self) -> &[u64] {
        &self.bases
    }

    /// Call sites, in order of appearance.
    pub fn call_sites(&self) -> &[String] {
        &self.call_sites
    }

    /// Flag texts, in order of appearance.
    pub fn gfp_flags(&self) -> &[String] {
        &self.gfp_texts
    }

    /// Marker texts, one for each marker.
    pub fn markers(&self) -> &[String] {
        &self.markers
    }

    /// The fields of event `index` that are not known here, as `name=value name=value`.
    pub fn extra_fields(&self, index: usize) -> Option<&str> {
        let index = u32::try_from(index).ok()?;
        let found = self.extras.binary_search_by_key(&index, |&(event, _)| event).ok()?;
        Some(&self.extras[found].1)
    }

    /// The events that have fields which are not known here, ascending, and those fields.
    pub fn all_extra_fields(&self) -> impl Iterator<Item = (usize, &str)> {
        self.extras.iter().map(|(event, text)| (*event as usize, text.as_str()))
    }

    /// The raw columns.
    pub fn columns(&self) -> Columns<'_> {
        Columns {
            kind: &self.kind,
            cpu: &self.cpu,
            time: &self.time,
            line: &self.line,
            flags: &self.flags,
            base: &self.base,
            off: &self.off,
            size: &self.size,
            align: &self.align,
            ptr: &self.ptr,
            count: &self.count,
            text: &self.text,
            gfp: &self.gfp,
        }
    }

    /// How many events of each kind.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for &kind in &self.kind {
            counts.by_kind[kind as usize] += 1;
        }
        counts
    }

    /// Event `index` and where it stands; `None` past the end.
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        (index < self.len()).then(|| self.record(index))
    }

    /// Event `index`.
    ///
    /// # Panics
    ///
    /// Past the end.
    pub fn event(&self, index: usize) -> Event<'_> {
        let i = index;
        let bytes = |value: u32| Bytes(u64::from(value));
        let flags = self.flags[i];
        let reserved = flags & flag::RESERVED != 0;
        let atomic = flags & flag::ATOMIC != 0;
        let off = Bytes(self.off[i].max(0) as u64);
        let ptr = (flags & flag::PTR != 0).then_some(self.ptr[i]);
        let base = self.bases.get(self.base[i] as usize).map(|&addr| Base { index: self.base[i], addr });
        // The builder lets no row without a base into the kinds that need one.
        let known = base.unwrap_or(Base::new(0));
        let (first, end) = (Pages(self.off[i].max(0) as u32), Pages(self.size[i]));
        match self.kind[i] {
            Kind::Alloc => Event::Alloc(Alloc {
                size: bytes(self.size[i]),
                align: bytes(self.align[i]),
                reserved,
                atomic,
                base,
                off,
                ptr,
                bytes_alloc: (flags & flag::COUNT != 0).then_some(Bytes(self.count[i])),
                call_site: self.call_sites.get(self.text[i] as usize).map(String::as_str),
                gfp_flags: self.gfp_texts.get(self.gfp[i] as usize).map(String::as_str),
            }),
            Kind::Free => Event::Free { base, off, ptr },
            Kind::AllocFail => {
                Event::AllocFail { size: bytes(self.size[i]), align: bytes(self.align[i]), reserved, atomic }
            }
            Kind::Create => Event::Create { base },
            Kind::Destroy => Event::Destroy { base },
            Kind::Populated => Event::Populated { base: known, first, end },
            Kind::Depopulated => Event::Depopulated { base: known, first, end },
            Kind::BalanceBegin => Event::BalanceBegin,
            Kind::BalanceEnd => Event::BalanceEnd,
            Kind::BalanceFree => Event::BalanceFree { empty_only: flags & flag::EMPTY_ONLY != 0 },
            Kind::AllocArea => Event::AllocArea {
                base: known,
                bits: Bits(self.size[i]),
                align_bits: Bits(self.align[i]),
                start: Bits(self.off[i].max(0) as u32),
            },
            Kind::AllocAreaRet => Event::AllocAreaRet { off: (self.off[i] >= 0).then_some(off) },
            Kind::FreeArea => Event::FreeArea { base: known, off },
            Kind::Marker => Event::Marker { text: &self.markers[self.text[i] as usize] },
            Kind::Lost => Event::Lost { count: self.count[i] },
        }
    }

    fn record(&self, index: usize) -> Record<'_> {
        Record {
            index,
            time: self.time[index],
            cpu: (self.cpu[index] != NO_CPU).then_some(self.cpu[index]),
            line: self.line[index],
            event: self.event(index),
        }
    }

    /// All events in order.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = Record<'_>> + ExactSizeIterator {
        (0..self.len()).map(|index| self.record(index))
    }

    /// A trace without events that has the same dictionaries.
    fn without_events(&self) -> Trace {
        Trace {
            clock: self.clock,
            hashed: self.hashed,
            facts: Facts { format: self.facts.format, ..Facts::default() },
            bases: Arc::clone(&self.bases),
            call_sites: Arc::clone(&self.call_sites),
            gfp_texts: Arc::clone(&self.gfp_texts),
            markers: Arc::clone(&self.markers),
            ..Trace::default()
        }
    }

    /// Takes the events out, as a trace; the dictionaries are shared with what is left. Markers go with
    /// the events.
    pub(super) fn take_events(&mut self) -> Trace {
        let mut left = self.without_events();
        left.markers = Arc::default();
        std::mem::replace(self, left)
    }

    /// The events of `range` as a trace of their own. Dictionaries are shared, so that their
    /// indices agree with the original's; marker texts too.
    ///
    /// # Panics
    ///
    /// If the range exceeds the trace.
    pub fn slice(&self, range: Range<usize>) -> Trace {
        let r = || range.clone();
        let extras = self.extras.iter().filter(|&&(event, _)| range.contains(&(event as usize)));
        Trace {
            kind: self.kind[r()].to_vec(),
            cpu: self.cpu[r()].to_vec(),
            time: self.time[r()].to_vec(),
            line: self.line[r()].to_vec(),
            flags: self.flags[r()].to_vec(),
            base: self.base[r()].to_vec(),
            off: self.off[r()].to_vec(),
            size: self.size[r()].to_vec(),
            align: self.align[r()].to_vec(),
            ptr: self.ptr[r()].to_vec(),
            count: self.count[r()].to_vec(),
            text: self.text[r()].to_vec(),
            gfp: self.gfp[r()].to_vec(),
            extras: extras.map(|(event, text)| (event - range.start as u32, text.clone())).collect(),
            ..self.without_events()
        }
    }

    /// The events with these numbers, in this order; dictionaries are shared.
    ///
    /// # Panics
    ///
    /// If a number exceeds the trace.
    pub fn take(&self, events: &[u32]) -> Trace {
        fn of<T: Copy>(column: &[T], events: &[u32]) -> Vec<T> {
            events.iter().map(|&event| column[event as usize]).collect()
        }
        let extra = |(to, &from): (usize, &u32)| Some((to as u32, self.extra_fields(from as usize)?.to_owned()));
        let extras = if self.extras.is_empty() { &[] } else { events };
        Trace {
            kind: of(&self.kind, events),
            cpu: of(&self.cpu, events),
            time: of(&self.time, events),
            line: of(&self.line, events),
            flags: of(&self.flags, events),
            base: of(&self.base, events),
            off: of(&self.off, events),
            size: of(&self.size, events),
            align: of(&self.align, events),
            ptr: of(&self.ptr, events),
            count: of(&self.count, events),
            text: of(&self.text, events),
            gfp: of(&self.gfp, events),
            extras: extras.iter().enumerate().filter_map(extra).collect(),
            ..self.without_events()
        }
    }

    /// The first difference to `other`: the index and both events. Lines are not compared, nor
    /// the time of a loss, which no format records.
    pub fn first_difference<'a>(&'a self, other: &'a Trace) -> Option<(usize, Option<Record<'a>>, Option<Record<'a>>)> {
        let same = |i: usize| {
            let (a, b) = (self.record(i), other.record(i));
            let timeless = a.event.kind() == Kind::Lost;
            a.event == b.event
                && a.cpu == b.cpu
                && (timeless || a.time == b.time && self.clock == other.clock)
                && self.extra_fields(i) == other.extra_fields(i)
                && (a.event.base().is_none() || self.hashed == other.hashed)
        };
        let common = self.len().min(other.len());
        let index = (0..common).find(|&i| !same(i)).unwrap_or(common);
        (index < self.len().max(other.len())).then(|| (index, self.get(index), other.get(index)))
    }
}

impl PartialEq for Trace {
    fn eq(&self, other: &Self) -> bool {
        self.first_difference(other).is_none()
    }
}
