//! Where traces come from: limits, decompression, recognition, lines.
//!
//! # Design
//!
//! ```text
//!   bytes -> Counted -> Source: plain, gzip or zstd, by the first bytes -> Lines -> recognise -> a reader
//! ```
//!
//! Nothing of the file is kept, so memory is the columns plus one buffer. What is not text is answered
//! with what to do about it. Errors name the line.
//!
//! # Cost
//!
//! One copy of the bytes into the buffer.

use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use memchr::{memchr, memchr_iter};
use zstd::stream::read::Decoder as ZstdDecoder;

use super::stream::TraceReader;
use super::{bpftrace, columns, ftrace, Trace};
use crate::error::TraceError;

/// Longest line that is accepted, in bytes; real ones stay below 500.
const MAX_LINE: usize = 1 << 20;
const BUFFER: usize = 1 << 18;
/// Bytes that are looked at to recognise a format.
const HEAD: usize = 1 << 16;
/// Memory of a zstd frame's window, as a power of two: what the format recommends as the most.
const ZSTD_WINDOW_LOG: u32 = 27;

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

/// How a file is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOptions {
    /// What must not be exceeded; over all blocks of a stream.
    pub limits: Limits,
    /// A line that cannot be read is an error. If not, it is counted in [`Facts`](super::Facts), and a
    /// file that ends too early ends there.
    pub strict: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), strict: true }
    }
}

/// A reader of one format, fed line by line.
pub(super) trait LineReader {
    /// One line without its end, and its number from 1.
    fn line(&mut self, line: &[u8], number: u64) -> Result<(), TraceError>;
    /// Makes up to `events` of the events that the lines so far asked for and that are not made yet; false if
    /// there are none.
    fn expand(&mut self, _events: usize) -> Result<bool, TraceError> {
        Ok(false)
    }
    /// Events that can be taken.
    fn ready(&self) -> usize;
    /// The events so far, as a trace.
    fn take(&mut self) -> Trace;
    /// After the last line.
    fn end(&mut self) -> Result<(), TraceError>;
    /// Whether the limit was reached: an error also where damage is counted.
    fn full(&self) -> bool;
}

/// Reads a trace of any supported text form, compressed or not.
///
/// Supported are the text of ftrace, `trace-cmd report` and `perf script`, the output of the
/// bpftrace program of the recordings, and the run-length columns of the recordings; plain,
/// gzip or zstd.
pub fn read_trace(bytes: &[u8]) -> Result<Trace, TraceError> {
    read_trace_from(bytes, Limits::default())
}

/// As [`read_trace`], from a stream and with limits.
pub fn read_trace_from(reader: impl Read, limits: Limits) -> Result<Trace, TraceError> {
    TraceReader::new(reader, ReadOptions { limits, ..ReadOptions::default() })?.read_all()
}

/// What the first bytes of a file say that is no text, and what to do about it.
fn not_a_text(head: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 12] = [
        (b"\x17\x08Dtracing", "a binary trace-cmd file: convert it with `trace-cmd report`"),
        (b"\x17\x08\x44", "a binary trace-cmd file: convert it with `trace-cmd report`"),
        (b"PERFILE2", "a binary perf file: convert it with `perf script -i FILE`"),
        (b"PERFFILE", "a binary perf file: convert it with `perf script -i FILE`"),
        (b"SQLite format 3\0", "an SQLite database, not the text of a trace"),
        (b"PAR1", "a Parquet file: `percpu.read_trace(path)` reads it, from a path"),
        (b"\xfd7zXZ\0", "compressed with xz: decompress it with `xz -d` first"),
        (b"BZh", "compressed with bzip2: decompress it with `bunzip2` first"),
        (b"\x04\x22\x4d\x18", "compressed with lz4: decompress it with `lz4 -d` first"),
        (b"PK\x03\x04", "a zip archive: unpack it first"),
        (b"\x7fELF", "a binary program or core dump, not the text of a trace"),
        (b"KDUMP   ", "a memory dump of a kernel, not the text of a trace"),
    ];
    let known = KNOWN.iter().find(|(magic, _)| head.starts_with(magic));
    let json = || head.trim_ascii_start().starts_with(b"{").then_some("JSON: a state file? not the text of a trace");
    // A text may have a zero in it, from damage; then it still begins like a trace.
    let first = &head[..memchr(b'\n', head).unwrap_or(head.len())];
    let text = || first.starts_with(b"#") || ftrace::is_event(first) || bpftrace::is_head(first);
    let zero = || memchr(0, &head[..head.len().min(512)]).filter(|_| !text());
    let zero = || zero().map(|_| "binary data, not the text of a trace");
    known.map(|(_, text)| *text).or_else(json).or_else(zero)
}

/// The reader for a file that begins with `head`. `window`: rows that a reader may hold back to put
/// them into order.
pub(super) fn recognise(
    head: &[u8],
    options: ReadOptions,
    window: usize,
) -> Result<Box<dyn LineReader + Send>, TraceError> {
    if let Some(message) = not_a_text(head) {
        return Err(TraceError::new(message));
    }
    let limits = options.limits;
    let mut start = 0;
    for end in memchr_iter(b'\n', head).chain([head.len()]) {
        let line = &head[start..end];
        start = end + 1;
        if columns::is_head(line) {
            return Ok(Box::new(columns::Reader::new(limits)));
        } else if bpftrace::is_head(line) {
            return Ok(Box::new(bpftrace::Reader::new(limits, window)));
        } else if ftrace::is_event(line) {
            break;
        }
    }
    Ok(Box::new(ftrace::Reader::new(limits)))
}

fn io_error(line: u64, error: &io::Error) -> TraceError {
    TraceError { line: Some(line), message: format!("cannot read on: {error}"), text: None }
}

/// Counts the bytes that pass.
pub(super) struct Counted<R> {
    reader: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

type Whole<R> = io::Chain<io::Cursor<Vec<u8>>, Counted<R>>;

/// Bytes without their compression.
pub(super) enum Source<R: Read> {
    Plain(Whole<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Whole<R>>>>),
    Zstd(Box<ZstdDecoder<'static, BufReader<Whole<R>>>>),
}

impl<R: Read> Source<R> {
    /// Looks at the first bytes. The counter counts bytes of the file, compressed or not.
    pub fn new(reader: R, count: Arc<AtomicU64>) -> Result<Self, TraceError> {
        let mut reader = Counted { reader, count };
        let mut magic = vec![0; 4];
        let mut have = 0;
        while have < magic.len() {
            match reader.read(&mut magic[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error(1, &error)),
            }
        }
        magic.truncate(have);
        let gzip = magic.starts_with(&[0x1f, 0x8b]);
        let frame = magic == [0x28, 0xb5, 0x2f, 0xfd];
        let skippable = have == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == [0x2a, 0x4d, 0x18];
        let whole = io::Cursor::new(magic).chain(reader);
        if gzip {
            return Ok(Source::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole)))));
        }
        if frame || skippable {
            let decoder = ZstdDecoder::with_buffer(BufReader::with_capacity(BUFFER, whole));
            let mut decoder = decoder.map_err(|error| io_error(1, &error))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|error| io_error(1, &error))?;
            return Ok(Source::Zstd(Box::new(decoder)));
        }
        Ok(Source::Plain(whole))
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Plain(reader) => reader.read(buffer),
            Source::Gzip(reader) => reader.read(buffer),
            Source::Zstd(reader) => reader.read(buffer),
        }
    }
}

/// Splits a stream into lines without keeping it. After an error it goes on: behind a line that is
/// too long; at the end, if the stream cannot be read on.
pub(super) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Unread part of the buffer.
    start: usize,
    end: usize,
    /// Bytes from `start` that are known to hold no line end.
    scanned: usize,
    number: u64,
    /// Inside a line that was reported as too long.
    discarding: bool,
    eof: bool,
    /// Why reading ended, until it was told.
    failed: Option<TraceError>,
}

impl<R: Read> Lines<R> {
    pub fn new(reader: R) -> Self {
        let buffer = vec![0; BUFFER];
        Self { reader, buffer, start: 0, end: 0, scanned: 0, number: 0, discarding: false, eof: false, failed: None }
    }

    /// The first bytes, without taking them; a mark of UTF-8 is passed over. Only before the first line.
    pub fn head(&mut self) -> Result<&[u8], TraceError> {
        while self.end - self.start < HEAD && !self.eof {
            if let Err(error) = self.fill() {
                // It is told when the lines before it were read.
                self.failed = Some(error);
                break;
            }
        }
        if self.buffer[self.start..self.end].starts_with(b"\xef\xbb\xbf") {
            self.start += 3;
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + HEAD)])
    }

    /// Lines so far.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line, without `\n` or `\r\n`, and its number.
    pub fn next(&mut self) -> Result<Option<(u64, &[u8])>, TraceError> {
        loop {
            let unread = &self.buffer[self.start + self.scanned..self.end];
            if let Some(found) = memchr(b'\n', unread) {
                let length = self.scanned + found;
                if std::mem::take(&mut self.discarding) {
                    self.start += length + 1;
                    self.scanned = 0;
                    continue;
                }
                return Ok(Some(self.take(length, 1)));
            }
            self.scanned = self.end - self.start;
            if self.discarding {
                self.start = self.end;
                self.scanned = 0;
            }
            if let Some(error) = self.failed.take() {
                // What was read of the line that it fell into is not the line.
                self.start = self.end;
                self.scanned = 0;
                return Err(TraceError { line: Some(self.number + 1), ..error });
            }
            if self.eof {
                let length = self.scanned;
                return Ok(if length == 0 { None } else { Some(self.take(length, 0)) });
            }
            if self.scanned > MAX_LINE {
                let text = String::from_utf8_lossy(&self.buffer[self.start..self.start + 200]).into_owned();
                self.number += 1;
                self.discarding = true;
                return Err(TraceError::at(self.number, format!("a line longer than {MAX_LINE} bytes"), &text));
            }
            if let Err(error) = self.fill() {
                self.failed = Some(error);
            }
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
                Err(error) => {
                    self.eof = true;
                    return Err(io_error(self.number + 1, &error));
                }
            }
            return Ok(());
        }
    }
}
