//! Tests of the readers and the writer on single lines and on generated traces.

use proptest::prelude::*;

use super::*;
use crate::error::TraceError;
use crate::units::{Bits, Bytes, Pages};

fn read(text: &str) -> Result<Trace, TraceError> {
    read_trace(text.as_bytes())
}

fn one(line: &str) -> Trace {
    let trace = read(line).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(trace.len(), 1, "{line}");
    trace
}

fn alloc_of(trace: &Trace) -> Alloc<'_> {
    match trace.event(0) {
        Event::Alloc(alloc) => alloc,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_versions_and_prefixes_of_an_allocation() {
    let old = "reserved=0 is_atomic=1 size=48 align=8 base_addr=ffff88803ec3b000 off=32672 ptr=000000000004119c";
    let new = "call_site=pw+0xe1/0xff0 [pclab] reserved=0 is_atomic=1 size=48 align=8 base_addr=ffff88803ec3b000 \
               off=32672 ptr=000000000004119c bytes_alloc=288 gfp_flags=GFP_KERNEL|__GFP_NOWARN";
    let raw = "call_site=pw+0xe1 reserved=0 is_atomic=1 size=48 align=8 base_addr=0xffff88803ec3b000 off=32672 \
               ptr=0x4119c bytes_alloc=288 gfp_flags=";
    // (line, time, cpu, call site, flags)
    let rows = [
        (
            format!("         systemd-1     [003] ....     0.568931: percpu_alloc_percpu: {old}"),
            568_931_000,
            Some(3),
            None,
            None,
        ),
        (
            format!("   a - b [9] x-12   (-------) [012] d..1. 3769.645374: percpu_alloc_percpu: {new}"),
            3_769_645_374_000,
            Some(12),
            Some("pw+0xe1/0xff0 [pclab]"),
            Some("GFP_KERNEL|__GFP_NOWARN"),
        ),
        (format!("x-1 [000] 77: percpu_alloc_percpu: {old}"), 77, Some(0), None, None),
        (
            format!("mkdir-4393  [001]   169.334788: percpu_alloc_percpu:    {raw}"),
            169_334_788_000,
            Some(1),
            Some("pw+0xe1"),
            Some(""),
        ),
        (
            format!("           mkdir  4393 [001]   169.334788123:   1 percpu:percpu_alloc_percpu: {raw}\r"),
            169_334_788_123,
            Some(1),
            Some("pw+0xe1"),
            Some(""),
        ),
        (format!("    1/1    169.334788: percpu:percpu_alloc_percpu: {old}"), 169_334_788_000, None, None, None),
    ];
    for (line, time, cpu, call_site, gfp_flags) in rows {
        let trace = one(&line);
        let record = trace.get(0).unwrap();
        assert_eq!((record.time, record.cpu, record.line), (time, cpu, 1), "{line}");
        let alloc = alloc_of(&trace);
        assert_eq!((alloc.call_site, alloc.gfp_flags), (call_site, gfp_flags), "{line}");
        assert_eq!(alloc.bytes_alloc, call_site.map(|_| Bytes(288)));
        assert_eq!((alloc.size, alloc.align, alloc.off), (Bytes(48), Bytes(8), Bytes(32672)));
        assert_eq!((alloc.reserved, alloc.atomic), (false, true));
        assert_eq!(alloc.base, Some(Base::new(0xffff_8880_3ec3_b000)));
        assert_eq!(alloc.ptr, Some(0x4119c));
        assert!(!trace.hashed());
    }
}

#[test]
fn every_other_event() {
    let text = "\
# tracer: nop
version = 6
cpus=2
x-1 [000] d..1. 1.000001: percpu_free_percpu: base_addr=ffff888000000000 off=16 ptr=0000000000000010
x-1 [000] ..... 1.000002: percpu_alloc_percpu_fail: reserved=1 is_atomic=0 size=3000 align=32
x-1 [000] ..... 1.000003: percpu_create_chunk: base_addr=(____ptrval____)
x-1 [000] ..... 1.000004: percpu_destroy_chunk: base_addr=ffff888000000000
CPU:1 [LOST 12 EVENTS]
x-1 [000] ..... 1.000005: populated: (pcpu_chunk_populated+0x0/0x60) base=0xffff888000000000 first=3 end=6
x-1 [000] ..... 1.000006: depopulated: base=0xffff888000000000 first=4 end=5
x-1 [000] ..... 1.000007: balance_begin: (pcpu_balance_workfn+0x4/0x530)
x-1 [000] ..... 1.000008: balance_free: (f+0x0/0x1) empty_only=1
x-1 [000] ..... 1.000009: balance_end: (f <- g)
x-1 [000] ..... 1.000010: alloc_area: (f+0x0/0x1) base=0xffff888000000000 bits=16 align_bits=8 start=5
x-1 [000] ..... 1.000011: alloc_area_ret: (f+0x1/0x2 <- g) bit_off_x4=64
x-1 [000] ..... 1.000012: alloc_area_ret: (f+0x1/0x2 <- g) bit_off_x4=-4
x-1 [000] ..... 1.000013: free_area: (f+0x0/0x1) base=0xffff888000000000 off=64
x-1 [000] ..... 1.000014: sched_switch: prev=x next=y
x-1 [000] ..... 1.000015: tracing_mark_write: SNAPSHOT_M1
x-1 [001] 1.000016: print:  tracing_mark_write: 1: two: three
";
    let trace = read(text).unwrap();
    let base = Base::new(0xffff_8880_0000_0000);
    let events: Vec<Event<'_>> = trace.records().map(|record| record.event).collect();
    let expected = [
        Event::Free { base: Some(base), off: Bytes(16), ptr: Some(16) },
        Event::AllocFail { size: Bytes(3000), align: Bytes(32), reserved: true, atomic: false },
        Event::Create { base: None },
        Event::Destroy { base: Some(base) },
        Event::Lost { count: 12 },
        Event::Populated { base, first: Pages(3), end: Pages(6) },
        Event::Depopulated { base, first: Pages(4), end: Pages(5) },
        Event::BalanceBegin,
        Event::BalanceFree { empty_only: true },
        Event::BalanceEnd,
        Event::AllocArea { base, bits: Bits(16), align_bits: Bits(8), start: Bits(5) },
        Event::AllocAreaRet { off: Some(Bytes(64)) },
        Event::AllocAreaRet { off: None },
        Event::FreeArea { base, off: Bytes(64) },
        Event::Marker { text: "SNAPSHOT_M1" },
        Event::Marker { text: "1: two: three" },
    ];
    assert_eq!(events, expected);
    assert_eq!((trace.skipped_lines(), trace.lost_events()), (1, 12));
    assert_eq!(trace.get(5).unwrap().line, 9);
    assert_eq!(trace.counts().of(Kind::Marker), 2);
    assert_eq!(trace.counts().total(), 16);
    assert_eq!(read(&ftrace_text(&trace)).unwrap(), trace);
    let part = trace.slice(3..9);
    assert_eq!(part.len(), 6);
    assert_eq!(part.event(0), expected[3]);
    assert_eq!(read(&ftrace_text(&part)).unwrap(), part);
}

#[test]
fn hashed_pointers_are_recognised() {
    let free = |base: &str, off: u32, ptr: &str| {
        format!("x-1 [000] ..... 1.000001: percpu_free_percpu: base_addr={base} off={off} ptr={ptr}\n")
    };
    assert!(one(&free("00000000508b7243", 8, "000000003cf05f32")).hashed());
    assert!(!one(&free("ffffe8ffffc00000", 8, "000000003cf05f32")).hashed());
    assert!(!one(&free("0x508b7243", 8, "0x3cf05f32")).hashed());
    // 32 bit: real pointers keep one distance.
    let real = free("c7c00000", 8, "07c00008") + &free("c7c00000", 16, "07c00010");
    let hashed = free("c7c00000", 8, "07c00008") + &free("c7c00000", 16, "19e00010");
    assert!(!read(&real).unwrap().hashed());
    assert!(read(&hashed).unwrap().hashed());
    let none = one(&free("(ptrval)", 8, "(nil)"));
    assert_eq!(none.event(0), Event::Free { base: None, off: Bytes(8), ptr: None });
}

#[test]
fn unknown_fields_are_kept() {
    let line = "x-1 [000] ..... 1.000001: percpu_free_percpu: base_addr=ffffe8ffffc00000 node=1 off=8 \
                ptr=0000000000000008 size=4 who=f+0x1/0x2 [mod]";
    let trace = one(line);
    assert_eq!(trace.extra_fields(0), Some("node=1 size=4 who=f+0x1/0x2 [mod]"));
    let again = one(&ftrace_text(&trace));
    assert_eq!(again, trace);
    assert_eq!(again.slice(0..1).extra_fields(0), trace.extra_fields(0));
}

#[test]
fn damage_is_an_error_with_line_and_text() {
    let head = "x-1 [000] ..... 1.000001: ";
    let free = "percpu_free_percpu: base_addr=ffffe8ffffc00000 off=8 ptr=0000000000000008";
    // (line, part of the message)
    let rows = [
        (format!("{head}percpu_free_percpu: base_addr=ffffe8ffffc00000 off=8"), "`ptr` is missing"),
        (format!("{head}{}", free.replace("off=8", "off=-8")), "off=-8"),
        (format!("{head}{}", free.replace("off=8", "off=4294967296")), "below 2^31"),
        (format!("{head}{}", free.replace("off=8", "off=8 off=8")), "twice"),
        (format!("{head}{}", free.replace("ffffe8ffffc00000", "ffffe8ffffc0")), "not a pointer"),
        (format!("{head}{}", free.replace("off=8", "off")), "without `=`"),
        (format!("x-1 [70000] ..... 1.000001: {free}"), "cpu out of range"),
        (format!("x-1 [000] ..... 99999999999999.000001: {free}"), "time out of range"),
        (format!("x-1 [000] ..... 1.0000000001: {free}"), "nine decimals"),
        (format!("x-1 [000] ..... {free}"), "names an event"),
        (format!("{head}percpu_alloc_percpu_fail: reserved=2 is_atomic=0 size=1 align=4"), "reserved=2"),
        (format!("{head}percpu_alloc_percpu_fail: reserved=0 is_atomic=0 size=99999999999 align=4"), "below 2^32"),
        (format!("{head}populated: base=0xffffe8ffffc00000 first=4 end=4"), "impossible range"),
        (format!("{head}populated: base=(nil) first=4 end=5"), "no chunk"),
        (format!("{head}{free}\nx-1 [000] ..... 12: {free}"), "ordinal numbers and times"),
    ];
    for (text, part) in rows {
        let error = read(&format!("# x\n{text}")).unwrap_err();
        assert!(error.message.contains(part), "{text}: {error}");
        assert_eq!(error.line, Some(1 + text.lines().count() as u64), "{error}");
        assert!(error.text.unwrap().contains("percpu_") || text.contains("populated"));
    }
    for text in ["hello\nworld\n", "no", "[]"] {
        assert!(read(text).unwrap_err().message.contains("none of"), "{text:?}");
    }
    assert!(read_trace(b"\x17\x08Dtracing6\0").unwrap_err().message.contains("trace-cmd report"));
    assert!(read_trace(b"PERFILE2h").unwrap_err().message.contains("perf script"));
    assert!(read("").unwrap().is_empty() && read("# tracer: nop\n").unwrap().is_empty());
    let long = vec![b'x'; 3 << 20];
    assert!(read_trace(&long).unwrap_err().message.contains("longer than"));
}

const COLUMNS: &str = "\
# bases [\"0xffff8880b843b000\", \"0xffffe8ffffc00000\"]
# gfp [\"GFP_KERNEL\"]
# events 12
a,0,0,1,8,8,1,16,32,0
*,3,8
f,1,1,40
*,2,-8
x,0,1,0,64,4
c,0,0
p,0,1,3,6
r,0,1
m,0,SNAPSHOT, M1
";

#[test]
fn columns_expand_runs() {
    let trace = read(COLUMNS).unwrap();
    let offs: Vec<i32> = trace.columns().off[..7].to_vec();
    assert_eq!(offs, [16, 24, 32, 40, 40, 32, 24]);
    assert_eq!(trace.columns().time, (0..12).collect::<Vec<u64>>());
    assert_eq!(trace.get(3).unwrap().line, 5);
    assert_eq!(alloc_of(&trace).bytes_alloc, Some(Bytes(32)));
    assert_eq!(alloc_of(&trace).ptr, None);
    assert_eq!(trace.event(11), Event::Marker { text: "SNAPSHOT, M1" });
    assert_eq!(trace.clock(), Clock::Counter);
    assert_eq!(read(&ftrace_text(&trace)).unwrap(), trace);
}

#[test]
fn damaged_columns_are_errors() {
    // (what, by what, part of the message)
    let rows = [
        ("# events 12", "# events 13", "truncated"),
        ("*,3,8", "*,99999999999999999,8", "more than the 12 events"),
        ("*,3,8", "*,3,-8", "leave the chunk"),
        ("*,3,8", "*,3,99999999999", "step="),
        ("f,1,1,40", "f,1,2,40", "base=2"),
        ("f,1,1,40", "f,1,1", "`off` is missing"),
        ("f,1,1,40", "f,1,1,40,1", "too many"),
        ("a,0,0,1,8,8,1,16,32,0", "*,1,1", "repetition of nothing"),
        ("r,0,1", "r,0,2", "empty_only=2"),
        ("c,0,0\n", "c,0,0\n*,1,4\n", "no off"),
        ("p,0,1,3,6", "p,0,1,6,3", "impossible range"),
        ("x,0,1", "y,0,1", "no such event"),
        ("0xffff8880b843b000", "b843b000", "not an address"),
        ("\"]\n# gfp", "\n# gfp", "bases"),
    ];
    for (from, to, part) in rows {
        let error = read(&COLUMNS.replacen(from, to, 1)).unwrap_err();
        assert!(error.to_string().contains(part), "{to}: {error}");
    }
    let endless = COLUMNS.replace("# events 12\n", "").replace("*,3,8", "*,300000000,0");
    assert!(read(&endless).unwrap_err().message.contains("max_events=67108864: there are 300000001 or more"));
    let small = read_trace_from(COLUMNS.as_bytes(), Limits { events: 5 });
    assert!(small.unwrap_err().message.contains("max_events=5"));
}

#[test]
fn bpftrace_goes_by_time() {
    let text = "Attaching 5 probes...
30 0 alloc 0 1 8 4 0xffffe8ffffc00000 32200 0x60795bb00dc8 16 bpf_prog_alloc [mod]
40 0 fail 1 0 8 4
10 1 free 0xffffe8ffffc00000 32200 0x60795bb00dc8
20 1 create 0xffffe8ffffa00000
20 1 destroy 0xffffe8ffffa00000

";
    let trace = read(text).unwrap();
    let kinds = [Kind::Free, Kind::Create, Kind::Destroy, Kind::Alloc, Kind::AllocFail];
    assert_eq!(trace.columns().kind, kinds);
    assert_eq!(trace.call_sites(), ["bpf_prog_alloc [mod]"]);
    assert_eq!(trace.clock(), Clock::Nanoseconds);
    assert_eq!(read(&ftrace_text(&trace)).unwrap(), trace);
    for (from, to) in
        [("fail 1", "fail 2"), ("0x60795bb00dc8\n20", "60795bb00dc8\n20"), ("create", "make"), (" 16 bpf", "")]
    {
        let error = read(&text.replacen(from, to, 1)).unwrap_err();
        assert!(error.line.is_some() && error.text.is_some(), "{error}");
    }
}

#[test]
fn a_builder_refuses_what_could_not_be_read_back() {
    let mut builder = TraceBuilder::new(Clock::Microseconds);
    assert!(builder.push(1, Some(0), &Event::BalanceBegin).is_err());
    assert!(builder.push(1000, Some(u16::MAX), &Event::BalanceBegin).is_err());
    assert!(builder.push(1000, Some(0), &Event::Marker { text: "a\nb" }).is_err());
    assert!(builder.push(1000, Some(0), &Event::Marker { text: " a" }).is_err());
    assert!(builder.push(1000, None, &Event::Lost { count: 1 }).is_err());
    let base = Base::new(1 << 40);
    assert!(builder.push(0, None, &Event::FreeArea { base, off: Bytes(1 << 31) }).is_err());
    assert!(builder.push(0, None, &Event::Populated { base, first: Pages(2), end: Pages(2) }).is_err());
    let mut hashed = TraceBuilder::new(Clock::Counter).hashed_pointers();
    assert!(hashed.push(0, None, &Event::Create { base: Some(base) }).is_err());
    assert!(builder.finish().is_empty());
}

/// An event without borrowed texts, which are chosen by number.
type Seed = (u8, (u64, u64, u32, u32, u32), (bool, bool, bool), u8, (u64, u16));

const TEXTS: [&str; 6] =
    ["", "GFP_KERNEL|__GFP_ZERO", "pw+0xe1/0xff0 [pclab]", "a: 1: b=c", "0xffff", "tracing_mark_write: é"];

fn trace_of(seeds: &[Seed], clock: Clock, hashed: bool) -> Trace {
    let mut builder = TraceBuilder::new(clock);
    if hashed {
        builder = builder.hashed_pointers();
    }
    for &(kind, (base, ptr, off, size, align), (reserved, atomic, has), text, (time, cpu)) in seeds {
        let pointer = |value: u64| if hashed { value % 0xffff_ffff + 1 } else { value };
        let base = Base::new(pointer(base));
        let maybe_base = (kind % 7 != 0).then_some(base);
        let ptr = has.then_some(pointer(ptr));
        let off = Bytes(u64::from(off >> 1));
        let (size, align) = (Bytes(u64::from(size)), Bytes(u64::from(align)));
        let (first, end) = (Pages(off.0 as u32 / 2), Pages(off.0 as u32 / 2 + 1 + size.0 as u32 % 1000));
        let text = |salt: u8| TEXTS[usize::from(text.wrapping_add(salt)) % TEXTS.len()];
        let event = match Kind::ALL[usize::from(kind) % Kind::ALL.len()] {
            Kind::Alloc => Event::Alloc(Alloc {
                size,
                align,
                reserved,
                atomic,
                base: maybe_base,
                off,
                ptr,
                bytes_alloc: reserved.then_some(Bytes(size.0 * 64)),
                call_site: atomic.then_some(text(1)),
                gfp_flags: has.then_some(text(2)),
            }),
            Kind::Free => Event::Free { base: maybe_base, off, ptr },
            Kind::AllocFail => Event::AllocFail { size, align, reserved, atomic },
            Kind::Create => Event::Create { base: maybe_base },
            Kind::Destroy => Event::Destroy { base: maybe_base },
            Kind::Populated => Event::Populated { base, first, end },
            Kind::Depopulated => Event::Depopulated { base, first, end },
            Kind::BalanceBegin => Event::BalanceBegin,
            Kind::BalanceEnd => Event::BalanceEnd,
            Kind::BalanceFree => Event::BalanceFree { empty_only: has },
            Kind::AllocArea => Event::AllocArea {
                base,
                bits: Bits(size.0 as u32),
                align_bits: Bits(align.0 as u32),
                start: Bits(off.0 as u32),
            },
            Kind::AllocAreaRet => Event::AllocAreaRet { off: has.then_some(off) },
            Kind::FreeArea => Event::FreeArea { base, off },
            Kind::Marker => Event::Marker { text: text(0) },
            Kind::Lost => Event::Lost { count: size.0 },
        };
        let lost = event.kind() == Kind::Lost;
        let cpu = (cpu < 60000 || lost).then_some(cpu % 60000);
        let time = if clock == Clock::Microseconds { time / 1000 * 1000 } else { time };
        builder.push(time, cpu, &event).unwrap();
    }
    builder.finish()
}

fn seeds() -> impl Strategy<Value = Vec<Seed>> {
    let wide = prop_oneof![any::<u64>(), 0u64..100, any::<u32>().prop_map(u64::from)];
    let numbers = (wide.clone(), wide, any::<u32>(), any::<u32>(), any::<u32>());
    let place = (0u64..1 << 60, any::<u16>());
    proptest::collection::vec((any::<u8>(), numbers, any::<(bool, bool, bool)>(), any::<u8>(), place), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back(seeds in seeds(), clock in 0usize..3, hashed: bool, cut in 0usize..40) {
        let clock = [Clock::Microseconds, Clock::Nanoseconds, Clock::Counter][clock];
        let trace = trace_of(&seeds, clock, hashed);
        let again = read(&ftrace_text(&trace)).unwrap();
        prop_assert!(again == trace, "{:?}", again.first_difference(&trace));
        let part = trace.slice(cut.min(trace.len())..trace.len());
        prop_assert!(read(&ftrace_text(&part)).unwrap() == part);
    }

    /// Random damage to good lines: an error or a trace, never a panic; and what was accepted
    /// can be written and read again.
    #[test]
    fn damage_never_panics(
        seeds in seeds(),
        format in 0usize..3,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0u8..5), 0..12),
    ) {
        let mut text = match format {
            0 => ftrace_text(&trace_of(&seeds, Clock::Microseconds, false)).into_bytes(),
            1 => COLUMNS.as_bytes().to_vec(),
            _ => b"5 0 free 0xffffe8ffffc00000 32200 0x60795bb00dc8\n6 0 fail 1 0 8 4\n".to_vec(),
        };
        const LIKELY: &[u8] = b"0123456789=[]: .,*-\n\tx#(";
        for (place, byte, edit) in edits {
            let at = place.index(text.len() + 1);
            let byte = if edit < 3 { LIKELY[usize::from(byte) % LIKELY.len()] } else { byte };
            match edit {
                0 => text.insert(at, byte),
                1 | 3 if at < text.len() => text[at] = byte,
                2 if at < text.len() => { text.remove(at); }
                _ if edit == 4 && byte > 250 => text.truncate(at),
                _ => {}
            }
        }
        if let Ok(trace) = read_trace_from(&text[..], Limits { events: 10_000 }) {
            let again = read(&ftrace_text(&trace)).unwrap();
            prop_assert!(again == trace, "{:?}", again.first_difference(&trace));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), gzip: bool) {
        let mut bytes = bytes;
        if gzip {
            bytes.splice(0..0, [0x1f, 0x8b, 8, 0]);
        }
        let _ = read_trace_from(&bytes[..], Limits { events: 1000 });
    }
}
