//! The output of the bpftrace program that comes with the recordings.
//!
//! # Design
//!
//! One line an event, fields by position:
//!
//! ```text
//!   nsecs cpu alloc reserved is_atomic size align base_addr off ptr bytes_alloc symbol
//!   nsecs cpu fail reserved is_atomic size align
//!   nsecs cpu free base_addr off ptr
//!   nsecs cpu create base_addr
//!   nsecs cpu destroy base_addr
//! ```
//!
//! Lines of different CPUs are flushed apart, so this is the one format whose events are put
//! into order by time; events of one CPU, and ties, keep the order of the file. A window bounds how
//! many rows are held back for that, where a file is read in blocks.
//!
//! # Units
//!
//! Nanoseconds; integers decimal, addresses hexadecimal with `0x`.
//!
//! # Source
//!
//! The README of the captures.

use std::collections::VecDeque;

use super::builder::{flags, Row, TraceBuilder};
use super::ftrace::{digits, hex_digits};
use super::input::{Limits, LineReader};
use super::{Clock, Format, Kind, Trace, NO_CPU};
use crate::error::TraceError;

/// `Attaching 5 probes...`, `Attached 5 probes`, or an event right away.
pub(super) fn is_head(line: &[u8]) -> bool {
    if is_greeting(line) {
        return true;
    }
    let mut words = words(line);
    let numbers = (0..2).all(|_| words.next().is_some_and(|word| digits(word).is_some()));
    numbers && words.next().is_some_and(|word| kind(word).is_some())
}

fn is_greeting(line: &[u8]) -> bool {
    line.starts_with(b"Attaching ") || line.starts_with(b"Attached ")
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r')).filter(|word| !word.is_empty())
}

fn kind(word: &[u8]) -> Option<Kind> {
    Some(match word {
        b"alloc" => Kind::Alloc,
        b"fail" => Kind::AllocFail,
        b"free" => Kind::Free,
        b"create" => Kind::Create,
        b"destroy" => Kind::Destroy,
        _ => return None,
    })
}

/// Reads lines into rows, and rows by time into a trace.
pub(super) struct Reader {
    builder: TraceBuilder,
    rows: Vec<Row>,
    /// Rows in order, which nothing can come before any more.
    queue: VecDeque<Row>,
    limits: Limits,
    /// Rows that may be held back.
    window: usize,
    /// Time of the last row that was let go.
    passed: u64,
}

impl Reader {
    pub fn new(limits: Limits, window: usize) -> Self {
        let mut builder = TraceBuilder::with_limits(Clock::Nanoseconds, limits);
        builder.facts().format = Some(Format::Bpftrace);
        Self { builder, rows: Vec::new(), queue: VecDeque::new(), limits, window, passed: 0 }
    }

    fn push(&mut self, row: Row, line: &[u8]) -> Result<(), TraceError> {
        if row.time < self.passed {
            let message = format!(
                "nsecs={} is more than {} events late: such a file has to be read whole, or sorted by `sort -n -s`",
                row.time, self.window
            );
            return Err(TraceError::at(row.line, message, &String::from_utf8_lossy(line)));
        }
        self.rows.push(row);
        if self.rows.len() / 2 >= self.window {
            self.let_go(self.rows.len() - self.window);
        }
        Ok(())
    }

    /// The first `n` rows in order of time.
    fn let_go(&mut self, n: usize) {
        self.rows.sort_by_key(|row| row.time);
        self.queue.extend(self.rows.drain(..n));
        self.passed = self.queue.back().map_or(self.passed, |row| row.time);
    }

    fn row(&mut self, line: &[u8], number: u64) -> Result<Row, String> {
        let mut words = words(line);
        let mut next = |name: &str| words.next().ok_or_else(|| format!("field `{name}` is missing"));
        let int = |name: &str, word: &[u8], limit: u64| {
            digits(word)
                .filter(|&value| value < limit)
                .ok_or_else(|| format!("{name}={} is not a number below {limit}", String::from_utf8_lossy(word)))
        };
        let pointer = |name: &str, word: &[u8]| {
            word.strip_prefix(b"0x")
                .and_then(hex_digits)
                .ok_or_else(|| format!("{name}={} is not a pointer", String::from_utf8_lossy(word)))
        };
        let time = int("nsecs", next("nsecs")?, u64::MAX)?;
        let cpu = int("cpu", next("cpu")?, u64::from(NO_CPU))? as u16;
        let word = next("event")?;
        let kind = kind(word).ok_or_else(|| format!("no such event: {}", String::from_utf8_lossy(word)))?;
        let mut row = Row::new(kind);
        (row.time, row.cpu, row.line) = (time, cpu, number);
        if matches!(kind, Kind::Alloc | Kind::AllocFail) {
            let reserved = int("reserved", next("reserved")?, 2)? == 1;
            row.flags = flags(reserved, int("is_atomic", next("is_atomic")?, 2)? == 1);
            row.size = int("size", next("size")?, 1 << 32)? as u32;
            row.align = int("align", next("align")?, 1 << 32)? as u32;
        }
        if kind != Kind::AllocFail {
            row.base = self.builder.base(pointer("base_addr", next("base_addr")?)?);
        }
        if matches!(kind, Kind::Alloc | Kind::Free) {
            row.off = int("off", next("off")?, 1 << 31)? as i32;
            row.set_ptr(Some(pointer("ptr", next("ptr")?)?));
        }
        if kind == Kind::Alloc {
            row.set_count(int("bytes_alloc", next("bytes_alloc")?, u64::MAX)?);
            // The symbol runs to the end; an unknown one is printed as a number.
            let symbol = words.next().ok_or("field `symbol` is missing")?;
            row.text = match words.next() {
                None => self.builder.call_site(symbol),
                Some(module) => {
                    let all: Vec<&[u8]> = [symbol, module].into_iter().chain(words.by_ref()).collect();
                    self.builder.call_site(&all.join(&b' '))
                }
            };
        }
        match words.next() {
            Some(word) => Err(format!("one field too many: {}", String::from_utf8_lossy(word))),
            None => Ok(row),
        }
    }
}

impl LineReader for Reader {
    fn line(&mut self, line: &[u8], number: u64) -> Result<(), TraceError> {
        if words(line).next().is_none() || is_greeting(line) {
            return Ok(());
        }
        let rows = (self.rows.len() + self.queue.len()) as u64;
        if self.builder.total() + rows >= self.limits.events {
            return self.builder.room(rows + 1).map(|_| ()).map_err(|error| TraceError { line: Some(number), ..error });
        }
        if line.starts_with(b"Lost ") && line.ends_with(b" events") {
            // bpftrace does not say on which CPU.
            let mut row = Row::new(Kind::Lost);
            row.cpu = 0;
            row.count = words(line).nth(1).and_then(digits).unwrap_or(0);
            row.time = self.rows.last().map_or(self.passed, |row| row.time);
            row.line = number;
            return self.push(row, line);
        }
        match self.row(line, number) {
            Ok(row) => self.push(row, line),
            Err(message) => Err(TraceError::at(number, message, &String::from_utf8_lossy(line))),
        }
    }

    fn expand(&mut self, events: usize) -> Result<bool, TraceError> {
        let n = self.queue.len().min(events);
        for row in self.queue.drain(..n) {
            self.builder.push_row(row)?;
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
        self.let_go(self.rows.len());
        Ok(())
    }

    fn full(&self) -> bool {
        self.builder.full()
    }
}
