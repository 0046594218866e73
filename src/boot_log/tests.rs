use super::*;

/// The samples of specification 40 section 3.1 that have a dump.
const SAMPLES: &[&str] = &[
    "percpu: Embedded 56 pages/cpu s192512 r8192 d28672 u262144
pcpu-alloc: s192512 r8192 d28672 u262144 alloc=1*2097152
pcpu-alloc: [0] 00 01 02 03 04 05 06 07 [0] 08 09 10 11 -- -- -- -- ",
    "PERCPU: Embedded 31 pages/cpu @ffff8800bfa00000 s87640 r8192 d31144 u131072
pcpu-alloc: s87640 r8192 d31144 u131072 alloc=1*2097152
pcpu-alloc: [0] 00 01 02 03 04 05 06 07 08 09 10 11 -- -- -- -- ",
    "percpu: Embedded 72 pages/cpu s256208 r8192 d30512 u524288
pcpu-alloc: s256208 r8192 d30512 u524288 alloc=1*2097152
pcpu-alloc: [0] 00 01 02 03 [0] 04 05 06 07 
pcpu-alloc: [0] 08 09 10 11 [0] 12 13 14 15 
pcpu-alloc: [0] 16 17 18 19 [0] 20 21 22 23 
pcpu-alloc: [0] 24 25 26 27 [0] 28 29 30 31 ",
    "percpu: Embedded 44 pages/cpu s139544 r8192 d32488 u524288
pcpu-alloc: s139544 r8192 d32488 u524288 alloc=1*2097152
pcpu-alloc: [0] 00 01 02 03 [1] 04 05 06 07 
pcpu-alloc: [2] 08 09 10 11 [3] 12 13 14 15 
pcpu-alloc: [4] 16 17 18 19 [5] 20 21 22 23 
pcpu-alloc: [6] 24 25 26 27 [7] 28 29 30 31 ",
    "percpu: Embedded 20 pages/cpu s43416 r8192 d30312 u81920
pcpu-alloc: s43416 r8192 d30312 u81920 alloc=20*4096
pcpu-alloc: [0] 0 [0] 1 ",
    "pcpu-alloc: s188416 r8192 d28672 u1048576 alloc=1*2097152
pcpu-alloc: [0] 0 1 [0] 2 - [1] 3 4 [1] 5 6 
pcpu-alloc: [1] 7 - ",
];

#[test]
fn samples_are_written_back_to_the_byte() {
    for sample in SAMPLES {
        let log = BootLog::parse(sample);
        let mut lines = Vec::new();
        if let Some((form, summary)) = &log.summary {
            lines.push(summary.text(*form));
        }
        lines.extend(log.record().expect("a dump").lines());
        assert_eq!(lines.join("\n"), *sample);
    }
}

#[test]
fn summary_lines_of_every_period_round_trip() {
    let lines = [
        (SummaryForm::V2_6_30, "PERCPU: Embedded 13 pages at ffff880001000000, static data 30000 bytes"),
        (SummaryForm::V2_6_30, "PERCPU: Allocated 9 4k pages, static data 30000 bytes"),
        (SummaryForm::V2_6_30, "PERCPU: Remapped at f5400000 with large pages, static data 30000 bytes"),
        (SummaryForm::V2_6_31, "PERCPU: 12 4k pages/cpu @f5400000 s30000 r8192"),
        (SummaryForm::V2_6_31, "PERCPU: large pages @f5400000 s30000 r8192 d20480 u131072"),
        (SummaryForm::V2_6_32, "PERCPU: 32 4K pages/cpu @ffffc90000000000 s107200 r8192 d15680"),
        (SummaryForm::V4_6, "percpu: Embedded 45 pages/cpu @(____ptrval____) s143768 r8192 d32360 u524288"),
        (SummaryForm::V4_6, "percpu: Embedded 46 pages/cpu @        (ptrval) s151552 r8192 d28672 u1048576"),
        (SummaryForm::V5_2, "percpu: 53 4K pages/cpu s185496 r8192 d23400"),
        (SummaryForm::V5_2, "percpu: Embedded 11 pages/cpu s627608 r0 d93288 u720896"),
    ];
    for (form, line) in lines {
        let (parsed, summary) = Summary::parse(line).expect(line);
        assert_eq!((parsed, summary.text(parsed)), (form, line.to_string()));
    }
    for line in ["percpu: wasting 10 pages per chunk", "percpu: Embedded x pages/cpu s1", "percpu: 5 4K pages/cpu r1"] {
        assert_eq!(Summary::parse(line), None, "{line}");
    }
}

#[test]
fn forms_follow_the_release() {
    for (release, form) in [
        ("2.6.30", SummaryForm::V2_6_30),
        ("2.6.31-14", SummaryForm::V2_6_31),
        ("2.6.35-22-generic", SummaryForm::V2_6_32),
        ("4.5.0", SummaryForm::V2_6_32),
        ("4.6.7", SummaryForm::V4_6),
        ("5.1", SummaryForm::V4_6),
        ("5.2.0-rc6-13", SummaryForm::V5_2),
        ("6.12.117+deb12-cloud-amd64", SummaryForm::V5_2),
    ] {
        assert_eq!(SummaryForm::of_release(release), Some(form), "{release}");
    }
    assert_eq!(SummaryForm::of_release("RHEL 7"), None);
    assert_eq!(SummaryForm::of_release("2.6.29"), None);
}

#[test]
fn carriers_are_stripped() {
    let plain = "pcpu-alloc: s1 r2 d3 u4 alloc=1*4";
    for prefix in [
        "",
        "<7>",
        "[    0.000000] ",
        "<6>[    0.105018][    T0] ",
        "[  0.1] [ C0] ",
        "> > ",
        "  ",
        "Nov 20 11:00:00 host kernel: [    0.000000] ",
        "Nov 20 11:00:00 host kernel: ",
    ] {
        assert_eq!(strip_line(&format!("{prefix}{plain}")), plain, "{prefix:?}");
    }
    assert_eq!(strip_line("pcpu-alloc: s1 r2 d3 u4 alloc=3D1*4"), plain);
    assert_eq!(strip_line("[fast] pcpu"), "[fast] pcpu");
}

#[test]
fn a_fall_back_is_seen() {
    let log = BootLog::parse(
        "PERCPU: max_distance=0x180ffe240000 too large for vmalloc space 0x1fffffffffff\n\
         setup_percpu: auto allocator failed (-22), falling back to page size\n\
         something else\n\
         PERCPU: 32 4K pages/cpu @ffffc90000000000 s107200 r8192 d15680",
    );
    assert_eq!(log.fallback, Some(-22));
    assert_eq!(log.max_distance, Some((0x180f_fe24_0000, 0x1fff_ffff_ffff)));
    assert_eq!(log.lines.len(), 3);
    assert_eq!(log.record(), None);
    let again = format!("PERCPU: {}", message::max_distance(0x180f_fe24_0000, 0x1fff_ffff_ffff));
    assert_eq!(again, log.lines[0]);
}

#[test]
fn damaged_dumps_give_no_record() {
    for text in [
        "pcpu-alloc: s1 r2 d3 u4 alloc=1*8\npcpu-alloc: [0] 0 1 [2] 2 3",
        "pcpu-alloc: s1 r2 d3 u4 alloc=1*8\npcpu-alloc: [0] 0 1 [1] 2",
        "pcpu-alloc: s1 r2 d3 u4 alloc=1*4\npcpu-alloc: [0] 0 1 [1] 2 3",
        "pcpu-alloc: s1 r2 d3 u4 alloc=18446744073709551615*4\npcpu-alloc: [0] 0",
        "pcpu-alloc: [0] 0 1",
        "pcpu-alloc: s1 r2 d3 u4 alloc=1*4",
        "pcpu-alloc: [4294967295] 0",
    ] {
        assert_eq!(BootLog::parse(text).record(), None, "{text}");
    }
}

#[test]
fn a_record_of_any_numbers_can_be_written() {
    let record = BootRecord {
        static_size: u64::MAX,
        reserved_size: 0,
        dyn_size: u64::MAX,
        unit_size: 1,
        atom_size: 0,
        alloc_size: u64::MAX,
        groups: vec![vec![Some(u32::MAX), None], vec![]],
    };
    assert_eq!(record.lines()[1], "pcpu-alloc: [0] 4294967295 - ");
    assert_eq!(BootRecord { unit_size: 0, ..record }.units_per_alloc(), 1);
}

#[test]
fn masks_and_messages() {
    let all: Vec<u32> = (0..40).collect();
    assert_eq!(message::cpu_possible_mask(&all, 40), "cpu_possible_mask=ff,ffffffff");
    assert_eq!(message::cpu_possible_mask(&[0, 1], 2), "cpu_possible_mask=3");
    assert_eq!(message::cpu_possible_mask(&[0, 32], 33), "cpu_possible_mask=1,00000001");
    assert_eq!(message::cpu_possible_mask(&all[..32], 32), "cpu_possible_mask=ffffffff");
    assert_eq!(message::failed_to_allocate_page(65536, 3), "failed to allocate 64K page for cpu3");
    assert_eq!(message::falling_back("auto", -12), "auto allocator failed (-12), falling back to page size");
    let line = format!("percpu: {}", message::allocation_failed(16, 8, true, "atomic alloc failed, no space left"));
    assert_eq!(line, "percpu: allocation failed, size=16 align=8 atomic=1, atomic alloc failed, no space left");
    let parsed = FailureLine::parse(&line).unwrap();
    assert_eq!((parsed.size, parsed.align, parsed.atomic), (16, 8, Some(true)));
    assert_eq!(parsed.reason, "atomic alloc failed, no space left");
    let old = message::allocation_failed_2_6(16, 8, "failed to populate");
    assert_eq!(FailureLine::parse(&old).unwrap().atomic, None);
    assert_eq!(message::illegal_size(40_000, 4), "illegal size (40000) or align (4) for percpu allocation");
}
