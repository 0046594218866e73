//! Tests of the walk and of the text; real texts with their states are in `tests/readers.rs`.

use super::*;

/// Maps from a drawing: `#` starts an area, `=` goes on, `.` is free.
fn walk(drawing: &str, start: usize, end: usize) -> Fragmentation {
    let n = drawing.len();
    let (mut alloc, mut bound) = (vec![0u64; n.div_ceil(64)], vec![0u64; (n + 1).div_ceil(64)]);
    let mut before = '.';
    for (i, c) in drawing.chars().enumerate() {
        if c != '.' {
            alloc[i / 64] |= 1 << (i % 64);
        }
        if c == '#' || c == '.' && before != '.' {
            bound[i / 64] |= 1 << (i % 64);
        }
        before = c;
    }
    if before != '.' {
        bound[n / 64] |= 1 << (n % 64);
    }
    fragmentation(MapView { alloc: &alloc, bound: &bound, nr_bits: n, start, end, granule: 4 })
}

#[test]
fn the_walk_and_its_quirks() {
    // (map, hidden head, hidden tail, [sum, max, min, median, max] in bytes)
    let rows: &[(&str, usize, usize, [i64; 5])] = &[
        ("................", 0, 0, [0, 0, 0, 0, 0]),
        ("#==.............", 0, 0, [0, 0, 12, 12, 12]),
        ("#=..#.#===......", 0, 0, [12, 8, 4, 8, 16]),
        ("##=#==#===......", 0, 0, [0, 0, 4, 8, 16]),
        // The head is no area; nothing behind it is an empty list.
        ("#===............", 4, 0, [0, 0, 0, 0, 0]),
        ("#===..#=........", 4, 0, [8, 8, 8, 8, 8]),
        ("#===..#=....#===", 4, 4, [8, 8, 8, 8, 8]),
        // An area of two granules or more at the end loses one.
        ("#=..........#===", 0, 0, [40, 40, 8, 8, 12]),
        ("#===..#=..#=#===", 4, 4, [16, 8, 4, 4, 8]),
        // One granule at the end is seen only if nothing at all is before it.
        ("#==............#", 0, 0, [0, 0, 12, 12, 12]),
        ("...............#", 0, 0, [60, 60, 4, 4, 4]),
        ("#===...........#", 4, 0, [0, 0, 0, 0, 0]),
    ];
    for &(map, start, end, [sum_frag, max_frag, cur_min_alloc, cur_med_alloc, cur_max_alloc]) in rows {
        let expected = Fragmentation { sum_frag, max_frag, cur_min_alloc, cur_med_alloc, cur_max_alloc };
        assert_eq!(walk(map, start, end), expected, "{map}");
        // The same across word boundaries.
        let far = format!("{}{map}", "=".repeat(200));
        if end > 0 || !map.ends_with('#') {
            assert_eq!(walk(&far, start + 200, end), expected, "{far}");
        }
    }
    assert_eq!(walk("", 0, 0), Fragmentation::default());
}

#[test]
fn area_maps() {
    let map = [1, 100, 109, 120, 131, 140, 200];
    // 0..100 used, 100..108 free, 108..120 used, 120..130 free, 130..140 used, 140..200 free.
    let expected =
        Fragmentation { sum_frag: 18, max_frag: 10, cur_min_alloc: 10, cur_med_alloc: 12, cur_max_alloc: 100 };
    assert_eq!(fragmentation_of_areas(&map, false), expected);
    let expected = Fragmentation { cur_med_alloc: 10, cur_max_alloc: 12, ..expected };
    assert_eq!(fragmentation_of_areas(&map, true), expected);
    assert_eq!(fragmentation_of_areas(&[0, 200], false), Fragmentation::default());
    assert_eq!(fragmentation_of_areas(&[], true), Fragmentation::default());
}

/// The sample of specification 40 section 5.2 (5.12-rc, ppc64).
const MEMCG: &str = "\
Percpu Memory Statistics
Allocation Info:
----------------------------------------
  unit_size           :       655360
  static_size         :       608920
  reserved_size       :            0
  dyn_size            :        46440
  atom_size           :        65536
  alloc_size          :       655360

Global Stats:
----------------------------------------
  nr_alloc            :         9038
  nr_dealloc          :         6992
  nr_cur_alloc        :         2046
  nr_max_alloc        :         2200
  nr_chunks           :            3
  nr_max_chunks       :            3
  min_alloc_size      :            4
  max_alloc_size      :         1072
  empty_pop_pages     :           12

Per Chunk Stats:
----------------------------------------
Chunk: <- First Chunk
  nr_alloc            :         1092
  max_alloc_size      :         1072
  empty_pop_pages     :            0
  first_bit           :        16247
  free_bytes          :            4
  contig_bytes        :            4
  sum_frag            :            4
  max_frag            :            4
  cur_min_alloc       :            4
  cur_med_alloc       :            8
  cur_max_alloc       :         1072
  memcg_aware         :            0

";

#[test]
fn a_real_text_is_reproduced() {
    let stats = read_percpu_stats(MEMCG).unwrap();
    assert_eq!(stats.form, StatsForm::LinuxMemcg);
    assert_eq!(stats.chunks[0].first_bit, 16247);
    assert_eq!(stats.to_text(), MEMCG);
    let mangled = MEMCG.replace("  ", " ").replace('\n', " \r\n");
    assert_eq!(read_percpu_stats(&mangled).unwrap(), stats);
}

#[test]
fn every_form_reads_back() {
    let mut stats = read_percpu_stats(MEMCG).unwrap();
    stats.chunks = ChunkLabel::ALL.map(|label| ChunkStats { label, ..stats.chunks[0] }).to_vec();
    for form in [StatsForm::Linux, StatsForm::LinuxMemcg, StatsForm::RfcV1] {
        stats.form = form;
        assert_eq!(read_percpu_stats(&stats.to_text()).unwrap(), stats, "{form:?}");
    }
    stats.form = StatsForm::AreaMap;
    let text = stats.to_text();
    assert!(text.contains("\n  unit_size               :   655360\n"));
    assert!(text.contains("\n  nr_alloc          :           9038\n"));
    assert!(text.contains("\n  contig_hint             :        4\n"));
    let again = read_percpu_stats(&text).unwrap();
    assert_eq!((again.form, again.to_text()), (StatsForm::AreaMap, text));
}

#[test]
fn damage_names_the_line() {
    // (what, by what, line)
    let rows = [
        ("Percpu Memory", "Memory", 1),
        ("---\n  unit_size", "--\n  unit_size", 3),
        ("static_size  ", "statik_size  ", 5),
        ("      608920", "      6o8920", 5),
        ("Chunk: <- First", "Chunk: <- Last", 25),
        ("  first_bit           :        16247\n", "", 29),
    ];
    for (from, to, line) in rows {
        let error = read_percpu_stats(&MEMCG.replacen(from, to, 1)).unwrap_err();
        assert_eq!(error.line, Some(line), "{error}");
    }
    // Cut anywhere but between chunks or in the last number: an error.
    let no_chunk = MEMCG.find("\nChunk:").unwrap();
    let last_number = MEMCG.find("        1072\n  memcg").unwrap() + 9;
    for cut in 0..last_number {
        let read = read_percpu_stats(&MEMCG[..cut]);
        assert_eq!(read.is_ok(), (no_chunk..=no_chunk + 1).contains(&cut), "cut at {cut}");
    }
    assert!(read_percpu_stats("").is_err());
}
