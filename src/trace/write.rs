//! Writing a trace as the text of ftrace.
//!
//! # Design
//!
//! The newest form of each line, fields that an event does not have left out. Task names,
//! numbers and interrupt flags are not part of a trace; neutral ones are written. What is
//! written reads back as the same trace: pointers as sixteen digits, with `0x` where real
//! ones would otherwise be taken for hashed ones.
//!
//! # Source
//!
//! Specification 40 sections 6 to 6.2.

use std::io::{self, Write};
use std::ops::Range;

use flate2::write::GzEncoder;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::{Base, Clock, Event, Record, Trace};

/// Writes `trace` as ftrace text; use a buffered writer.
pub fn write_ftrace(trace: &Trace, out: &mut impl Write) -> io::Result<()> {
    write_head(trace, out)?;
    write_events(trace, 0..trace.len(), out)
}

fn write_head(trace: &Trace, out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"# tracer: nop\n#\n")?;
    let overwritten = trace.facts().overwritten_events;
    if overwritten > 0 {
        let kept = trace.len() as u64;
        writeln!(out, "# entries-in-buffer/entries-written: {kept}/{}\n#", kept.saturating_add(overwritten))?;
    }
    out.write_all(b"#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n")?;
    out.write_all(b"#              | |         |   |||||     |         |\n")
}

fn write_events(trace: &Trace, mut events: Range<usize>, out: &mut impl Write) -> io::Result<()> {
    let writer = Writer { trace, prefix: needs_prefix(trace) };
    events.try_for_each(|event| trace.get(event).map_or(Ok(()), |record| writer.record(&record, out)))
}

/// How a text is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, as `gzip -6`.
    Gzip,
    /// zstd, as `zstd -3`.
    Zstd,
}

enum Sink<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
    Zstd(ZstdEncoder<'static, W>),
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Plain(out) => out.write(bytes),
            Sink::Gzip(out) => out.write(bytes),
            Sink::Zstd(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Plain(out) => out.flush(),
            Sink::Gzip(out) => out.flush(),
            Sink::Zstd(out) => out.flush(),
        }
    }
}

/// Writes the blocks of one trace as ftrace text, one after the other, buffered and compressed. What the
/// head of the file says of events overwritten before the first one is that of the first block.
pub struct TraceWriter<W: Write> {
    out: io::BufWriter<Sink<W>>,
    begun: bool,
}

impl<W: Write> TraceWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W, compression: Compression) -> io::Result<Self> {
        let sink = match compression {
            Compression::None => Sink::Plain(out),
            Compression::Gzip => Sink::Gzip(GzEncoder::new(out, flate2::Compression::default())),
            Compression::Zstd => Sink::Zstd(ZstdEncoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?),
        };
        Ok(Self { out: io::BufWriter::with_capacity(1 << 17, sink), begun: false })
    }

    /// Adds a block.
    pub fn write(&mut self, block: &Trace) -> io::Result<()> {
        self.write_part(block, 0..block.len())
    }

    /// Adds some events of a block, those behind the ones that were added before.
    pub fn write_part(&mut self, block: &Trace, events: Range<usize>) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            write_head(block, &mut self.out)?;
        }
        write_events(block, events, &mut self.out)
    }

    /// Ends the text, and the compression.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.begun {
            write_head(&Trace::default(), &mut self.out)?;
        }
        match self.out.into_inner().map_err(io::IntoInnerError::into_error)? {
            Sink::Plain(mut out) => out.flush().map(|()| out),
            Sink::Gzip(out) => out.finish(),
            Sink::Zstd(out) => out.finish(),
        }
    }
}

/// [`write_ftrace`] into a string.
pub fn ftrace_text(trace: &Trace) -> String {
    let mut out = Vec::new();
    write_ftrace(trace, &mut out).expect("writing to memory does not fail");
    String::from_utf8(out).expect("all texts of a trace are UTF-8")
}

/// True if real pointers could be taken for hashed ones: none has a bit above the lower half.
fn needs_prefix(trace: &Trace) -> bool {
    let columns = trace.columns();
    let bases = columns.base.iter().filter_map(|&index| trace.bases().get(index as usize));
    !trace.hashed() && !bases.chain(columns.ptr).any(|&pointer| pointer >> 32 != 0)
}

struct Writer<'a> {
    trace: &'a Trace,
    prefix: bool,
}

impl Writer<'_> {
    fn record(&self, record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
        if let Event::Lost { count } = record.event {
            let cpu = record.cpu.unwrap_or(0);
            return match count {
                0 => writeln!(out, "CPU:{cpu} [LOST EVENTS]"),
                _ => writeln!(out, "CPU:{cpu} [LOST {count} EVENTS]"),
            };
        }
        out.write_all(b"            task-1      ")?;
        if let Some(cpu) = record.cpu {
            write!(out, " [{cpu:03}]")?;
        }
        let (seconds, rest) = (record.time / 1_000_000_000, record.time % 1_000_000_000);
        match self.trace.clock() {
            Clock::Microseconds => write!(out, " ..... {seconds:>5}.{:06}: ", rest / 1000)?,
            Clock::Nanoseconds => write!(out, " ..... {seconds:>5}.{rest:09}: ")?,
            Clock::Counter => write!(out, " ..... {:>12}: ", record.time)?,
        }
        self.event(record, out)?;
        out.write_all(b"\n")
    }

    fn event(&self, record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
        match record.event {
            Event::Alloc(a) => {
                out.write_all(b"percpu_alloc_percpu:")?;
                if let Some(site) = a.call_site {
                    write!(out, " call_site={site}")?;
                }
                let (reserved, atomic) = (u8::from(a.reserved), u8::from(a.atomic));
                let (size, align, off) = (a.size.0, a.align.0, a.off.0);
                write!(out, " reserved={reserved} is_atomic={atomic} size={size} align={align} base_addr=")?;
                self.pointer(a.base.map(|base| base.addr), out)?;
                write!(out, " off={off} ptr=")?;
                self.pointer(a.ptr, out)?;
                if let Some(bytes) = a.bytes_alloc {
                    write!(out, " bytes_alloc={}", bytes.0)?;
                }
                self.extra(record, out)?;
                match a.gfp_flags {
                    Some(text) => write!(out, " gfp_flags={text}"),
                    None => Ok(()),
                }
            }
            Event::Free { base, off, ptr } => {
                out.write_all(b"percpu_free_percpu: base_addr=")?;
                self.pointer(base.map(|base| base.addr), out)?;
                write!(out, " off={} ptr=", off.0)?;
                self.pointer(ptr, out)?;
                self.extra(record, out)
            }
            Event::AllocFail { size, align, reserved, atomic } => {
                let (reserved, atomic) = (u8::from(reserved), u8::from(atomic));
                let (size, align) = (size.0, align.0);
                write!(
                    out,
                    "percpu_alloc_percpu_fail: reserved={reserved} is_atomic={atomic} size={size} align={align}"
                )?;
                self.extra(record, out)
            }
            Event::Create { base } => self.chunk("percpu_create_chunk", base, record, out),
            Event::Destroy { base } => self.chunk("percpu_destroy_chunk", base, record, out),
            Event::Populated { base, first, end } => {
                out.write_all(b"populated: base=")?;
                self.probe_pointer(base, out)?;
                write!(out, " first={} end={}", first.0, end.0)?;
                self.extra(record, out)
            }
            Event::Depopulated { base, first, end } => {
                out.write_all(b"depopulated: base=")?;
                self.probe_pointer(base, out)?;
                write!(out, " first={} end={}", first.0, end.0)?;
                self.extra(record, out)
            }
            Event::BalanceBegin => self.bare("balance_begin", record, out),
            Event::BalanceEnd => self.bare("balance_end", record, out),
            Event::BalanceFree { empty_only } => {
                write!(out, "balance_free: empty_only={}", u8::from(empty_only))?;
                self.extra(record, out)
            }
            Event::AllocArea { base, bits, align_bits, start } => {
                out.write_all(b"alloc_area: base=")?;
                self.probe_pointer(base, out)?;
                write!(out, " bits={} align_bits={} start={}", bits.0, align_bits.0, start.0)?;
                self.extra(record, out)
            }
            Event::AllocAreaRet { off } => {
                match off {
                    Some(off) => write!(out, "alloc_area_ret: bit_off_x4={}", off.0)?,
                    None => out.write_all(b"alloc_area_ret: bit_off_x4=-1")?,
                }
                self.extra(record, out)
            }
            Event::FreeArea { base, off } => {
                out.write_all(b"free_area: base=")?;
                self.probe_pointer(base, out)?;
                write!(out, " off={}", off.0)?;
                self.extra(record, out)
            }
            Event::Marker { text } => write!(out, "tracing_mark_write: {text}"),
            Event::Lost { .. } => Ok(()),
        }
    }

    fn bare(&self, name: &str, record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{name}:")?;
        self.extra(record, out)
    }

    fn chunk(&self, name: &str, base: Option<Base>, record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{name}: base_addr=")?;
        self.pointer(base.map(|base| base.addr), out)?;
        self.extra(record, out)
    }

    fn extra(&self, record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
        match self.trace.extra_fields(record.index) {
            Some(text) => write!(out, " {text}"),
            None => Ok(()),
        }
    }

    fn pointer(&self, value: Option<u64>, out: &mut impl Write) -> io::Result<()> {
        match value {
            None => out.write_all(b"(____ptrval____)"),
            // Sixteen zeros are how the kernel prints no pointer.
            Some(value) if self.prefix || value == 0 => write!(out, "{value:#x}"),
            Some(value) => write!(out, "{value:016x}"),
        }
    }

    /// As the recorder's probes print it; without `0x` in a trace of hashed pointers.
    fn probe_pointer(&self, base: Base, out: &mut impl Write) -> io::Result<()> {
        if self.trace.hashed() {
            self.pointer(Some(base.addr), out)
        } else {
            write!(out, "{:#x}", base.addr)
        }
    }
}
