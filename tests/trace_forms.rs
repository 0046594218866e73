//! The forms in which people have traces, what is done with whole traces, and their compression.

use std::io::{self, Read};

use percpu::trace::{
    anonymise, concatenate, ftrace_text, merge, read_trace, Anonymise, Clock, Compression, Event, Format, Kind, Limits,
    ReadOptions, Summary, Trace, TraceReader, TraceWriter,
};
use percpu::units::Bytes;

const FREE: &str = "base_addr=0xffffe8ffffc00000 off=35016 ptr=0x60795bb018c8";

fn read(text: &str) -> Trace {
    read_trace(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn lenient(bytes: impl Read) -> Trace {
    let options = ReadOptions { strict: false, ..ReadOptions::default() };
    TraceReader::new(bytes, options).and_then(TraceReader::read_all).unwrap()
}

/// `perf script -F` with and without each field.
#[test]
fn perf_prints_whatever_was_asked_for() {
    // (prefix, time, cpu)
    let rows: [(&str, Option<u64>, Option<u16>); 12] = [
        ("          task     1 [001]  3734.186930: ", Some(3_734_186_930_000), Some(1)),
        ("          task     1/1     [001]  3734.186930: ", Some(3_734_186_930_000), Some(1)),
        ("    1/1    [001]  3734.186930616:       ", Some(3_734_186_930_616), Some(1)),
        ("          task [001]  3734.186930:          1 ", Some(3_734_186_930_000), Some(1)),
        (" 3734.186930:       ", Some(3_734_186_930_000), None),
        ("[001]  3734.186930:       ", Some(3_734_186_930_000), Some(1)),
        ("kworker/0:1-ev   12 [001]  3734.186930:       ", Some(3_734_186_930_000), Some(1)),
        ("a: 1 b  12 [001]     0.000000:       ", Some(0), Some(1)),
        ("          task     1 [001] ", None, Some(1)),
        ("          task     1/1 ", None, None),
        ("[001] ", None, Some(1)),
        ("", None, None),
    ];
    for (prefix, time, cpu) in rows {
        let line = format!("{prefix}percpu:percpu_free_percpu: {FREE}");
        let trace = read(&line);
        let record = trace.get(0).unwrap_or_else(|| panic!("{line}"));
        assert_eq!((record.time, record.cpu), (time.unwrap_or(0), cpu), "{line}");
        assert_eq!(trace.clock() == Clock::Counter, time.is_none(), "{line}");
        assert_eq!((trace.len(), record.event.kind(), trace.skipped_lines()), (1, Kind::Free, 0), "{line}");
        assert_eq!(trace.facts().format, Some(Format::Perf), "{line}");
        assert!(!trace.hashed());
        assert_eq!(read(&ftrace_text(&trace)), trace);
    }
    let untimed = read(&format!("percpu:percpu_free_percpu: {FREE}\n").repeat(3));
    assert_eq!(untimed.columns().time, [0, 1, 2]);
}

#[test]
fn call_chains_headers_and_losses_are_understood() {
    let text = format!(
        "# captured on: x\n\
         task 1 [001]  3734.186930: percpu:percpu_free_percpu: {FREE}\n\
         \tffffffff81a free_percpu+0x1 ([kernel.kallsyms])\n\
         \x20           7f2c11 main+0x12 (/usr/bin/x)\n\
         \n\
         task 1 [001]  3734.186931: PERF_RECORD_LOST lost 39\n\
         task 1 [001]  3734.186932: sched:sched_switch: a=b\n\
         task 1 [000]  3734.186933: percpu:percpu_free_percpu: {FREE}\n"
    );
    let trace = read(&text);
    let kinds: Vec<Kind> = trace.columns().kind.to_vec();
    assert_eq!(kinds, [Kind::Free, Kind::Lost, Kind::Free]);
    assert_eq!(trace.event(1), Event::Lost { count: 39 });
    assert_eq!((trace.get(1).unwrap().cpu, trace.skipped_lines()), (Some(1), 1));

    let text = format!(
        "version = 6\ncpus=2\nCPU 0 is empty\n  mkdir-4393  [001] d..1. 169.334799: percpu_free_percpu:   {FREE}\n\
         CPU:1 [3 EVENTS DROPPED]\n"
    );
    let trace = read(&text);
    assert_eq!((trace.facts().format, trace.lost_events(), trace.skipped_lines()), (Some(Format::TraceCmd), 3, 0));

    let text = "# tracer: nop\n# entries-in-buffer/entries-written: 205/512   #P:2\n";
    assert_eq!(read(text).facts().overwritten_events, 307);
    let again = read(&ftrace_text(&read(text)));
    assert_eq!(again.facts().overwritten_events, 307);
}

#[test]
fn an_area_has_a_name_where_pointers_are_hashed() {
    let text = "x-1 [000] ..... 1.000001: percpu_free_percpu: base_addr=00000000508b7243 off=16 ptr=000000003cf05f32\n\
                x-1 [000] ..... 1.000002: percpu_free_percpu: base_addr=(____ptrval____) off=8 ptr=(____ptrval____)\n";
    let trace = read(text);
    assert!(trace.hashed());
    let areas: Vec<_> = trace.records().map(|record| record.event.area().unwrap()).collect();
    assert_eq!((areas[0].0.unwrap().addr, areas[0].1), (0x508b_7243, Bytes(16)));
    assert_eq!(areas[1], (None, Bytes(8)));
}

/// The usual order of the fields, and any other, say the same.
#[test]
fn the_short_way_and_the_long_way_agree() {
    let fields = [
        "reserved=0",
        "is_atomic=1",
        "size=48",
        "align=8",
        "base_addr=ffffe8ffffc00000",
        "off=32672",
        "ptr=000060795bb00ad0",
        "bytes_alloc=288",
    ];
    let head = "x-1 [000] ..... 1.000001: percpu_alloc_percpu:";
    let usual = read(&format!("{head} call_site=f+0x1/0x2 [mod] {} gfp_flags=GFP_KERNEL", fields.join(" ")));
    let turned: Vec<&str> = fields.iter().skip(1).chain(&fields[..1]).copied().collect();
    let other = read(&format!("{head}  {} gfp_flags=GFP_KERNEL", turned.join("  ")));
    let (Event::Alloc(a), Event::Alloc(b)) = (usual.event(0), other.event(0)) else { panic!() };
    assert_eq!(a.call_site, Some("f+0x1/0x2 [mod]"));
    assert_eq!(percpu::trace::Alloc { call_site: None, ..a }, b);
}

fn capture() -> Trace {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures/ftrace-hashed.txt.gz");
    read_trace(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn compressed_texts_are_read_whole_in_blocks_and_cut_off() {
    let trace = capture();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut writer = TraceWriter::new(Vec::new(), compression).unwrap();
        for start in (0..trace.len()).step_by(1000) {
            writer.write(&trace.slice(start..trace.len().min(start + 1000))).unwrap();
        }
        let bytes = writer.finish().unwrap();
        assert_eq!(read_trace(&bytes).unwrap(), trace);
        let mut reader = TraceReader::new(&bytes[..], ReadOptions::default()).unwrap();
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block(100).unwrap() {
            blocks.push(block);
        }
        assert_eq!(reader.position().bytes, bytes.len() as u64);
        assert_eq!(reader.position().events, trace.len() as u64);
        assert!(blocks.iter().all(|block| block.len() <= 100) && blocks.len() > 20);
        assert_eq!(concatenate(&blocks.iter().collect::<Vec<_>>()).unwrap(), trace);
        if compression != Compression::None {
            let cut = &bytes[..bytes.len() * 2 / 3];
            assert!(read_trace(cut).unwrap_err().message.contains("cannot read on"));
            let part = lenient(cut);
            assert!(part == trace.slice(0..part.len()));
            assert_eq!(part.facts().damaged_lines, 1);
        }
    }
}

/// Fails after some bytes, and interrupts now and then before.
struct Failing<'a>(&'a [u8], bool);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let n = self.0.len().min(100).min(buffer.len());
        if n == 0 {
            return Err(io::Error::other("the disk is gone"));
        }
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

#[test]
fn a_stream_that_fails_says_where() {
    let text = ftrace_text(&capture());
    let cut = &text.as_bytes()[..10_000];
    let error = TraceReader::new(Failing(cut, false), ReadOptions::default()).unwrap().read_all().unwrap_err();
    let lines = cut.iter().filter(|&&byte| byte == b'\n').count() as u64;
    assert_eq!((error.line, error.message.contains("the disk is gone")), (Some(lines + 1), true));
    let part = lenient(Failing(cut, false));
    assert_eq!(part, capture().slice(0..part.len()));
    assert!(!part.is_empty());
}

#[test]
fn damage_is_counted_and_leaves_no_trace() {
    let good = format!("x-1 [000] ..... 1.000001: percpu_free_percpu: {FREE}\n");
    let bad = [
        // Neither its clock, nor its pointers, nor its marker count.
        "x-1 [000] ..... 12: percpu_free_percpu: base_addr=00000000508b7243 off=x ptr=0\n",
        "x-1 [000] ..... 1.000000001: percpu_free_percpu: base_addr=(nil) off=-1 ptr=(nil)\n",
        "x-1 [70000] ..... 1.000001: tracing_mark_write: SECRET\n",
        "percpu_free_percpu: \n",
    ];
    for line in bad {
        let text = format!("{line}{good}{line}");
        assert!(read_trace(text.as_bytes()).is_err(), "{line}");
        let trace = lenient(text.as_bytes());
        assert_eq!((trace.len(), trace.facts().damaged_lines), (1, 2), "{line}");
        assert!(trace == read(&good) && trace.markers().is_empty(), "{line}");
        assert!(trace.facts().first_damage.as_ref().unwrap().starts_with("line 1: "));
    }
    // A limit is one also where damage is counted.
    let options = ReadOptions { strict: false, limits: Limits { events: 1 } };
    let text = good.repeat(2);
    let result = TraceReader::new(text.as_bytes(), options).and_then(TraceReader::read_all);
    assert!(result.unwrap_err().message.starts_with("max_events=1"));
}

#[test]
fn a_run_of_any_length_is_read_in_small_blocks() {
    let text = "# bases [\"0x1000\"]\nf,0,0,16\n*,1000000000000,0\n";
    let options = ReadOptions { limits: Limits { events: u64::MAX }, ..ReadOptions::default() };
    let mut reader = TraceReader::new(text.as_bytes(), options).unwrap();
    let mut next = 0;
    for _ in 0..50 {
        let block = reader.next_block(1000).unwrap().unwrap();
        assert!(block.len() <= 1000);
        assert!(block.columns().time.iter().copied().eq(next..next + block.len() as u64));
        next += block.len() as u64;
    }
}

/// Lines of CPUs that were flushed one after the other.
#[test]
fn bpftrace_is_put_in_order_inside_a_window() {
    let mut text = String::from("Attached 5 probes\n");
    for cpu in 0..4u64 {
        for i in 0..3000u64 {
            text += &format!("{} {cpu} free 0xffffe8ffffc00000 {} 0x60795bb00dc8\n", i * 4 + cpu, 4 * i);
        }
    }
    let whole = read(&text);
    assert!(whole.columns().time.iter().copied().eq(0..12_000));
    let mut reader = TraceReader::new(text.as_bytes(), ReadOptions::default()).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block(500).unwrap() {
        assert!(block.len() <= 500);
        blocks.push(block);
    }
    assert_eq!(concatenate(&blocks.iter().collect::<Vec<_>>()).unwrap(), whole);
}

#[test]
fn joins_refuse_what_cannot_be_compared() {
    let line = |time: &str, base: &str| format!("x-1 [000] ..... {time}: percpu_create_chunk: base_addr={base}\n");
    let real = read(&line("1.000001", "ffffe8ffffc00000"));
    let hashed = read(&line("1.000001", "00000000508b7243"));
    let counter = read(&line("7", "ffffe8ffffc00000"));
    let nanoseconds = read(&line("1.000001001", "ffffe8ffffc00000"));
    for other in [&hashed, &counter] {
        assert!(merge(&[&real, other]).unwrap_err().message.contains("traces[1]"));
        assert!(concatenate(&[&real, other]).is_err());
    }
    let joined = merge(&[&nanoseconds, &real]).unwrap();
    assert_eq!((joined.clock(), joined.columns().time), (Clock::Nanoseconds, &[1_000_001_000, 1_000_001_001][..]));
    let columns = read("# bases [\"0x1000\"]\nc,0,0\n");
    assert!(merge(&[&columns, &columns]).is_err() && merge(&[&columns]).is_ok());
    assert!(merge(&[]).unwrap().is_empty());
}

#[test]
fn chunks_of_one_boot_area_stay_together() {
    let line = |base: u64, off: u64, ptr: u64| {
        format!("x-1 [000] ..... 1.000001: percpu_free_percpu: base_addr={base:016x} off={off} ptr={ptr:016x}\n")
    };
    let boot = 0xffff_8880_3ec0_0000u64;
    let far = 0xffff_e8ff_ffc0_0000u64;
    let ptr = |base: u64, off: u64| base.wrapping_add(off).wrapping_sub(boot);
    let bases = [boot + 0x2f000, boot + 0x31000, far, far + 0x20_0000];
    let text: String = bases.iter().map(|&base| line(base, 64, ptr(base, 64))).collect();
    let trace = read(&text);
    for seed in 0..20 {
        let options = Anonymise { seed, call_sites: false, times: false, addresses: &[boot], unit_size: Some(1 << 18) };
        let (hidden, moved) = anonymise(&trace, &options).unwrap();
        let new: Vec<u64> = hidden.records().map(|record| record.event.base().unwrap().addr).collect();
        assert_eq!((new[0] - moved[0], new[1] - moved[0]), (0x2f000, 0x31000));
        assert!(new[2].abs_diff(new[3]) >= 1 << 29 && !new.iter().any(|base| bases.contains(base)));
        for (record, base) in hidden.records().zip(new) {
            let Event::Free { ptr: Some(ptr), off, .. } = record.event else { panic!() };
            assert_eq!(ptr, base.wrapping_add(off.0).wrapping_sub(moved[0]));
        }
        assert_eq!(read(&ftrace_text(&hidden)), hidden);
    }
}

#[test]
fn a_summary_in_blocks_is_that_of_the_whole() {
    let trace = capture();
    let whole = Summary::of(&trace);
    let mut blocks = Summary::new();
    let text = ftrace_text(&trace);
    let mut reader = TraceReader::new(text.as_bytes(), ReadOptions::default()).unwrap();
    while let Some(block) = reader.next_block(64).unwrap() {
        blocks.add(&block);
    }
    assert_eq!(blocks.sites(), whole.sites());
    assert!(blocks.kinds().eq(whole.kinds()) && blocks.cpus().eq(whole.cpus()));
    assert_eq!(format!("{:?}", blocks.totals()), format!("{:?}", whole.totals()));
    assert_eq!(whole.totals().events, trace.len() as u64);
}
