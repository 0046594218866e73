//! Every message is found, however it is carried; nothing else is.

use super::*;
use crate::boot_log::{message, BootRecord, SummaryForm};

fn kinds(text: &str) -> Vec<&'static str> {
    find_messages(text).found.iter().map(|found| found.kind).collect()
}

/// (kind, line without prefix): every message of specification 40 sections 2 to 4 and 20 sections 3 and 7.
fn messages() -> Vec<(&'static str, String)> {
    let failed = |reason: &str| message::allocation_failed(16, 8, true, reason);
    vec![
        ("failed_to_initialize", message::failed_to_initialize("ai->nr_groups <= 0")),
        ("possible_mask", message::cpu_possible_mask(&[0, 1, 40], 41)),
        ("max_distance", message::max_distance(0x180f_fe24_0000, 0x1fff_ffff_ffff)),
        ("no_page_for_cpu", message::failed_to_allocate_page(4096, 3)),
        ("no_page_for_cpu", "failed to allocate 4k page for cpu3".into()),
        ("no_large_page", "failed to allocate large page for cpu3".into()),
        ("no_block", "failed to allocate 131072 bytes for embedding".into()),
        ("larger_than_large_page", message::LARGER_THAN_LARGE_PAGE.into()),
        ("chunk_too_large", "too large chunk size 4096MB for large page remap".into()),
        ("unknown_allocator", message::unknown_allocator("auto")),
        ("falling_back", message::falling_back("auto", -22)),
        ("falling_back", "embed allocator failed (-12), falling back to 4k".into()),
        ("more_than_one_group", message::MORE_THAN_ONE_GROUP.into()),
        ("wasting", message::wasting(10)),
        ("no_node", message::no_node(3, 1)),
        ("cannot_initialize", "cannot initialize percpu area (err=-12)".into()),
        ("no_table", "pcpu_setup_first_chunk: Failed to allocate 64 bytes".into()),
        ("overflow", "percpu area overflow static=60000 reserved=8192".into()),
        ("no_areas", "Failed to initialize percpu areas (err=-12).".into()),
        ("no_areas", "Failed to allocate memory for percpu areas.".into()),
        ("no_areas", "failed to map percpu area, err=-12".into()),
        ("illegal_size", message::illegal_size(40960, 8)),
        ("reserved_full", failed("alloc from reserved chunk failed")),
        ("no_space", failed("atomic alloc failed, no space left")),
        ("no_chunk", failed("failed to allocate new chunk")),
        ("no_page", failed("failed to populate")),
        ("reserved_map", failed("failed to extend area map of reserved chunk")),
        ("map_extend", failed("failed to extend area map")),
        ("failed", failed("something that no kernel said yet")),
        ("no_chunk", message::allocation_failed_2_6(16, 8, "failed to allocate new chunk")),
        ("limit_reached", message::LIMIT_REACHED.into()),
    ]
}

#[test]
fn every_message_in_every_wrapping() {
    for (kind, text) in messages() {
        for prefix in ["", "percpu: ", "PERCPU: "] {
            for carrier in ["", "[    1.234567] ", "<4>[  1.2] ", "Nov 20 16:03:11 host kernel: ", "> > "] {
                let line = format!("{carrier}{prefix}{text}");
                assert_eq!(kinds(&line), [kind], "{line}");
            }
        }
    }
    // Where something unknown stands before it, the marker is found.
    let carried =
        "[Fri Nov 20 16:03:11 2026] percpu: allocation failed, size=16 align=8 atomic=1, failed to populate  \r";
    let found = &find_messages(carried).found[0];
    assert_eq!((found.kind, found.line), ("no_page", 1));
    assert!(found.text.starts_with("percpu: allocation failed"));
    let expected = json!({"size": 16, "align": 8, "atomic": true, "reserved": false, "reason": "failed to populate"});
    assert_eq!(found.values, expected);
}

#[test]
fn every_line_of_a_boot() {
    let record = BootRecord {
        static_size: 192_512,
        reserved_size: 8192,
        dyn_size: 28_672,
        unit_size: 262_144,
        atom_size: 2 << 20,
        alloc_size: 2 << 20,
        groups: vec![(0..8).map(|cpu| (cpu != 5).then_some(cpu)).collect()],
    };
    for line in record.lines() {
        let kind = if line.contains('=') { "dump_head" } else { "dump_row" };
        assert_eq!(kinds(&line), [kind], "{line}");
    }
    let row = &find_messages(&record.lines()[1]).found[0];
    assert_eq!(row.values, json!({"groups": [0], "nr_units": 8, "nr_holes": 1}));
    for (kind, name) in
        [(SummaryKind::Embed, "embedded"), (SummaryKind::Page, "page_mapped"), (SummaryKind::LargePage, "large_pages")]
    {
        for form in SummaryForm::ALL {
            let summary = Summary {
                kind,
                pages: 56,
                page_kib: Some(4),
                pointer: Some("ffff88083fc00000".into()),
                static_size: 192_512,
                reserved_size: Some(8192),
                dyn_size: Some(28_672),
                unit_size: Some(262_144),
            };
            let line = summary.text(form);
            assert_eq!(kinds(&line), [name], "{line}");
        }
    }
    let dump = LargePageDump {
        static_size: 100_000,
        reserved_size: 8192,
        dyn_size: 20_480,
        unit_size: 131_072,
        lpage_size: 2 << 20,
        units: vec![Some(0), None, Some(1)],
    };
    let lines = dump.lines();
    assert_eq!(kinds(&lines.join("\n")), ["lpage_head", "lpage_row"]);
    assert_eq!(kinds("setup_percpu: NR_CPUS:256 nr_cpumask_bits:2 nr_cpu_ids:2 nr_node_ids:1"), ["setup"]);
}

#[test]
fn related_lines() {
    assert_eq!(kinds("Percpu:             5888 kB"), ["meminfo"]);
    let event = "bash-1 [000] d..1. 1.5: percpu_alloc_percpu_fail: reserved=0 is_atomic=1 size=64 align=8";
    assert_eq!(kinds(event), ["fail_event"]);
    assert_eq!(find_messages(event).found[0].values["atomic"], json!(true));
    assert_eq!(kinds("Percpu Memory Statistics\nAllocation Info:\n"), ["statistics"]);
}

#[test]
fn what_is_not_known_is_not_guessed() {
    let alone = find_messages("usb 1-1: new device\n");
    assert_eq!((alone.found.len(), alone.nr_other), (0, 0));
    assert_eq!(alone.unknown, [(1, "usb 1-1: new device".to_string())]);
    let log =
        "usb 1-1: new device\n\n[ 1.0] percpu: something new\nillegal size (x) or align (8) for percpu allocation\n";
    let log = find_messages(log);
    assert_eq!(log.unknown.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4]);
    assert_eq!((log.found.len(), log.nr_other), (0, 1));
    assert_eq!(find_messages(""), Findings::default());
    // Half a message is none.
    for (_, text) in messages() {
        for cut in 1..text.len() {
            let found = find_messages(&text[..cut]).found;
            assert!(found.iter().all(|found| KINDS.contains(&found.kind)), "{text}");
        }
    }
}

#[test]
fn kinds_are_listed_once_and_all_occur() {
    let mut all = KINDS.to_vec();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), KINDS.len());
    assert!(messages().iter().all(|(kind, _)| KINDS.contains(kind)));
}
