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
//! in any order, unknown ones are kept. Any other event is skipped and counted. A line with
//! one of the allocator's events that cannot be read whole is an error, never a guess.
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
//!
//! # Source
//!
//! Specification 40 sections 6.1 to 6.3; the README of the recordings for the probes.

use memchr::{memchr_iter, memmem, memrchr};

use super::builder::{check_pages, flags, Row, TraceBuilder};
use super::input::{Limits, LineReader};
use super::{flag, Clock, Kind, Trace, NO_CPU};
use crate::error::TraceError;

/// Reads lines into a trace.
pub(super) struct Reader {
    builder: TraceBuilder,
    clock: Option<Clock>,
    pointers: Pointers,
    /// Lines that look like an event of any kind.
    recognised: bool,
    reserved_finder: memmem::Finder<'static>,
}

/// What the pointers of a file looked like.
#[derive(Default)]
struct Pointers {
    real: bool,
    upper_zero: bool,
    /// `base + off - ptr` of the first event with eight-digit pointers, and whether it changed.
    narrow: Option<u32>,
    narrow_differs: bool,
}

impl Pointers {
    fn hashed(&self) -> bool {
        !self.real && (self.upper_zero || self.narrow.is_some() && self.narrow_differs)
    }
}

/// A line in its parts.
struct Parts<'a> {
    head: &'a [u8],
    time: &'a [u8],
    event: &'a [u8],
    text: &'a [u8],
}

/// A pointer as printed.
#[derive(Clone, Copy)]
struct Pointer {
    /// `None` for `(ptrval)`, `(null)`, `(nil)`.
    value: Option<u64>,
    narrow: bool,
}

impl Reader {
    pub fn new(limits: Limits) -> Self {
        Self {
            builder: TraceBuilder::with_limits(Clock::default(), limits),
            clock: None,
            pointers: Pointers::default(),
            recognised: false,
            reserved_finder: memmem::Finder::new(b" reserved="),
        }
    }

    fn event(&mut self, parts: &Parts<'_>, number: u64) -> Result<(), String> {
        let Some(kind) = kind_of(parts) else {
            self.builder.skip_line();
            return Ok(());
        };
        let mut row = Row::new(kind);
        row.line = number;
        row.time = self.time(parts.time)?;
        row.cpu = cpu(parts.head)?;
        let mut text = trim(parts.text);
        if kind == Kind::Marker {
            if parts.event.ends_with(b"print") {
                text = text.strip_prefix(b"tracing_mark_write:").map_or(text, trim);
            }
            row.text = self.builder.marker(text);
        } else {
            self.fields(&mut row, text)?;
        }
        self.builder.push_row(row).map_err(|error| error.message)
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
                BASE => base = Some(self.pointer(name, value)?),
                PTR => ptr = Some(self.pointer(name, value)?),
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
        if let Some(Pointer { value: Some(addr), .. }) = base {
            row.base = self.builder.base(addr);
        } else if base.is_some() && is_probe(row.kind) {
            return Err("the probe names no chunk".into());
        }
        row.set_ptr(ptr.and_then(|ptr| ptr.value));
        if let (Some(Pointer { value: Some(base), narrow: true }), Some(Pointer { value: Some(ptr), .. })) = (base, ptr)
        {
            let delta = (base as u32).wrapping_add(row.off as u32).wrapping_sub(ptr as u32);
            self.pointers.narrow_differs |= *self.pointers.narrow.get_or_insert(delta) != delta;
        }
        if matches!(row.kind, Kind::Populated | Kind::Depopulated) {
            check_pages(first, end)?;
            row.off = first as i32;
            row.size = end as u32;
        }
        if let Some(extra) = extra {
            self.builder.extra(extra);
        }
        Ok(())
    }

    /// Nanoseconds, or the number itself without a decimal point.
    fn time(&mut self, text: &[u8]) -> Result<u64, String> {
        let (whole, fraction) = match memchr::memchr(b'.', text) {
            Some(point) => (&text[..point], Some(&text[point + 1..])),
            None => (text, None),
        };
        let whole = digits(whole).ok_or_else(|| bad("time out of range", text))?;
        let (time, clock) = match fraction {
            None => (whole, Clock::Counter),
            Some(fraction) if fraction.len() <= 9 => {
                let scale = 10u64.pow(9 - fraction.len() as u32);
                let part = digits(fraction).ok_or_else(|| bad("time out of range", text))? * scale;
                let time = whole.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(part));
                let clock = if fraction.len() <= 6 { Clock::Microseconds } else { Clock::Nanoseconds };
                (time.ok_or_else(|| bad("time out of range", text))?, clock)
            }
            Some(_) => return Err(bad("time with more than nine decimals", text)),
        };
        match (self.clock, clock) {
            (Some(old), new) if old == new => {}
            (Some(Clock::Counter), _) | (Some(_), Clock::Counter) => {
                return Err("ordinal numbers and times in one file".into())
            }
            (Some(Clock::Nanoseconds), _) => {}
            (_, new) => self.clock = Some(new),
        }
        Ok(time)
    }

    fn pointer(&mut self, name: &[u8], text: &[u8]) -> Result<Pointer, String> {
        if text.first() == Some(&b'(') {
            return match text {
                b"(ptrval)" | b"(____ptrval____)" | b"(null)" | b"(nil)" => Ok(Pointer { value: None, narrow: false }),
                _ => Err(bad("not a pointer", text)),
            };
        }
        let prefixed = text.starts_with(b"0x");
        let hex = if prefixed { &text[2..] } else { text };
        let whole = if prefixed { (1..=16).contains(&hex.len()) } else { matches!(hex.len(), 8 | 16) };
        let value = if whole { hex_digits(hex) } else { None };
        let value = value.ok_or_else(|| format!("{}={} is not a pointer", lossy(name), lossy(text)))?;
        let narrow = hex.len() == 8 && !prefixed;
        if value == 0 && !prefixed {
            return Ok(Pointer { value: None, narrow });
        }
        if prefixed || value >> 32 != 0 {
            self.pointers.real = true;
        } else if !narrow {
            self.pointers.upper_zero = true;
        }
        Ok(Pointer { value: Some(value), narrow })
    }

    /// A line without a time and an event: a loss, something harmless, or damage.
    fn other(&mut self, line: &[u8], number: u64) -> Result<(), TraceError> {
        let line = trim(line);
        if line.is_empty() || is_header(line) {
            return Ok(());
        }
        if let Some((cpu, count)) = loss(line) {
            self.recognised = true;
            let mut row = Row::new(Kind::Lost);
            row.cpu = cpu;
            row.count = count;
            row.line = number;
            return self.builder.push_row(row).map_err(|error| at(number, &error.message, line));
        }
        if names_event(line) {
            return Err(at(number, "no `time: event: fields` in a line that names an event", line));
        }
        self.builder.skip_line();
        Ok(())
    }
}

impl LineReader for Reader {
    fn line(&mut self, line: &[u8], number: u64) -> Result<(), TraceError> {
        if line.first() == Some(&b'#') {
            return Ok(());
        }
        match split(line) {
            Some(parts) => {
                self.recognised = true;
                self.event(&parts, number).map_err(|message| at(number, &message, line))
            }
            None => self.other(line, number),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Trace, TraceError> {
        self.builder.set_clock(self.clock.unwrap_or_default());
        self.builder.set_hashed(self.pointers.hashed());
        let trace = self.builder.finish();
        if !self.recognised && trace.skipped_lines() > 0 {
            return Err(TraceError::new(format!(
                "none of {} lines is a trace event: not the text of ftrace, trace-cmd report, perf script or bpftrace",
                trace.skipped_lines()
            )));
        }
        Ok(trace)
    }
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
        if event.is_empty() || !event.iter().all(name) {
            continue;
        }
        return Some(Parts { head: &line[..start], time: &line[start..colon], event, text: after });
    }
    None
}

/// Where the number that ends `text` starts: `123` or `123.456`; the length if there is none.
fn number_start(text: &[u8]) -> usize {
    let integer = |text: &[u8]| text.len() - text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let start = integer(text);
    if start == text.len() || start == 0 || text[start - 1] != b'.' {
        return start;
    }
    let whole = integer(&text[..start - 1]);
    if whole == start - 1 {
        start
    } else {
        whole
    }
}

/// The kind of a known event; `None` for any other.
fn kind_of(parts: &Parts<'_>) -> Option<Kind> {
    let name = match memrchr(b':', parts.event) {
        Some(colon) => &parts.event[colon + 1..],
        None => parts.event,
    };
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
        b"print" if trim(parts.text).starts_with(b"tracing_mark_write:") => Kind::Marker,
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

/// `cpus=4` and `version = 6`, as trace-cmd prints first.
fn is_header(line: &[u8]) -> bool {
    line.starts_with(b"cpus=") || line.starts_with(b"version = ")
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
    text.iter().try_fold(0u64, |value, &byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
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
