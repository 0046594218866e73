//! Where traces come from: format detection, decompression, lines.
//!
//! # Design
//!
//! Bytes are read through one buffer, decompressed if they begin like gzip, split into
//! lines, and handed to the reader that the first line asks for. Nothing of the file is
//! kept, so memory is the columns plus one buffer. Errors name the line.
//!
//! # Cost
//!
//! One copy of the bytes into the buffer.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use memchr::memchr;

use super::{bpftrace, columns, ftrace, Trace};
use crate::error::TraceError;

/// Longest line that is accepted, in bytes; real ones stay below 500.
const MAX_LINE: usize = 1 << 20;
const BUFFER: usize = 1 << 18;

/// What a reader refuses to exceed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Events of one trace. The default, 2^26, is thirty times the longest recording and
    /// about 4 GB of columns; a run-length row in a damaged file can ask for any number.
    pub events: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 1 << 26 }
    }
}

/// A reader of one format, fed line by line.
pub(super) trait LineReader {
    /// One line without its end, and its number from 1.
    fn line(&mut self, line: &[u8], number: u64) -> Result<(), TraceError>;
    /// The trace, after the last line.
    fn finish(self: Box<Self>) -> Result<Trace, TraceError>;
}

/// Reads a trace of any supported text form, compressed or not.
///
/// Supported are the text of ftrace, `trace-cmd report` and `perf script`, the output of the
/// bpftrace program of the recordings, and the run-length columns of the recordings.
pub fn read_trace(bytes: &[u8]) -> Result<Trace, TraceError> {
    read_trace_from(bytes, Limits::default())
}

/// As [`read_trace`], from a stream and with limits.
pub fn read_trace_from(reader: impl Read, limits: Limits) -> Result<Trace, TraceError> {
    let mut reader = reader;
    let mut magic = [0; 2];
    let mut have = 0;
    while have < 2 {
        match reader.read(&mut magic[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error(1, &error)),
        }
    }
    let whole = io::Cursor::new(magic).take(have as u64).chain(reader);
    if magic == [0x1f, 0x8b] {
        read_lines(MultiGzDecoder::new(whole), limits)
    } else {
        read_lines(whole, limits)
    }
}

fn read_lines(reader: impl Read, limits: Limits) -> Result<Trace, TraceError> {
    let mut lines = Lines::new(reader);
    let mut format: Option<Box<dyn LineReader>> = None;
    while let Some((number, line)) = lines.next()? {
        if line.is_empty() {
            continue;
        }
        if format.is_none() {
            format = Some(detect(line, number, limits)?);
        }
        if let Some(format) = &mut format {
            format.line(line, number)?;
        }
    }
    match format {
        Some(format) => format.finish(),
        None => Ok(Trace::default()),
    }
}

/// The reader for a file whose first line with content is `line`.
fn detect(line: &[u8], number: u64, limits: Limits) -> Result<Box<dyn LineReader>, TraceError> {
    if line.starts_with(b"\x17\x08Dtracing") {
        return Err(TraceError::new("a binary trace-cmd file: convert it with `trace-cmd report`"));
    }
    if line.starts_with(b"PERFILE2") {
        return Err(TraceError::new("a binary perf file: convert it with `perf script`"));
    }
    if columns::is_head(line) {
        Ok(Box::new(columns::Reader::new(limits)))
    } else if bpftrace::is_head(line) {
        Ok(Box::new(bpftrace::Reader::new(limits)))
    } else if line.starts_with(b"SQLite format 3\0") || line.starts_with(b"PAR1") {
        Err(TraceError::at(number, "not a text", &String::from_utf8_lossy(&line[..line.len().min(16)])))
    } else {
        Ok(Box::new(ftrace::Reader::new(limits)))
    }
}

fn io_error(line: u64, error: &io::Error) -> TraceError {
    TraceError { line: Some(line), message: format!("cannot read on: {error}"), text: None }
}

/// Splits a stream into lines without keeping it.
struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Unread part of the buffer.
    start: usize,
    end: usize,
    /// Bytes from `start` that are known to hold no line end.
    scanned: usize,
    number: u64,
    eof: bool,
}

impl<R: Read> Lines<R> {
    fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; BUFFER], start: 0, end: 0, scanned: 0, number: 0, eof: false }
    }

    /// The next line, without `\n` or `\r\n`, and its number.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>, TraceError> {
        loop {
            let unread = &self.buffer[self.start + self.scanned..self.end];
            if let Some(found) = memchr(b'\n', unread) {
                let length = self.scanned + found;
                return Ok(Some(self.take(length, 1)));
            }
            self.scanned = self.end - self.start;
            if self.eof {
                let length = self.scanned;
                return Ok(if length == 0 { None } else { Some(self.take(length, 0)) });
            }
            if self.scanned > MAX_LINE {
                let text = String::from_utf8_lossy(&self.buffer[self.start..self.start + 200]).into_owned();
                return Err(TraceError::at(self.number + 1, format!("a line longer than {MAX_LINE} bytes"), &text));
            }
            self.fill()?;
        }
    }

    fn take(&mut self, length: usize, end: usize) -> (u64, &[u8]) {
        let line = &self.buffer[self.start..self.start + length];
        self.start += length + end;
        self.scanned = 0;
        self.number += 1;
        (self.number, line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn fill(&mut self) -> Result<(), TraceError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.eof = true,
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_error(self.number + 1, &error)),
            }
            return Ok(());
        }
    }
}
