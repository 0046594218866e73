//! Tests of states on a small hand-made one; recorded ones are in `tests/readers.rs`.

use serde_json::{json, Value};

use super::*;

/// Two chunks of two pages of 64 bytes: 16 bits a page. The first has a hidden head.
fn small() -> Value {
    let hints = |n: i32| {
        json!({"scan_hint": 0, "scan_hint_start": 0, "contig_hint": n, "contig_hint_start": 0,
        "left_free": n, "right_free": n, "first_free": 0, "nr_bits": 32})
    };
    json!({
        "meta": {"name": "hand-made"},
        "md_fields": MD_FIELDS,
        "globals": {
            "pcpu_unit_pages": 2, "pcpu_unit_size": 128, "pcpu_nr_units": 1, "pcpu_nr_slots": 9,
            "pcpu_free_slot": 7, "pcpu_sidelined_slot": 6, "pcpu_to_depopulate_slot": 8,
            "pcpu_base_addr": 4096u64, "per_cpu_start": 0, "static_size": 0, "pcpu_unit_offsets": [0],
            "pcpu_nr_empty_pop_pages": 1, "pcpu_nr_populated": 3, "pcpu_atomic_alloc_failed": 0,
            "pcpu_async_enabled": 1, "balance_work_pending": 0, "alloc_mutex_owner": 5,
            "first_chunk_index": 0, "reserved_chunk_index": null,
            "pcpu_stats": {"nr_alloc": 3, "nr_dealloc": 2, "nr_cur_alloc": 1, "nr_max_alloc": 2,
                "nr_chunks": 2, "nr_max_chunks": 2, "min_alloc_size": 4, "max_alloc_size": 8}
        },
        "slots": [[], [], [], [], [0], [], [], [1], []],
        "chunks": [
            {"slot": 4, "nr_alloc": 1, "max_alloc_size": 8, "free_bytes": 112, "base_addr": 4096, "immutable": true,
             "isolated": false, "start_offset": 8, "end_offset": 0, "nr_pages": 2, "nr_populated": 2,
             "nr_empty_pop_pages": 1, "chunk_md": hints(28), "alloc_map": "0f000000", "bound_map": "1500000000",
             "md_blocks": [[0, 0, 12, 4, 0, 12, 4, 16], [0, 0, 16, 0, 16, 16, 0, 16]], "populated": "11"},
            {"slot": 7, "nr_alloc": 0, "max_alloc_size": 0, "free_bytes": 128, "base_addr": 8192, "immutable": false,
             "isolated": false, "start_offset": 0, "end_offset": 0, "nr_pages": 2, "nr_populated": 0,
             "nr_empty_pop_pages": 0, "chunk_md": hints(32), "alloc_map": "00000000", "bound_map": "0000000001",
             "md_blocks": [[0, 0, 16, 0, 16, 16, 0, 16], [0, 0, 16, 0, 16, 16, 0, 16]], "populated": "00"}
        ]
    })
}

fn load(value: &Value) -> Result<State, StateError> {
    State::from_json(value.to_string().as_bytes())
}

#[test]
fn reads_and_writes_the_same_file() {
    let value = small();
    let state = load(&value).unwrap();
    assert_eq!(state.page_size(), 64);
    assert_eq!(state.chunks[0].alloc_map, [0xf]);
    assert_eq!(state.chunks[1].bound_map, [1 << 32]);
    assert_eq!(state.chunks[0].md_blocks[0][md::CONTIG_HINT_START], 4);
    assert_eq!((state.slot_table(), state.chunk_at(8192)), (vec![Some(4), Some(7)], Some(1)));
    assert_eq!(state.other_globals["alloc_mutex_owner"], 5);
    assert_eq!(serde_json::from_str::<Value>(&state.to_json()).unwrap(), value);
    assert_eq!(State::from_json(state.to_json().as_bytes()).unwrap(), state);
}

#[test]
fn columns_of_hints_are_found_by_name() {
    let mut value = small();
    value["md_fields"].as_array_mut().unwrap().reverse();
    for chunk in value["chunks"].as_array_mut().unwrap() {
        for row in chunk["md_blocks"].as_array_mut().unwrap() {
            row.as_array_mut().unwrap().reverse();
        }
    }
    assert_eq!(load(&value).unwrap(), load(&small()).unwrap());
}

#[test]
fn a_free_geometry_survives() {
    let mut state = load(&small()).unwrap();
    state.block_size = 128;
    for chunk in &mut state.chunks {
        chunk.md_blocks = vec![chunk.chunk_md];
    }
    state.validate().unwrap();
    assert_eq!(State::from_json(state.to_json().as_bytes()).unwrap(), state);
}

#[test]
fn bad_values_are_named() {
    // (pointer to the value, new value, path of the error)
    let rows = [
        ("/md_fields/0", json!("foo"), "md_fields"),
        ("/md_fields/0", json!("nr_bits"), "md_fields"),
        ("/globals/pcpu_unit_pages", json!(0), "globals.pcpu_unit_pages"),
        ("/globals/pcpu_unit_pages", json!(3), "globals.pcpu_unit_pages"),
        ("/globals/pcpu_unit_size", json!(-1), "globals.pcpu_unit_size"),
        ("/globals/pcpu_unit_size", json!(1u64 << 40), "globals.pcpu_unit_size"),
        ("/globals/pcpu_nr_slots", json!(8), "slots"),
        ("/globals/pcpu_free_slot", json!(9), "globals.pcpu_free_slot"),
        ("/globals/pcpu_free_slot", json!(6), "globals.pcpu_sidelined_slot"),
        ("/globals/pcpu_async_enabled", json!(2), "globals.pcpu_async_enabled"),
        ("/globals/pcpu_nr_empty_pop_pages", json!(2), "globals.pcpu_nr_empty_pop_pages"),
        ("/globals/pcpu_nr_units", json!(0), "globals.pcpu_nr_units"),
        ("/globals/first_chunk_index", json!(2), "globals.first_chunk_index"),
        ("/globals/first_chunk_index", json!(1), "globals.first_chunk_index"),
        ("/globals/pcpu_stats/nr_alloc", json!(4), "globals.pcpu_stats.nr_cur_alloc"),
        ("/globals/pcpu_stats/nr_alloc", json!("x"), "globals.pcpu_stats.nr_alloc"),
        ("/globals/pcpu_stats/nr_chunks", json!(1), "globals.pcpu_stats.nr_chunks"),
        ("/globals/pcpu_base_addr", json!(null), "globals.pcpu_base_addr"),
        ("/slots/4", json!([0, 0]), "slots[4][1]"),
        ("/slots/4", json!([2]), "chunks[0].slot"),
        ("/slots/5", json!([2]), "slots[5][0]"),
        ("/slots/4/0", json!(-1), "slots[4][0]"),
        ("/slots", json!(7), "slots"),
        ("/chunks/0/slot", json!(5), "chunks[0].slot"),
        ("/chunks/0/alloc_map", json!("0f0000"), "chunks[0].alloc_map"),
        ("/chunks/0/alloc_map", json!("0f0000é"), "chunks[0].alloc_map"),
        ("/chunks/0/alloc_map", json!("0f00000g"), "chunks[0].alloc_map"),
        ("/chunks/0/alloc_map", json!("1f000000"), "chunks[0].free_bytes"),
        ("/chunks/0/alloc_map", json!("1e000000"), "chunks[0].alloc_map"),
        ("/chunks/0/bound_map", json!("1500000002"), "chunks[0].bound_map"),
        ("/chunks/0/populated", json!("1"), "chunks[0].populated"),
        ("/chunks/0/populated", json!("1x"), "chunks[0].populated"),
        ("/chunks/0/populated", json!("10"), "chunks[0].nr_populated"),
        ("/chunks/0/nr_pages", json!(3), "chunks[0].alloc_map"),
        ("/chunks/0/nr_pages", json!(u32::MAX), "chunks[0].alloc_map"),
        ("/chunks/1/nr_empty_pop_pages", json!(1), "chunks[1].nr_empty_pop_pages"),
        ("/chunks/1/base_addr", json!(4096), "chunks[1].base_addr"),
        ("/chunks/1/isolated", json!(true), "chunks[1].isolated"),
        ("/chunks/0/start_offset", json!(6), "chunks[0].start_offset"),
        ("/chunks/0/end_offset", json!(128), "chunks[0].start_offset"),
        ("/chunks/0/md_blocks/1/2", json!(17), "chunks[0].md_blocks[1].contig_hint"),
        ("/chunks/0/md_blocks/1/2", json!(-1), "chunks[0].md_blocks[1].contig_hint"),
        ("/chunks/0/md_blocks/1/7", json!(32), "chunks[0].md_blocks[1].nr_bits"),
        ("/chunks/0/md_blocks/1", json!([1]), "chunks[0].md_blocks[1]"),
        ("/chunks/0/md_blocks", json!([]), "chunks[0].md_blocks"),
        ("/chunks/0/chunk_md/left_free", json!(33), "chunks[0].chunk_md.left_free"),
        ("/chunks/0/chunk_md/left_free", json!(1u64 << 40), "chunks[0].chunk_md.left_free"),
        ("/chunks/1", json!([]), "chunks[1]"),
    ];
    for (pointer, new, path) in rows {
        let mut value = small();
        *value.pointer_mut(pointer).unwrap() = new.clone();
        let error = load(&value).unwrap_err();
        assert_eq!(error.path, path, "{pointer} = {new}: {error}");
    }
    for bytes in [&b"{"[..], b"", b"[]", b"\x1f\x8b\x08\0\0", b"\xff\xfe"] {
        assert!(State::from_json(bytes).is_err());
    }
}

#[test]
fn a_shared_page_of_the_boot_chunks_is_no_error() {
    let mut value = small();
    value["globals"]["reserved_chunk_index"] = json!(1);
    value["slots"][7] = json!([]);
    value["chunks"][1]["slot"] = json!(null);
    value["chunks"][1]["immutable"] = json!(true);
    value["chunks"][1]["base_addr"] = json!(4096);
    value["globals"]["pcpu_stats"]["nr_chunks"] = json!(1);
    let state = load(&value).unwrap();
    assert_eq!(state.chunk_at(4096), Some(0));
    assert_eq!(state.diff(&state), []);
}

#[test]
fn differences_are_named_and_bounded() {
    let state = load(&small()).unwrap();
    let mut other = state.clone();
    other.chunks.reverse();
    other.slots = other.slots.iter().map(|list| list.iter().map(|&index| 1 - index).collect()).collect();
    other.first_chunk = Some(1);
    assert_eq!(state.diff(&other), [], "the order of the chunks does not matter");
    other.chunks[1].alloc_map[0] = 0x3f;
    other.chunks[1].md_blocks[1][md::SCAN_HINT] = 3;
    other.slots.swap(4, 5);
    other.nr_populated = 9;
    other.stats = None;
    let paths: Vec<String> = state.diff(&other).iter().map(|difference| difference.to_string()).collect();
    let expected = [
        "nr_populated: 3 != 9",
        "slots[4]: [0x1000] != []",
        "slots[5]: [] != [0x1000]",
        "chunk 0x1000: alloc_map bit 4, first of 2: clear != set",
        "chunk 0x1000: md_blocks[1].scan_hint: 0 != 3",
    ];
    assert_eq!(paths, expected);
    let strict = DiffOptions { limit: 2, ignore_missing: false };
    let strict: Vec<String> = state.diff_with(&other, strict).iter().map(|d| d.path.clone()).collect();
    assert_eq!(strict, ["nr_populated", "stats"]);
    other.chunks.remove(0);
    assert!(state.diff(&other).iter().any(|d| d.path == "chunk 0x2000" && d.right == "-"));
}
