//! The run-length columns of the very long recordings (`trace-cols.csv`).
//!
//! # Design
//!
//! ```text
//!   # bases ["0xffff8880b843b000", ...]     chunk base addresses, later by index
//!   # gfp ["GFP_KERNEL|__GFP_NOWARN"]       flag texts, later by index
//!   # events 2207026                        checked at the end
//!   a,cpu,reserved,is_atomic,size,align,base,off,bytes_alloc,gfp
//!   *,N,step                                the row before, N more times, off moved by step
//! ```
//!
//! [`Limits::events`] bounds a run before anything is allocated; it is then expanded as far as
//! the reader of the trace asks. The file has no times: events are numbered from 0.
//!
//! # Source
//!
//! README of the recordings, `trace-cols.csv.gz`.

use super::builder::{check_pages, flags, Row, TraceBuilder};
use super::ftrace::{digits, hex_digits};
use super::input::{Limits, LineReader};
use super::{flag, Clock, Format, Kind, Trace, NO_CPU};
use crate::error::TraceError;

/// One of the three head lines.
pub(super) fn is_head(line: &[u8]) -> bool {
    [&b"# bases ["[..], b"# gfp [", b"# events "].iter().any(|head| line.starts_with(head))
}

/// Reads rows into a trace.
pub(super) struct Reader {
    builder: TraceBuilder,
    bases: Vec<u32>,
    gfp: Vec<u32>,
    events: Option<u64>,
    last: Option<Row>,
    run: Option<Run>,
}

/// What is left of a run: the row that was made last, how many follow, the step.
struct Run {
    row: Row,
    left: u64,
    step: i64,
}

impl Reader {
    pub fn new(limits: Limits) -> Self {
        let mut builder = TraceBuilder::with_limits(Clock::Counter, limits);
        builder.facts().format = Some(Format::Columns);
        Self { builder, bases: Vec::new(), gfp: Vec::new(), events: None, last: None, run: None }
    }

    fn head(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.trim().split_once(' ').ok_or("a head line without a value")?;
        let list = || serde_json::from_str::<Vec<String>>(value).map_err(|error| format!("{name}: {error}"));
        match name {
            "bases" => {
                for base in list()? {
                    let addr = base.strip_prefix("0x").and_then(|hex| hex_digits(hex.as_bytes()));
                    let addr = addr.ok_or_else(|| format!("base {base:?} is not an address"))?;
                    self.bases.push(self.builder.base(addr));
                }
            }
            "gfp" => {
                for text in list()? {
                    if text.contains(['\n', '\r']) {
                        return Err(format!("gfp {text:?} has a line break"));
                    }
                    self.gfp.push(self.builder.gfp_text(text.trim().as_bytes()));
                }
            }
            "events" => {
                let events = digits(value.trim().as_bytes());
                self.events = Some(events.ok_or_else(|| format!("events {value:?} is not a number"))?);
            }
            _ => {}
        }
        Ok(())
    }

    fn row(&mut self, line: &[u8], number: u64) -> Result<(), String> {
        let mut fields = Fields { rest: Some(line) };
        let name = fields.next("event")?;
        if name == b"*" {
            return self.repeat(fields, number);
        }
        let kind = match name {
            b"a" => Kind::Alloc,
            b"f" => Kind::Free,
            b"x" => Kind::AllocFail,
            b"c" => Kind::Create,
            b"d" => Kind::Destroy,
            b"p" => Kind::Populated,
            b"q" => Kind::Depopulated,
            b"b" => Kind::BalanceBegin,
            b"e" => Kind::BalanceEnd,
            b"r" => Kind::BalanceFree,
            b"m" => Kind::Marker,
            _ => return Err(format!("no such event: {}", String::from_utf8_lossy(name))),
        };
        let mut row = Row::new(kind);
        row.line = number;
        row.time = self.builder.total();
        row.cpu = fields.int("cpu", u64::from(NO_CPU))? as u16;
        if matches!(kind, Kind::Alloc | Kind::AllocFail) {
            let reserved = fields.int("reserved", 2)? == 1;
            row.flags = flags(reserved, fields.int("is_atomic", 2)? == 1);
            row.size = fields.int("size", 1 << 32)? as u32;
            row.align = fields.int("align", 1 << 32)? as u32;
        }
        if matches!(kind, Kind::Alloc | Kind::Free | Kind::Create | Kind::Destroy | Kind::Populated | Kind::Depopulated)
        {
            row.base = self.bases[fields.int("base", self.bases.len() as u64)? as usize];
        }
        if matches!(kind, Kind::Alloc | Kind::Free) {
            row.off = fields.int("off", 1 << 31)? as i32;
        }
        match kind {
            Kind::Alloc => {
                row.set_count(fields.int("bytes_alloc", u64::MAX)?);
                row.gfp = self.gfp[fields.int("gfp", self.gfp.len() as u64)? as usize];
            }
            Kind::Populated | Kind::Depopulated => {
                let (first, end) = (fields.int("first", 1 << 31)?, fields.int("end", 1 << 31)?);
                check_pages(first, end)?;
                (row.off, row.size) = (first as i32, end as u32);
            }
            Kind::BalanceFree if fields.int("empty_only", 2)? == 1 => row.flags = flag::EMPTY_ONLY,
            Kind::Marker => row.text = self.builder.marker(fields.rest.take().unwrap_or(b"").trim_ascii()),
            _ => {}
        }
        fields.end()?;
        self.builder.push_row(row).map_err(|error| error.message)?;
        self.last = Some(row);
        Ok(())
    }

    fn repeat(&mut self, mut fields: Fields<'_>, number: u64) -> Result<(), String> {
        let mut row = self.last.ok_or("a repetition of nothing")?;
        let n = fields.int("N", u64::MAX)?;
        let step = fields.next("step")?;
        let (negative, magnitude) = match step.strip_prefix(b"-") {
            Some(magnitude) => (true, magnitude),
            None => (false, step),
        };
        let magnitude = digits(magnitude).filter(|&step| step < 1 << 31);
        let magnitude = magnitude.ok_or_else(|| format!("step={} is not a number", String::from_utf8_lossy(step)))?;
        let step = if negative { -(magnitude as i64) } else { magnitude as i64 };
        fields.end()?;
        if step != 0 && !matches!(row.kind, Kind::Alloc | Kind::Free) {
            return Err("a step for a row that has no off".into());
        }
        if let Some(events) = self.events.filter(|&events| n > events.saturating_sub(self.builder.total())) {
            return Err(format!("{n} repetitions: more than the {events} events of the head line"));
        }
        row.line = number;
        self.builder.check_repeat(&row, n, step).map_err(|error| error.message)?;
        self.run = Some(Run { row, left: n, step });
        // Cannot wrap: `check_repeat` looked at the end of the run.
        row.off = (i64::from(row.off) + n as i64 * step) as i32;
        row.time += n;
        self.last = Some(row);
        Ok(())
    }
}

impl LineReader for Reader {
    fn line(&mut self, line: &[u8], number: u64) -> Result<(), TraceError> {
        let result = match line.strip_prefix(b"#") {
            Some(head) => match std::str::from_utf8(head) {
                Ok(head) => self.head(head),
                Err(_) => Err("a head line that is not UTF-8".into()),
            },
            None => self.row(line, number),
        };
        result.map_err(|message| TraceError::at(number, message, &String::from_utf8_lossy(line)))
    }

    fn expand(&mut self, events: usize) -> Result<bool, TraceError> {
        let Some(run) = &mut self.run else { return Ok(false) };
        let n = run.left.min(events as u64);
        self.builder.repeat_row(&run.row, n as usize, run.step);
        run.row.time += n;
        // In range, as the end of the run is.
        run.row.off = (i64::from(run.row.off) + n as i64 * run.step) as i32;
        run.left -= n;
        if run.left == 0 {
            self.run = None;
        }
        Ok(n > 0)
    }

    fn ready(&self) -> usize {
        self.builder.len()
    }

    fn take(&mut self) -> Trace {
        self.builder.take()
    }

    fn end(&mut self) -> Result<(), TraceError> {
        let found = self.builder.total();
        match self.events {
            Some(events) if events != found => {
                Err(TraceError::new(format!("{found} events, but the head line says {events}: a truncated file?")))
            }
            _ => Ok(()),
        }
    }

    fn full(&self) -> bool {
        self.builder.full()
    }
}

/// The fields of a row, from left to right.
struct Fields<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn next(&mut self, name: &str) -> Result<&'a [u8], String> {
        let rest = self.rest.ok_or_else(|| format!("field `{name}` is missing"))?;
        match memchr::memchr(b',', rest) {
            Some(comma) => {
                self.rest = Some(&rest[comma + 1..]);
                Ok(&rest[..comma])
            }
            None => {
                self.rest = None;
                Ok(rest)
            }
        }
    }

    /// A number below `limit`.
    fn int(&mut self, name: &str, limit: u64) -> Result<u64, String> {
        let text = self.next(name)?;
        let value = digits(text).filter(|&value| value < limit);
        value.ok_or_else(|| format!("{name}={} is not a number below {limit}", String::from_utf8_lossy(text)))
    }

    fn end(&self) -> Result<(), String> {
        match self.rest {
            Some(rest) => Err(format!("fields too many: {}", String::from_utf8_lossy(rest))),
            None => Ok(()),
        }
    }
}
