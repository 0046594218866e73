//! Building traces: interning, checks, run-length expansion.
//!
//! # Design
//!
//! A [`TraceBuilder`] owns the columns and the reverse dictionaries. Readers hand it
//! finished rows; other code gives it [`Event`]s. All limits are checked here, so a
//! [`Trace`] is valid however it was made (invariants T1 to T3 of [`super`]).
//!
//! # Cost
//!
//! One comparison for a dictionary value that was met lately, else one hash look-up.

use std::collections::HashMap;
use std::sync::Arc;

use super::{flag, ftrace, Alloc, Clock, Event, Facts, Kind, Limits, Trace, NONE, NO_CPU};
use crate::error::TraceError;
use crate::units::Bytes;

/// One row of the columns, with everything absent that its kind does not set.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub kind: Kind,
    pub cpu: u16,
    pub time: u64,
    pub line: u64,
    pub flags: u8,
    pub base: u32,
    pub off: i32,
    pub size: u32,
    pub align: u32,
    pub ptr: u64,
    pub count: u64,
    pub text: u32,
    pub gfp: u32,
}

impl Row {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            cpu: NO_CPU,
            time: 0,
            line: 0,
            flags: 0,
            base: NONE,
            off: 0,
            size: 0,
            align: 0,
            ptr: 0,
            count: 0,
            text: NONE,
            gfp: NONE,
        }
    }

    /// A row of a trace, with the indices of its dictionaries.
    pub fn of(trace: &Trace, index: usize) -> Self {
        let c = trace.columns();
        Self {
            kind: c.kind[index],
            cpu: c.cpu[index],
            time: c.time[index],
            line: u64::from(c.line[index]),
            flags: c.flags[index],
            base: c.base[index],
            off: c.off[index],
            size: c.size[index],
            align: c.align[index],
            ptr: c.ptr[index],
            count: c.count[index],
            text: c.text[index],
            gfp: c.gfp[index],
        }
    }

    pub fn set_ptr(&mut self, ptr: Option<u64>) {
        if let Some(ptr) = ptr {
            self.ptr = ptr;
            self.flags |= flag::PTR;
        }
    }

    pub fn set_count(&mut self, count: u64) {
        self.count = count;
        self.flags |= flag::COUNT;
    }
}

/// Places of the caches in front of the hash tables, a power of two.
const RECENT: usize = 256;

/// A number for the cache: cheap, and different for most texts of one file.
fn place(text: &[u8]) -> usize {
    let word = |at: usize| match text[at..].first_chunk::<8>() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => text[at..].iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    let mixed = word(0) ^ word(text.len() / 2).rotate_left(23) ^ word(text.len().saturating_sub(8)).rotate_left(41);
    mixed.wrapping_add(text.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> (usize::BITS - RECENT.ilog2())
}

/// A dictionary of texts: index by bytes.
struct Interner {
    index: HashMap<Vec<u8>, u32>,
    recent: [u32; RECENT],
}

impl Default for Interner {
    fn default() -> Self {
        Self { index: HashMap::new(), recent: [NONE; RECENT] }
    }
}

impl Interner {
    /// The index of `text` in `texts`, where it is added if it is new.
    fn intern(&mut self, texts: &mut Arc<Vec<String>>, text: &[u8]) -> u32 {
        let place = place(text);
        let recent = self.recent[place];
        if texts.get(recent as usize).is_some_and(|known| known.as_bytes() == text) {
            return recent;
        }
        let index = match self.index.get(text) {
            Some(&index) => index,
            None => {
                let index = texts.len() as u32;
                Arc::make_mut(texts).push(String::from_utf8_lossy(text).into_owned());
                self.index.insert(text.to_vec(), index);
                index
            }
        };
        self.recent[place] = index;
        index
    }
}

/// The index of base addresses that were met lately.
struct RecentBases([(u64, u32); RECENT]);

impl Default for RecentBases {
    fn default() -> Self {
        Self([(0, NONE); RECENT])
    }
}

/// Makes a [`Trace`] event by event.
#[derive(Default)]
pub struct TraceBuilder {
    trace: Trace,
    limits: Limits,
    /// Events of the blocks that were taken out, and the time of the last one.
    done: u64,
    last_time: u64,
    full: bool,
    /// Of the next event.
    line: u32,
    bases: HashMap<u64, u32>,
    recent_bases: RecentBases,
    call_sites: Interner,
    gfp: Interner,
}

impl TraceBuilder {
    /// An empty trace whose times count by `clock`.
    pub fn new(clock: Clock) -> Self {
        Self::with_limits(clock, Limits::default())
    }

    /// As [`Self::new`], with other limits.
    pub fn with_limits(clock: Clock, limits: Limits) -> Self {
        Self { trace: Trace { clock, ..Trace::default() }, limits, ..Self::default() }
    }

    /// Declares all pointers hashed; they must then be below 2^32 as the kernel's are.
    pub fn hashed_pointers(mut self) -> Self {
        self.trace.hashed = true;
        self
    }

    /// Adds an event. `time` by the clock of the trace; the time of a loss is not kept.
    pub fn push(&mut self, time: u64, cpu: Option<u16>, event: &Event<'_>) -> Result<(), TraceError> {
        let mut row = self.row_of(event)?;
        row.time = time;
        row.line = u64::from(std::mem::take(&mut self.line));
        if self.trace.clock == Clock::Microseconds && time % 1000 != 0 && row.kind != Kind::Lost {
            return Err(TraceError::new(format!("time={time}: not a whole number of microseconds")));
        }
        row.cpu = match cpu {
            Some(NO_CPU) => return Err(TraceError::new(format!("cpu={NO_CPU}: must be below {NO_CPU}"))),
            Some(cpu) => cpu,
            None => NO_CPU,
        };
        if row.kind == Kind::Lost && cpu.is_none() {
            return Err(TraceError::new("a loss needs the cpu that lost events"));
        }
        self.push_row(row)
    }

    /// Puts values into the dictionaries, in this order, before any event: so that blocks which are built apart
    /// agree in their indices.
    pub fn declare(&mut self, bases: &[u64], call_sites: &[String], gfp_flags: &[String]) -> Result<(), TraceError> {
        for &base in bases {
            let base = self.pointer(base)?;
            self.base(base);
        }
        for site in call_sites {
            check_call_site(site)?;
            self.call_site(site.as_bytes());
        }
        for text in gfp_flags {
            check_text("gfp_flags", text)?;
            self.gfp_text(text.as_bytes());
        }
        Ok(())
    }

    /// Keeps `line` as the place of the event that is pushed next.
    pub fn at_line(&mut self, line: u32) -> &mut Self {
        self.line = line;
        self
    }

    /// Keeps fields of the event that is pushed next which are not known here: `name=value name=value`.
    pub fn with_extra_fields(&mut self, text: &str) -> Result<&mut Self, TraceError> {
        check_text("extra_fields", text)?;
        let module = |word: &str| word.starts_with('[') && !word.contains('=');
        let words = || text.split([' ', '\t']);
        let known = words().any(|word| word.split_once('=').is_some_and(|(name, _)| ftrace::is_field(name.as_bytes())));
        let fields = words().enumerate().all(|(i, word)| word.contains('=') || i > 0 && module(word));
        if !fields || known {
            return Err(TraceError::new(format!(
                "extra_fields={text:?}: must be `name=value`, of other names than known"
            )));
        }
        self.extra(text.to_owned());
        Ok(self)
    }

    /// What is known of the whole.
    pub fn set_facts(&mut self, facts: Facts) {
        self.trace.facts = facts;
    }

    /// The trace.
    pub fn finish(self) -> Trace {
        self.trace
    }

    fn row_of(&mut self, event: &Event<'_>) -> Result<Row, TraceError> {
        let mut row = Row::new(event.kind());
        let offset = |bytes: Bytes| {
            i32::try_from(bytes.0).map_err(|_| TraceError::new(format!("off={}: must be below 2^31", bytes.0)))
        };
        let small = |name: &str, value: u64| {
            u32::try_from(value).map_err(|_| TraceError::new(format!("{name}={value}: must be below 2^32")))
        };
        if let Some(base) = event.base() {
            row.base = self.base(self.pointer(base.addr)?);
        }
        match *event {
            Event::Alloc(Alloc {
                size,
                align,
                reserved,
                atomic,
                off,
                ptr,
                bytes_alloc,
                call_site,
                gfp_flags,
                base: _,
            }) => {
                row.flags = flags(reserved, atomic);
                row.size = small("size", size.0)?;
                row.align = small("align", align.0)?;
                row.off = offset(off)?;
                row.set_ptr(ptr.map(|ptr| self.pointer(ptr)).transpose()?);
                if let Some(Bytes(bytes)) = bytes_alloc {
                    row.set_count(bytes);
                }
                if let Some(site) = call_site {
                    check_call_site(site)?;
                    row.text = self.call_site(site.as_bytes());
                }
                if let Some(text) = gfp_flags {
                    check_text("gfp_flags", text)?;
                    row.gfp = self.gfp_text(text.as_bytes());
                }
            }
            Event::Free { off, ptr, .. } => {
                row.off = offset(off)?;
                row.set_ptr(ptr.map(|ptr| self.pointer(ptr)).transpose()?);
            }
            Event::AllocFail { size, align, reserved, atomic } => {
                row.flags = flags(reserved, atomic);
                row.size = small("size", size.0)?;
                row.align = small("align", align.0)?;
            }
            Event::Populated { first, end, .. } | Event::Depopulated { first, end, .. } => {
                check_pages(u64::from(first.0), u64::from(end.0)).map_err(TraceError::new)?;
                row.off = first.0 as i32;
                row.size = end.0;
            }
            Event::BalanceFree { empty_only } => row.flags = if empty_only { flag::EMPTY_ONLY } else { 0 },
            Event::AllocArea { bits, align_bits, start, .. } => {
                row.size = bits.0;
                row.align = align_bits.0;
                row.off = offset(Bytes(u64::from(start.0)))?;
            }
            Event::AllocAreaRet { off } => row.off = off.map(offset).transpose()?.unwrap_or(-1),
            Event::FreeArea { off, .. } => row.off = offset(off)?,
            Event::Marker { text } => {
                check_text("text", text)?;
                row.text = self.marker(text.as_bytes());
            }
            Event::Lost { count } => row.count = count,
            Event::Create { .. } | Event::Destroy { .. } | Event::BalanceBegin | Event::BalanceEnd => {}
        }
        Ok(row)
    }

    fn pointer(&self, value: u64) -> Result<u64, TraceError> {
        if self.trace.hashed && (value >> 32 != 0 || value == 0) {
            return Err(TraceError::new(format!("pointer {value:#x}: a hashed pointer is below 2^32 and not 0")));
        }
        Ok(value)
    }

    /// Events that can be taken.
    pub(super) fn len(&self) -> usize {
        self.trace.len()
    }

    /// Events so far, those that were taken included.
    pub(super) fn total(&self) -> u64 {
        self.done + self.trace.len() as u64
    }

    /// Whether the limit was reached.
    pub(super) fn full(&self) -> bool {
        self.full
    }

    /// Takes the events out, as a trace; indices of the dictionaries stay as they are.
    pub(super) fn take(&mut self) -> Trace {
        self.done += self.trace.len() as u64;
        self.last_time = self.trace.time.last().copied().unwrap_or(self.last_time);
        self.trace.take_events()
    }

    pub(super) fn facts(&mut self) -> &mut Facts {
        &mut self.trace.facts
    }

    #[inline]
    pub(super) fn base(&mut self, addr: u64) -> u32 {
        let place = addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - RECENT.ilog2());
        let (recent, index) = self.recent_bases.0[place as usize];
        if recent == addr && index != NONE {
            return index;
        }
        let bases = &mut self.trace.bases;
        let index = *self.bases.entry(addr).or_insert_with(|| {
            Arc::make_mut(bases).push(addr);
            bases.len() as u32 - 1
        });
        self.recent_bases.0[place as usize] = (addr, index);
        index
    }

    pub(super) fn call_site(&mut self, text: &[u8]) -> u32 {
        self.call_sites.intern(&mut self.trace.call_sites, text)
    }

    pub(super) fn gfp_text(&mut self, text: &[u8]) -> u32 {
        self.gfp.intern(&mut self.trace.gfp_texts, text)
    }

    /// Markers are not interned: each is looked at once.
    pub(super) fn marker(&mut self, text: &[u8]) -> u32 {
        Arc::make_mut(&mut self.trace.markers).push(String::from_utf8_lossy(text).into_owned());
        self.trace.markers.len() as u32 - 1
    }

    /// Keeps unknown fields of the row that is pushed next.
    pub(super) fn extra(&mut self, text: String) {
        self.trace.extras.push((self.trace.len() as u32, text));
    }

    pub(super) fn set_clock(&mut self, clock: Clock) {
        self.trace.clock = clock;
    }

    pub(super) fn set_hashed(&mut self, hashed: bool) {
        self.trace.hashed = hashed;
    }

    pub(super) fn skip_line(&mut self) {
        self.trace.facts.skipped_lines += 1;
    }

    #[inline]
    pub(super) fn push_row(&mut self, row: Row) -> Result<(), TraceError> {
        self.room(1)?;
        let t = &mut self.trace;
        let time = if row.kind == Kind::Lost { t.time.last().copied().unwrap_or(self.last_time) } else { row.time };
        t.kind.push(row.kind);
        t.cpu.push(row.cpu);
        t.time.push(time);
        t.line.push(u32::try_from(row.line).unwrap_or(u32::MAX));
        t.flags.push(row.flags);
        t.base.push(row.base);
        t.off.push(row.off);
        t.size.push(row.size);
        t.align.push(row.align);
        t.ptr.push(row.ptr);
        t.count.push(row.count);
        t.text.push(row.text);
        t.gfp.push(row.gfp);
        Ok(())
    }

    /// Whether `row` can be pushed another `n` times, each `step` further in `off`.
    pub(super) fn check_repeat(&mut self, row: &Row, n: u64, step: i64) -> Result<(), TraceError> {
        self.room(n)?;
        let last = i64::try_from(n)
            .ok()
            .and_then(|n| step.checked_mul(n))
            .and_then(|way| way.checked_add(i64::from(row.off)))
            .filter(|off| (0..=i64::from(i32::MAX)).contains(off));
        match last {
            Some(_) => Ok(()),
            None => Err(TraceError::new(format!("{n} steps of {step} from off={} leave the chunk", row.off))),
        }
    }

    /// Pushes `row` another `n` times, each `step` further in `off` and 1 in time; [`Self::check_repeat`]
    /// must have agreed.
    pub(super) fn repeat_row(&mut self, row: &Row, n: usize, step: i64) {
        let t = &mut self.trace;
        let end = t.kind.len() + n;
        t.kind.resize(end, row.kind);
        t.cpu.resize(end, row.cpu);
        t.time.extend((1..=n as u64).map(|i| row.time + i));
        t.line.resize(end, u32::try_from(row.line).unwrap_or(u32::MAX));
        t.flags.resize(end, row.flags);
        t.base.resize(end, row.base);
        // Both ends lie in the range of i32, so does all between.
        t.off.extend((1..=n as i64).map(|i| (i64::from(row.off) + i * step) as i32));
        t.size.resize(end, row.size);
        t.align.resize(end, row.align);
        t.ptr.resize(end, row.ptr);
        t.count.resize(end, row.count);
        t.text.resize(end, row.text);
        t.gfp.resize(end, row.gfp);
    }

    /// `n` as a number of rows that still fit under the limit.
    #[inline]
    pub(super) fn room(&mut self, n: u64) -> Result<usize, TraceError> {
        let left = self.limits.events.saturating_sub(self.total());
        if n > left {
            self.full = true;
            return Err(TraceError::new(format!(
                "max_events={}: there are {} or more",
                self.limits.events,
                self.total().saturating_add(n)
            )));
        }
        Ok(n as usize)
    }
}

pub(super) fn flags(reserved: bool, atomic: bool) -> u8 {
    (if reserved { flag::RESERVED } else { 0 }) | (if atomic { flag::ATOMIC } else { 0 })
}

/// A page range of a chunk: not empty, not absurd.
pub(super) fn check_pages(first: u64, end: u64) -> Result<(), String> {
    if first >= end || end > i32::MAX as u64 {
        return Err(format!("pages {first}..{end}: an empty or impossible range"));
    }
    Ok(())
}

fn check_call_site(site: &str) -> Result<(), TraceError> {
    check_text("call_site", site)?;
    if site.contains(" reserved=") {
        return Err(TraceError::new(format!("call_site={site:?}: must not contain ` reserved=`")));
    }
    Ok(())
}

fn check_text(name: &str, text: &str) -> Result<(), TraceError> {
    let inner = text.trim_matches([' ', '\t', '\r']);
    if inner.len() != text.len() || text.contains('\n') {
        return Err(TraceError::new(format!("{name}={text:?}: no line breaks, no blanks at the ends")));
    }
    Ok(())
}
