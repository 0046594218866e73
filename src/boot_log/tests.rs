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

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = String> {
        "[a-z0-9_=]{1,12}"
    }

    fn mask() -> impl Strategy<Value = Message> {
        prop::collection::btree_set(0u32..300, 1..60).prop_map(|cpus| Message::PossibleMask(cpus.into_iter().collect()))
    }

    fn reason() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "alloc from reserved chunk failed",
            "atomic alloc failed, no space left",
            "failed to allocate new chunk",
            "failed to populate",
            "failed to extend area map of reserved chunk",
            "failed to extend area map",
        ])
        .prop_map(str::to_string)
    }

    /// Every message with any numbers.
    fn message() -> impl Strategy<Value = Message> {
        let failed = (any::<u64>(), any::<u64>(), any::<Option<bool>>(), reason())
            .prop_map(|(size, align, atomic, reason)| FailureLine { size, align, atomic, reason });
        let number = any::<u64>;
        prop_oneof![
            "[!-~][ -~]{0,40}[!-~]".prop_map(|condition| Message::FailedToInitialize { condition }),
            mask(),
            (number(), number()).prop_map(|(distance, vmalloc_total)| Message::MaxDistance { distance, vmalloc_total }),
            (Just(4u64), any::<u32>()).prop_map(|(page_kib, cpu)| Message::NoPage { page_kib, cpu }),
            any::<u32>().prop_map(|cpu| Message::NoLargePage { cpu }),
            number().prop_map(|size| Message::NoBlock { size }),
            Just(Message::LargerThanLargePage),
            number().prop_map(|mib| Message::ChunkTooLarge { mib }),
            name().prop_map(|name| Message::UnknownAllocator { name }),
            (name(), -4095i32..0).prop_map(|(name, errno)| Message::FallingBack { name, errno }),
            Just(Message::MoreThanOneGroup),
            number().prop_map(|pages| Message::Wasting { pages }),
            (any::<u32>(), any::<u32>()).prop_map(|(cpu, node)| Message::NoNode { cpu, node }),
            (-4095i32..0).prop_map(|errno| Message::CannotInitialize { errno }),
            number().prop_map(|size| Message::NoTable { size }),
            (number(), number())
                .prop_map(|(static_size, reserved_size)| Message::Overflow { static_size, reserved_size }),
            (number(), number()).prop_map(|(size, align)| Message::IllegalSize { size, align }),
            failed.prop_map(Message::AllocationFailed),
            Just(Message::LimitReached),
        ]
    }

    fn form() -> impl Strategy<Value = SummaryForm> {
        prop::sample::select(SummaryForm::ALL.to_vec())
    }

    /// A summary with just what the form prints.
    fn summary() -> impl Strategy<Value = (SummaryForm, Summary)> {
        let kind = prop::sample::select(vec![SummaryKind::Embed, SummaryKind::Page, SummaryKind::LargePage]);
        let pointer = prop_oneof!["[0-9a-f]{8}", "[0-9a-f]{16}", Just("(____ptrval____)".to_string())];
        let kib = prop::sample::select(vec![4u64, 8, 16, 64]);
        let sizes = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
        (form(), kind, pointer, kib, sizes).prop_map(|(form, kind, pointer, kib, (pages, s, r, d, u))| {
            let first = form == SummaryForm::V2_6_30;
            let second = form == SummaryForm::V2_6_31;
            let page = kind == SummaryKind::Page;
            // Large pages were only known in the first two forms.
            let large = kind == SummaryKind::LargePage && (first || second);
            let kind = if kind == SummaryKind::LargePage && !large { SummaryKind::Embed } else { kind };
            let summary = Summary {
                kind,
                pages: if large { 0 } else { pages },
                page_kib: page.then_some(if first || second { 4 } else { kib }),
                pointer: (form != SummaryForm::V5_2 && !(first && page)).then_some(pointer),
                static_size: s,
                reserved_size: (!first).then_some(r),
                dyn_size: (!(first || second && page)).then_some(d),
                unit_size: (!first && !page).then_some(u),
            };
            (form, summary)
        })
    }

    fn units() -> impl Strategy<Value = Vec<Option<u32>>> {
        prop::collection::vec(prop::option::weighted(0.8, 0u32..10_000), 1..70)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn messages_of_every_version_parse_back(message in message(), form in form()) {
            let text = message.text(form);
            prop_assert_eq!(Message::parse(&text), Some(message.clone()), "{}", &text);
            let line = format!("[    1.234567] {}{text}", form.prefix());
            prop_assert_eq!(BootLog::parse(&line).messages, [message]);
        }

        #[test]
        fn summaries_of_every_version_parse_back((form, summary) in summary()) {
            let line = summary.text(form);
            let parsed = Summary::parse(&line);
            // 2.6.31 embedded as 2.6.32 did; only the 4k and the large-page line tell them apart.
            let same = form == SummaryForm::V2_6_31 && summary.kind == SummaryKind::Embed;
            let form = if same { SummaryForm::V2_6_32 } else { form };
            prop_assert_eq!(parsed, Some((form, summary)), "{}", line);
        }

        #[test]
        fn setup_lines_and_heads_parse_back(a: [u64; 4], b: [u64; 6]) {
            let [nr_cpus, nr_cpumask_bits, nr_cpu_ids, nr_node_ids] = a;
            let setup = SetupLine { nr_cpus, nr_cpumask_bits, nr_cpu_ids, nr_node_ids };
            prop_assert_eq!(SetupLine::parse(&setup.text()), Some(setup));
            let [static_size, reserved_size, dyn_size, unit_size, alloc_factor, atom_size] = b;
            let head = DumpHead { static_size, reserved_size, dyn_size, unit_size, alloc_factor, atom_size };
            prop_assert_eq!(DumpHead::parse(&head.text()), Some(head));
        }

        #[test]
        fn large_page_dumps_parse_back(units in units(), shift in 0u32..8, sizes: [u32; 3]) {
            let [static_size, reserved_size, dyn_size] = sizes.map(u64::from);
            let unit_size = (2 << 20) >> shift;
            let dump =
                LargePageDump { static_size, reserved_size, dyn_size, unit_size, lpage_size: 2 << 20, units };
            prop_assert_eq!(BootLog::parse(&dump.lines().join("\n")).lpage, Some(dump));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "(?s).{0,200}", tail in "[ -~]{0,60}") {
            for prefix in ["", "percpu: ", "PERCPU: large pages ", "pcpu-alloc: ", "pcpu-lpage: ", "cpu_possible_mask="] {
                BootLog::parse(&format!("{prefix}{tail}\n{text}"));
            }
        }
    }
}

/// The dump of 2.6.31, by the rule of specification 40 section 3: of four units with two digits, four large pages fit
/// a line.
#[test]
fn a_large_page_dump() {
    let dump = LargePageDump {
        static_size: 30_000,
        reserved_size: 8192,
        dyn_size: 20_480,
        unit_size: 524_288,
        lpage_size: 2 << 20,
        units: (0..20).map(|cpu| (cpu != 9).then_some(cpu)).collect(),
    };
    let expected = [
        "pcpu-lpage: sta/res/dyn=30000/8192/20480 unit=524288 lpage=2097152",
        "pcpu-lpage: 00 01 02 03 | 04 05 06 07 | 08 -- 10 11 | 12 13 14 15 ",
        "pcpu-lpage: 16 17 18 19 ",
    ];
    assert_eq!(dump.lines(), expected);
}
