//! The text of ftrace, `trace-cmd report` and `perf script`.
//!
//! # Design
//!
//! One tolerant line format covers all three. A line is cut at the colon behind its time:
//!
//! ```text
//!   comm-pid  [000] d..1.  3769.645748: percpu_free_percpu: base_addr=... off=... ptr=...
//!   ^ anything ^ cpu ^ any  ^ time      ^ event, perf puts `percpu:` before it ^ fields
//! ```
//!
//! Task names may hold blanks, dashes and brackets; flags have four or five characters or
//! are absent: nothing left of the time is looked at but the last `[cpu]`. Fields may come
//! in any order, unknown ones are kept; the usual order takes a short way ([`super::fast`]). Any other
//! event is skipped and counted. A line with one of the allocator's events that cannot be read whole is an
//! error, never a guess.
//!
//! `perf script -F` can leave out anything. Without a time, `percpu:` marks the event, and events are
//! numbered instead; without a CPU it is unknown. Lines of a call chain belong to the event above them
//! and are passed over.
//!
//! # Pointers
//!
//! `0x` or sixteen digits with a non-zero upper half: real. Only pointers with a zero upper
//! half in the whole file: hashed. Eight digits (32 bit): real if `base + off - ptr` is the
//! same in all events, else hashed.
//!
//! # Cost
//!
//! One pass; `memchr` for the colon and the ends of texts, no allocation per line.
//! `benches/trace.rs` measures it.
//!
//! # Source
//!
//! Specification 40 sections 6.1 to 6.3; the README of the recordings for the probes.

use memchr::{memchr_iter, memmem, memrchr};

use super::builder::{check_pages, flags, Row, TraceBuilder};
use super::fast::{self, hex_digit, Pointer};
use super::input::{Limits, LineReader};
use super::{flag, Clock, Format, Kind, Trace, NO_CPU};
use crate::error::TraceError;

/// Reads lines into a trace.
pub(super) struct Reader {
    builder: TraceBuilder,
    seen: Seen,
    /// Lines that look like an event of any kind.
    recognised: bool,
    reserved_finder: memmem::Finder<'static>,
}

/// What the file looked like so far; a line that cannot be read leaves it as it was.
#[derive(Clone, Copy, Default)]
struct Seen {
    clock: Option<Clock>,
    format: Option<Format>,
    /// A pointer that cannot be a hash.
    real: bool,
    upper_zero: bool,
    /// `base + off - ptr` of the first event with eight-digit pointers, and whether it changed.
    narrow: Option<u32>,
    narrow_differs: bool,
}

impl Seen {
    fn hashed(&self) -> bool {
        !self.real && (self.upper_zero || self.narrow.is_some() && self.narrow_differs)
    }

    #[inline]
    fn pointer(&mut self, pointer: Pointer) {
        if let Some(value) = pointer.value {
            if pointer.prefixed || value >> 32 != 0 {
                self.real = true;
            } else if !pointer.narrow {
                self.upper_zero = true;
            }
        }
    }

    /// Where 32-bit pointers lie relative to each other.
    fn distance(&mut self, base: Pointer, off: i32, ptr: Pointer) {
        if let (Pointer { value: Some(base), narrow: true, .. }, Pointer { value: Some(ptr), .. }) = (base, ptr) {
            let delta = (base as u32).wrapping_add(off as u32).wrapping_sub(ptr as u32);
            self.narrow_differs |= *self.narrow.get_or_insert(delta) != delta;
        }
    }

    /// Nanoseconds, or the number itself without a decimal point.
    #[inline]
    fn time(&mut self, text: &[u8]) -> Result<u64, String> {
        let (whole, fraction) = match memchr::memchr(b'.', text) {
            Some(point) => (&text[..point], Some(&text[point + 1..])),
            None => (text, None),
        };
        let out_of_range = || bad("time out of range", text);
        let whole = digits(whole).ok_or_else(out_of_range)?;
        let Some(fraction) = fraction else {
            self.clock(Clock::Counter)?;
            return Ok(whole);
        };
        if fraction.len() > 9 {
            return Err(bad("time with more than nine decimals", text));
        }
        self.clock(if fraction.len() <= 6 { Clock::Microseconds } else { Clock::Nanoseconds })?;
        let part = digits(fraction).ok_or_else(out_of_range)? * 10u64.pow(9 - fraction.len() as u32);
        whole.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(part)).ok_or_else(out_of_range)
    }

    #[inline]
    fn clock(&mut self, clock: Clock) -> Result<(), String> {
        match (self.clock, clock) {
            (Some(old), new) if old == new => {}
            (Some(Clock::Counter), _) | (Some(_), Clock::Counter) => {
                return Err("ordinal numbers and times in one file".into())
            }
            (Some(Clock::Nanoseconds), _) => {}
            (_, new) => self.clock = Some(new),
        }
        Ok(())
    }
}

/// A line in its parts.
struct Parts<'a> {
    head: &'a [u8],
    /// Empty if the line has none.
    time: &'a [u8],
    event: &'a [u8],
    text: &'a [u8],
}

impl Reader {
    pub fn new(limits: Limits) -> Self {
        Self {
            builder: TraceBuilder::with_limits(Clock::default(), limits),
            seen: Seen::default(),
            recognised: false,
            reserved_finder: memmem::Finder::new(b" reserved="),
        }
    }

    fn event(&mut self, parts: &Parts<'_>, number: u64) -> Result<(), String> {
        let (system, name) = match memrchr(b':', parts.event) {
            Some(colon) => (&parts.event[..colon], &parts.event[colon + 1..]),
            None => (&b""[..], parts.event),
        };
        let Some(kind) = kind_of(name, parts.text) else {
            self.builder.skip_line();
            return Ok(());
        };
        if !system.is_empty() && self.seen.format.is_none() {
            self.seen.format = Some(Format::Perf);
        }
        let mut row = Row::new(kind);
        row.line = number;
        if parts.time.is_empty() {
            self.seen.clock(Clock::Counter)?;
            row.time = self.builder.total();
        } else {
            row.time = self.seen.time(parts.time)?;
        }
        row.cpu = cpu(parts.head)?;
        let mut text = trim(parts.text);
        match kind {
            Kind::Alloc => match fast::alloc(text, &self.reserved_finder) {
                Some(fields) => self.alloc(&mut row, &fields),
                None => self.fields(&mut row, text)?,
            },
            Kind::Free => match fast::free(text) {
                Some(fields) => {
                    row.off = fields.off;
                    self.area(&mut row, fields.base, fields.ptr);
                }
                None => self.fields(&mut row, text)?,
            },
            Kind::Marker => {
                // The limit first: a marker is kept by its text.
                self.builder.room(1).map_err(|error| error.message)?;
                if name == b"print" {
                    text = text.strip_prefix(b"tracing_mark_write:").map_or(text, trim);
                }
                row.text = self.builder.marker(text);
            }
            _ => self.fields(&mut row, text)?,
        }
        self.builder.push_row(row).map_err(|error| error.message)
    }

    #[inline]
    fn alloc(&mut self, row: &mut Row, fields: &fast::AllocFields<'_>) {
        row.flags = flags(fields.reserved, fields.atomic);
        (row.size, row.align, row.off) = (fields.size, fields.align, fields.off);
        if let Some(site) = fields.call_site {
            row.text = self.builder.call_site(trim(site));
        }
        if let Some(bytes) = fields.bytes_alloc {
            row.set_count(bytes);
        }
        if let Some(text) = fields.gfp_flags {
            row.gfp = self.builder.gfp_text(trim(text));
        }
        self.area(row, fields.base, fields.ptr);
    }

    /// The chunk and the pointer of an area, whose `off` is known.
    #[inline]
    fn area(&mut self, row: &mut Row, base: Pointer, ptr: Pointer) {
        self.seen.pointer(base);
        self.seen.pointer(ptr);
        self.seen.distance(base, row.off, ptr);
        // The probes print `0x` wherever they run.
        if self.seen.format.is_none() && !is_probe(row.kind) {
            self.seen.format = Some(if base.prefixed { Format::TraceCmd } else { Format::Ftrace });
        }
        if let Some(addr) = base.value {
            row.base = self.builder.base(addr);
        }
        row.set_ptr(ptr.value);
    }

    /// Reads `name=value ...` into the row and checks that its kind has all that it needs.
    fn fields(&mut self, row: &mut Row, text: &[u8]) -> Result<(), String> {
        use field::*;
        let mut rest = text;
        if rest.first() == Some(&b'(') && is_probe(row.kind) {
            // The probe's own address: `(function+0x0/0x300)`.
            let close = memchr::memchr(b')', rest).ok_or("a parenthesis without an end")?;
            rest = &rest[close + 1..];
        }
        let known = needed(row.kind) | optional(row.kind);
        let mut seen = 0u32;
        let mut extra: Option<String> = None;
        let mut base: Option<Pointer> = None;
        let mut ptr: Option<Pointer> = None;
        let (mut first, mut end) = (0, 0);
        loop {
            rest = trim_start(rest);
            if rest.is_empty() {
                break;
            }
            let token = &rest[..memchr::memchr2(b' ', b'\t', rest).unwrap_or(rest.len())];
            rest = &rest[token.len()..];
            let Some(equals) = memchr::memchr(b'=', token) else {
                match &mut extra {
                    // The module behind a symbol.
                    Some(extra) if token[0] == b'[' => {
                        extra.push(' ');
                        extra.push_str(&String::from_utf8_lossy(token));
                        continue;
                    }
                    _ => return Err(bad("a field without `=`", token)),
                }
            };
            let (name, mut value) = (&token[..equals], &token[equals + 1..]);
            let bit = field_bit(name) & known;
            if bit & seen != 0 {
                return Err(bad("the field is there twice", name));
            }
            seen |= bit;
            match bit {
                RESERVED => row.flags |= flags(boolean(name, value)?, false),
                ATOMIC => row.flags |= flags(false, boolean(name, value)?),
                SIZE | BITS => row.size = small(name, value)?,
                ALIGN | ALIGN_BITS => row.align = small(name, value)?,
                BASE => base = Some(pointer(name, value)?),
                PTR => ptr = Some(pointer(name, value)?),
                OFF | START => row.off = offset(name, value)?,
                RET => row.off = result(name, value)?,
                BYTES => row.set_count(number(name, value)?),
                FIRST => first = number(name, value)?,
                END => end = number(name, value)?,
                EMPTY_ONLY => {
                    if boolean(name, value)? {
                        row.flags |= flag::EMPTY_ONLY;
                    }
                }
                CALL_SITE => {
                    // A module's name follows a blank: the value runs to the next known field.
                    let all = &text[text.len() - rest.len() - value.len()..];
                    if let Some(length) = self.reserved_finder.find(all) {
                        value = &all[..length];
                        rest = &all[length..];
                    }
                    row.text = self.builder.call_site(trim(value));
                }
                GFP => {
                    let all = &text[text.len() - rest.len() - value.len()..];
                    row.gfp = self.builder.gfp_text(trim(all));
                    rest = b"";
                }
                _ => {
                    let kept = extra.get_or_insert_with(String::new);
                    if !kept.is_empty() {
                        kept.push(' ');
                    }
                    kept.push_str(&String::from_utf8_lossy(token));
                }
            }
        }
        let missing = needed(row.kind) & !seen;
        if missing != 0 {
            return Err(format!("field `{}` is missing", name_of(missing & missing.wrapping_neg())));
        }
        if is_probe(row.kind) && base.is_some_and(|base| base.value.is_none()) {
            return Err("the probe names no chunk".into());
        }
        if matches!(row.kind, Kind::Populated | Kind::Depopulated) {
            check_pages(first, end)?;
            row.off = first as i32;
            row.size = end as u32;
        }
        let none = Pointer { value: None, narrow: false, prefixed: false };
        if let Some(base) = base {
            self.area(row, base, ptr.unwrap_or(none));
        }
        self.builder.room(1).map_err(|error| error.message)?;
        if let Some(extra) = extra {
            self.builder.extra(extra);
        }
        Ok(())
    }

    /// A line without a time and an event: a loss, something harmless, or damage.
    fn other(&mut self, line: &[u8], number: u64) -> Result<(), TraceError> {
        let trimmed = trim(line);
        if trimmed.is_empty() || is_header(trimmed) || is_call_chain(line) {
            return Ok(());
        }
        if let Some((cpu, count)) = loss(trimmed).or_else(|| perf_loss(trimmed)) {
            self.recognised = true;
            let mut row = Row::new(Kind::Lost);
            row.cpu = cpu;
            row.count = count;
            row.line = number;
            return self.builder.push_row(row).map_err(|error| at(number, &error.message, trimmed));
        }
        if names_event(trimmed) {
            return Err(at(number, "no `time: event: fields` in a line that names an event", trimmed));
        }
        self.builder.skip_line();
        Ok(())
    }

    /// A line of the head: `# entries-in-buffer/entries-written: 205/512   #P:2`.
    fn comment(&mut self, line: &[u8]) {
        let Some(rest) = trim_start(&line[1..]).strip_prefix(b"entries-in-buffer/entries-written:") else { return };
        let numbers = word(trim_start(rest));
        let Some(slash) = memchr::memchr(b'/', numbers) else { return };
        if let (Some(kept), Some(written)) = (digits(&numbers[..slash]), digits(&numbers[slash + 1..])) {
            self.builder.facts().overwritten_events = written.saturating_sub(kept);
        }
    }
}

impl LineReader for Reader {
    #[inline]
    fn line(&mut self, line: &[u8], number: u64) -> Result<(), TraceError> {
        if line.first() == Some(&b'#') {
            self.comment(line);
            return Ok(());
        }
        let Some(parts) = split(line).or_else(|| untimed(line)) else { return self.other(line, number) };
        self.recognised = true;
        let before = self.seen;
        self.event(&parts, number).map_err(|message| {
            self.seen = before;
            at(number, &message, line)
        })
    }

    fn ready(&self) -> usize {
        self.builder.len()
    }

    fn take(&mut self) -> Trace {
        self.builder.set_clock(self.seen.clock.unwrap_or_default());
        self.builder.set_hashed(self.seen.hashed());
        if self.recognised {
            self.builder.facts().format = Some(self.seen.format.unwrap_or(Format::Ftrace));
        }
        self.builder.take()
    }

    fn end(&mut self) -> Result<(), TraceError> {
        let skipped = self.builder.facts().skipped_lines;
        if !self.recognised && skipped > 0 {
            return Err(TraceError::new(format!(
                "none of {skipped} lines is a trace event: not the text of ftrace, trace-cmd report, perf script or bpftrace",
            )));
        }
        Ok(())
    }

    fn full(&self) -> bool {
        self.builder.full()
    }
}

/// Whether the name is one of a field that is known here, in any event.
pub(super) fn is_field(name: &[u8]) -> bool {
    field::field_bit(name) != 0
}

/// Whether a line is one of any event, or of a loss.
pub(super) fn is_event(line: &[u8]) -> bool {
    split(line).or_else(|| untimed(line)).is_some() || loss(line).is_some()
}

/// The name that perf gives the events of the allocator's system.
const SYSTEM: &[u8] = b"percpu:";

/// `perf script -F` without a time: the event's name with its system, at the start or behind a blank.
fn untimed(line: &[u8]) -> Option<Parts<'_>> {
    let start = memmem::find_iter(line, b"percpu:percpu_").find(|&at| at == 0 || is_blank(&line[at - 1]))?;
    let event = word(&line[start..]);
    let name = event.strip_suffix(b":")?;
    kind_of(&name[SYSTEM.len()..], b"")?;
    Some(Parts { head: &line[..start], time: b"", event: name, text: &line[start + event.len()..] })
}

/// A line of a call chain, as perf prints below an event: blanks, an address without `0x`, a symbol.
fn is_call_chain(line: &[u8]) -> bool {
    let rest = trim_start(line);
    let address = word(rest);
    rest.len() < line.len()
        && (4..=16).contains(&address.len())
        && hex_digits(address).is_some()
        && !trim_start(&rest[address.len()..]).is_empty()
}

/// Cuts a line at the first `number: name:`.
fn split(line: &[u8]) -> Option<Parts<'_>> {
    for colon in memchr_iter(b':', line) {
        if !line.get(colon + 1).is_some_and(is_blank) {
            continue;
        }
        let start = number_start(&line[..colon]);
        if start == colon || start > 0 && !is_blank(&line[start - 1]) {
            continue;
        }
        let rest = trim_start(&line[colon + 1..]);
        let mut event = word(rest);
        let mut after = &rest[event.len()..];
        if !event.is_empty() && event.iter().all(u8::is_ascii_digit) {
            // perf: the sample's period.
            after = trim_start(after);
            event = word(after);
            after = &after[event.len()..];
        }
        let Some(event) = event.strip_suffix(b":") else { continue };
        let name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-' | b'.');
        if event.is_empty() || !event.starts_with(b"percpu_") && !event.iter().all(name) {
            continue;
        }
        return Some(Parts { head: &line[..start], time: &line[start..colon], event, text: after });
    }
    None
}

/// Where the number that ends `text` starts: `123` or `123.456`; the length if there is none.
#[inline]
fn number_start(text: &[u8]) -> usize {
    let integer = |mut end: usize| {
        while end > 0 && text[end - 1].is_ascii_digit() {
            end -= 1;
        }
        end
    };
    let start = integer(text.len());
    if start == text.len() || start == 0 || text[start - 1] != b'.' {
        return start;
    }
    let whole = integer(start - 1);
    if whole == start - 1 {
        start
    } else {
        whole
    }
}

/// The kind of a known event; `None` for any other.
#[inline]
fn kind_of(name: &[u8], text: &[u8]) -> Option<Kind> {
    Some(match name {
        b"percpu_alloc_percpu" => Kind::Alloc,
        b"percpu_free_percpu" => Kind::Free,
        b"percpu_alloc_percpu_fail" => Kind::AllocFail,
        b"percpu_create_chunk" => Kind::Create,
        b"percpu_destroy_chunk" => Kind::Destroy,
        b"populated" => Kind::Populated,
        b"depopulated" => Kind::Depopulated,
        b"balance_begin" => Kind::BalanceBegin,
        b"balance_end" => Kind::BalanceEnd,
        b"balance_free" => Kind::BalanceFree,
        b"alloc_area" => Kind::AllocArea,
        b"alloc_area_ret" => Kind::AllocAreaRet,
        b"free_area" => Kind::FreeArea,
        b"tracing_mark_write" => Kind::Marker,
        b"print" if trim(text).starts_with(b"tracing_mark_write:") => Kind::Marker,
        _ => return None,
    })
}

fn is_probe(kind: Kind) -> bool {
    (Kind::Populated as u8..=Kind::FreeArea as u8).contains(&(kind as u8))
}

/// Fields by bit.
mod field {
    pub const RESERVED: u32 = 1;
    pub const ATOMIC: u32 = 1 << 1;
    pub const SIZE: u32 = 1 << 2;
    pub const ALIGN: u32 = 1 << 3;
    pub const BASE: u32 = 1 << 4;
    pub const OFF: u32 = 1 << 5;
    pub const PTR: u32 = 1 << 6;
    pub const BYTES: u32 = 1 << 7;
    pub const CALL_SITE: u32 = 1 << 8;
    pub const GFP: u32 = 1 << 9;
    pub const FIRST: u32 = 1 << 10;
    pub const END: u32 = 1 << 11;
    pub const EMPTY_ONLY: u32 = 1 << 12;
    pub const BITS: u32 = 1 << 13;
    pub const ALIGN_BITS: u32 = 1 << 14;
    pub const START: u32 = 1 << 15;
    pub const RET: u32 = 1 << 16;

    pub fn field_bit(name: &[u8]) -> u32 {
        match name {
            b"reserved" => RESERVED,
            b"is_atomic" => ATOMIC,
            b"size" => SIZE,
            b"align" => ALIGN,
            b"base_addr" | b"base" => BASE,
            b"off" => OFF,
            b"ptr" => PTR,
            b"bytes_alloc" => BYTES,
            b"call_site" => CALL_SITE,
            b"gfp_flags" => GFP,
            b"first" => FIRST,
            b"end" => END,
            b"empty_only" => EMPTY_ONLY,
            b"bits" => BITS,
            b"align_bits" => ALIGN_BITS,
            b"start" => START,
            b"bit_off_x4" => RET,
            _ => 0,
        }
    }

    pub fn name_of(bit: u32) -> &'static str {
        const NAMES: [&str; 17] = [
            "reserved",
            "is_atomic",
            "size",
            "align",
            "base_addr",
            "off",
            "ptr",
            "bytes_alloc",
            "call_site",
            "gfp_flags",
            "first",
            "end",
            "empty_only",
            "bits",
            "align_bits",
            "start",
            "bit_off_x4",
        ];
        NAMES.get(bit.trailing_zeros() as usize).copied().unwrap_or("?")
    }
}

fn needed(kind: Kind) -> u32 {
    use field::*;
    match kind {
        Kind::Alloc => RESERVED | ATOMIC | SIZE | ALIGN | BASE | OFF | PTR,
        Kind::Free => BASE | OFF | PTR,
        Kind::AllocFail => RESERVED | ATOMIC | SIZE | ALIGN,
        Kind::Create | Kind::Destroy => BASE,
        Kind::Populated | Kind::Depopulated => BASE | FIRST | END,
        Kind::BalanceFree => EMPTY_ONLY,
        Kind::AllocArea => BASE | BITS | ALIGN_BITS | START,
        Kind::AllocAreaRet => RET,
        Kind::FreeArea => BASE | OFF,
        Kind::BalanceBegin | Kind::BalanceEnd | Kind::Marker | Kind::Lost => 0,
    }
}

fn optional(kind: Kind) -> u32 {
    match kind {
        Kind::Alloc => field::BYTES | field::CALL_SITE | field::GFP,
        _ => 0,
    }
}

/// The last `[digits]` before the time; unknown if there is none.
fn cpu(head: &[u8]) -> Result<u16, String> {
    let mut head = head;
    while let Some(close) = memrchr(b']', head) {
        let open = number_start(&head[..close]);
        let text = &head[open..close];
        if !text.is_empty() && !text.contains(&b'.') && open > 0 && head[open - 1] == b'[' {
            let cpu = digits(text).filter(|&cpu| cpu < u64::from(NO_CPU));
            return cpu.map(|cpu| cpu as u16).ok_or_else(|| bad("cpu out of range", text));
        }
        head = &head[..close];
    }
    Ok(NO_CPU)
}

/// `CPU:3 [LOST 12 EVENTS]`, `CPU:3 [LOST EVENTS]`, `CPU:3 [12 EVENTS DROPPED]`: CPU and count, 0 if unknown.
fn loss(line: &[u8]) -> Option<(u16, u64)> {
    let rest = trim_start(line.strip_prefix(b"CPU:")?);
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let cpu = digits(&rest[..end]).filter(|&cpu| cpu < u64::from(NO_CPU))? as u16;
    let inner = trim_start(&rest[end..]).strip_prefix(b"[")?.strip_suffix(b"]")?;
    if inner == b"LOST EVENTS" || inner == b"EVENTS DROPPED" {
        return Some((cpu, 0));
    }
    let count = match inner.strip_prefix(b"LOST ") {
        Some(rest) => rest.strip_suffix(b" EVENTS")?,
        None => inner.strip_suffix(b" EVENTS DROPPED")?,
    };
    Some((cpu, digits(trim(count))?))
}

/// `... PERF_RECORD_LOST lost 12`, as `perf script --show-lost-events` prints it: CPU, 0 if unknown, and count.
fn perf_loss(line: &[u8]) -> Option<(u16, u64)> {
    let at = memmem::find(line, b"PERF_RECORD_LOST")?;
    let count = memmem::find(&line[at..], b" lost ").map(|lost| word(trim_start(&line[at + lost + 6..])));
    let cpu = cpu(&line[..at]).ok().filter(|&cpu| cpu != NO_CPU).unwrap_or(0);
    Some((cpu, count.and_then(digits).unwrap_or(0)))
}

/// `cpus=4`, `version = 6` and `CPU 1 is empty`, as trace-cmd prints first.
fn is_header(line: &[u8]) -> bool {
    let empty = || line.starts_with(b"CPU ") && line.ends_with(b" is empty");
    line.starts_with(b"cpus=") || line.starts_with(b"version = ") || empty()
}

/// Does `percpu_<event>:` occur?
fn names_event(line: &[u8]) -> bool {
    memmem::find_iter(line, b"percpu_").any(|at| {
        let name = word(&line[at..]);
        matches!(
            name.strip_suffix(b":"),
            Some(
                b"percpu_alloc_percpu"
                    | b"percpu_free_percpu"
                    | b"percpu_alloc_percpu_fail"
                    | b"percpu_create_chunk"
                    | b"percpu_destroy_chunk"
            )
        )
    })
}

fn at(number: u64, message: &str, line: &[u8]) -> TraceError {
    TraceError::at(number, message, &String::from_utf8_lossy(line))
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn bad(message: &str, text: &[u8]) -> String {
    format!("{message}: {}", lossy(text))
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    &text[start..]
}

/// Without blanks and carriage returns at both ends.
fn trim(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| is_blank(byte) || *byte == b'\r';
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

/// The bytes up to the next blank.
fn word(text: &[u8]) -> &[u8] {
    &text[..text.iter().position(is_blank).unwrap_or(text.len())]
}

/// A decimal number; `None` if it is empty, has another character or exceeds 64 bits.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| value.checked_mul(10)?.checked_add(u64::from(digit)))?
    })
}

/// One to sixteen hexadecimal digits.
pub(super) fn hex_digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    text.iter().try_fold(0u64, |value, &byte| Some(value << 4 | u64::from(hex_digit(byte)?)))
}

fn pointer(name: &[u8], text: &[u8]) -> Result<Pointer, String> {
    if text.first() == Some(&b'(') {
        return match text {
            b"(ptrval)" | b"(____ptrval____)" | b"(null)" | b"(nil)" => {
                Ok(Pointer { value: None, narrow: false, prefixed: false })
            }
            _ => Err(bad("not a pointer", text)),
        };
    }
    let prefixed = text.starts_with(b"0x");
    let hex = if prefixed { &text[2..] } else { text };
    let whole = if prefixed { (1..=16).contains(&hex.len()) } else { matches!(hex.len(), 8 | 16) };
    let value = if whole { hex_digits(hex) } else { None };
    let value = value.ok_or_else(|| format!("{}={} is not a pointer", lossy(name), lossy(text)))?;
    let narrow = hex.len() == 8 && !prefixed;
    Ok(Pointer { value: (prefixed || value != 0).then_some(value), narrow, prefixed })
}

fn number(name: &[u8], text: &[u8]) -> Result<u64, String> {
    digits(text).ok_or_else(|| format!("{}={} is not a number", lossy(name), lossy(text)))
}

fn small(name: &[u8], text: &[u8]) -> Result<u32, String> {
    let value = number(name, text)?;
    u32::try_from(value).map_err(|_| format!("{}={value} must be below 2^32", lossy(name)))
}

fn offset(name: &[u8], text: &[u8]) -> Result<i32, String> {
    let value = number(name, text)?;
    i32::try_from(value).map_err(|_| format!("{}={value} must be below 2^31", lossy(name)))
}

/// The return value of a probe: negative, or printed as an unsigned 64-bit number, means none.
fn result(name: &[u8], text: &[u8]) -> Result<i32, String> {
    if let Some(magnitude) = text.strip_prefix(b"-") {
        return number(name, magnitude).map(|_| -1);
    }
    let value = number(name, text)?;
    if value as i64 >= 0 {
        offset(name, text)
    } else {
        Ok(-1)
    }
}

fn boolean(name: &[u8], text: &[u8]) -> Result<bool, String> {
    match text {
        b"0" => Ok(false),
        b"1" => Ok(true),
        _ => Err(format!("{}={} must be 0 or 1", lossy(name), lossy(text))),
    }
}
