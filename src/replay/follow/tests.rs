use super::*;
use crate::stats_text::{ChunkLabel, ChunkStats, Fragmentation, StatsSizes};
use crate::trace::{Alloc, Base, Event, TraceBuilder};

const BASE: u64 = 0xffff_e8ff_ffc0_0000;

fn alloc(base: u64, off: u64, size: u64) -> Event<'static> {
    Event::Alloc(Alloc {
        size: Bytes(size),
        align: Bytes(4),
        reserved: false,
        atomic: false,
        base: Some(Base::new(base)),
        off: Bytes(off),
        ptr: None,
        bytes_alloc: None,
        call_site: Some("someone+0x1/0x2"),
        gfp_flags: None,
    })
}

fn free(base: u64, off: u64) -> Event<'static> {
    Event::Free { base: Some(Base::new(base)), off: Bytes(off), ptr: None }
}

fn trace(events: &[Event<'_>]) -> Trace {
    let mut builder = TraceBuilder::new(Clock::Counter);
    for (time, event) in events.iter().enumerate() {
        builder.push(time as u64, Some(0), event).unwrap();
    }
    builder.finish()
}

fn followed(events: &[Event<'_>], options: Options) -> Follow {
    follow(&trace(events), options, &mut |_| true).unwrap()
}

fn outcomes(events: &[Event<'_>]) -> Vec<Outcome> {
    let options = Options { unit_size: Some(Bytes(65_536)), ..Options::default() };
    let found = followed(events, options);
    found.outcomes.iter().map(|code| Outcome::ALL[*code as usize]).collect()
}

/// One row, one case: events, and what comes of the last.
#[test]
fn every_event_is_judged() {
    let create = || Event::Create { base: Some(Base::new(BASE)) };
    let destroy = || Event::Destroy { base: Some(Base::new(BASE)) };
    let lost = || Event::Lost { count: 3 };
    let pointer = |off: u64, ptr: u64| Event::Free { base: Some(Base::new(BASE)), off: Bytes(off), ptr: Some(ptr) };
    let aligned = |off: u64, align: u64| match alloc(BASE, off, 4) {
        Event::Alloc(a) => Event::Alloc(Alloc { align: Bytes(align), ..a }),
        other => other,
    };
    let cases: Vec<(Vec<Event<'_>>, Outcome)> = vec![
        (vec![alloc(BASE, 0, 8)], Outcome::Placed),
        (vec![alloc(BASE, 0, 8), free(BASE, 0)], Outcome::Freed),
        (vec![free(BASE, 0)], Outcome::FreedPrior),
        (vec![alloc(BASE, 0, 8), free(BASE, 8)], Outcome::FreedPrior),
        (vec![create()], Outcome::Created),
        (vec![create(), free(BASE, 64)], Outcome::FreedFree),
        (vec![create(), lost(), free(BASE, 64)], Outcome::FreedPrior),
        (vec![destroy()], Outcome::Destroyed),
        (vec![create(), destroy(), free(BASE, 64)], Outcome::FreedPrior),
        (vec![alloc(BASE, 0, 8), alloc(BASE, 4, 8)], Outcome::Overlap),
        (vec![alloc(BASE, 8, 8), alloc(BASE, 0, 64)], Outcome::Overlap),
        (vec![alloc(BASE, 0, 8), alloc(BASE, 0, 64)], Outcome::MissingFree),
        (vec![alloc(BASE, 0, 8), lost(), alloc(BASE, 4, 8)], Outcome::AfterLoss),
        (vec![lost(), alloc(BASE, 0, 8), alloc(BASE, 4, 8)], Outcome::Overlap),
        (vec![aligned(4, 8)], Outcome::Misaligned),
        (vec![aligned(8, 8)], Outcome::Placed),
        (vec![alloc(BASE, 2, 8)], Outcome::Misaligned),
        (vec![alloc(BASE, 0, 0)], Outcome::BadSize),
        (vec![alloc(BASE, 0, 65_540)], Outcome::BadSize),
        (vec![alloc(BASE, 65_532, 4)], Outcome::Placed),
        (vec![alloc(BASE, 65_532, 8)], Outcome::OutOfUnit),
        (vec![free(BASE, 65_536)], Outcome::OutOfUnit),
        (vec![alloc(BASE, 0, 64), free(BASE, 8)], Outcome::FreedInside),
        (vec![alloc(BASE, 0, 64), lost(), free(BASE, 8)], Outcome::AfterLoss),
        (vec![alloc(BASE, 0, 64), free(BASE, 0), free(BASE, 8)], Outcome::FreedFree),
        (vec![alloc(BASE, 0, 64), free(BASE, 0), free(BASE, 0)], Outcome::FreedFree),
        (vec![pointer(0, BASE + 16), pointer(4, BASE + 20)], Outcome::FreedPrior),
        (vec![pointer(0, BASE + 16), pointer(4, BASE + 24)], Outcome::WrongPointer),
        (vec![create(), create()], Outcome::CreatedTwice),
        (vec![create(), lost(), create()], Outcome::AfterLoss),
        (vec![alloc(BASE, 0, 64), destroy()], Outcome::DestroyedLive),
        (vec![alloc(BASE, 0, 64), lost(), destroy()], Outcome::AfterLoss),
        (vec![Event::BalanceBegin], Outcome::Other),
        (vec![Event::Create { base: None }], Outcome::NoBase),
    ];
    for (events, expected) in cases {
        assert_eq!(outcomes(&events).last(), Some(&expected), "{events:?}");
    }
}

#[test]
fn a_prior_area_is_as_long_as_the_next_at_its_place() {
    let events = [
        alloc(BASE, 100, 4),
        free(BASE, 40),
        alloc(BASE, 40, 16),
        free(BASE, 96),
        alloc(BASE, 96, 4),
        free(BASE, 200),
        free(BASE, 216),
        free(BASE, 208),
    ];
    let found = followed(&events, Options::default());
    let prior = |off: u32| found.objects.iter().find(|o| o.origin == Origin::Prior && o.off == off / 4).unwrap();
    let sizes = |off: u32| (prior(off).size * 4, prior(off).max_size * 4);
    assert_eq!(sizes(40), (16, 60), "the next is of 16 bytes, and byte 100 was live");
    assert_eq!(sizes(96), (4, 4), "byte 100 is live");
    assert_eq!(sizes(208), (4, 8), "byte 216 is free");
    assert_eq!(sizes(200).0, 4, "nothing was placed there");
    assert_eq!(found.live_after(0).len(), 5);
    assert_eq!(found.live_after(1).len(), 6);
    assert_eq!(found.live_after(8).len(), 3);
    let share = found.share();
    assert_eq!((share.live, share.free, share.total), (Bytes(24), Bytes(12), Bytes(32 << 10)));
    assert!(found.unit_size_inferred && found.unseen.is_none());
}

#[test]
fn blocks_are_as_good_as_the_whole() {
    let mut random = 7_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let mut events = Vec::new();
    for _ in 0..5_000 {
        let base = BASE + next(3) * (1 << 20);
        let off = next(200) * 32;
        events.push(match next(100) {
            0 => Event::Lost { count: 1 },
            1 => Event::Create { base: Some(Base::new(base)) },
            2 => Event::Destroy { base: Some(Base::new(base)) },
            3..=50 => alloc(base, off, 4 + next(12) * 4),
            _ => free(base, off),
        });
    }
    let whole = followed(&events, Options::default());
    let mut follower = Follower::new(Options { history: false, ..Options::default() }).unwrap();
    let mut from = 0;
    while from < events.len() {
        let to = (from + 1 + next(700) as usize).min(events.len());
        // A block of its own: its dictionaries are not those of the block before.
        assert!(follower.read(&trace(&events[from..to]), &mut |_| true));
        from = to;
    }
    let blocks = follower.finish();
    assert_eq!(blocks.totals, whole.totals);
    assert_eq!(blocks.by_outcome, whole.by_outcome);
    assert_eq!(blocks.shares, whole.shares);
    let live = |found: &Follow| {
        let mut live: Vec<_> =
            found.objects.iter().filter(|o| o.fate == Fate::Live).map(|o| (o.chunk, o.off, o.size, o.born)).collect();
        live.sort_unstable();
        live
    };
    assert_eq!(live(&blocks), live(&whole));
    assert_eq!(live(&whole).len() as u64, whole.totals.nr_live);
    assert!(blocks.outcomes.is_empty() && blocks.objects.len() as u64 == whole.totals.nr_live);
    let numbers = |found: &Follow| found.windows.iter().map(|window| (window.event, window.ranges)).collect::<Vec<_>>();
    assert_eq!(numbers(&blocks), numbers(&whole));
}

/// Memory follows the events of a hostile trace, not the addresses and offsets that it names.
#[test]
fn far_places_cost_no_more_than_near_ones() {
    let far: Vec<_> = (0..20_000_u64).map(|i| alloc(i << 33, (1 << 30) - 4 * (i + 1), 4)).collect();
    let found = followed(&far, Options::default());
    assert_eq!(found.totals.nr_live, 20_000);
    assert_eq!(found.unit_size, Bytes(1 << 30));
    assert_eq!(found.share().unknown.0, 20_000 * ((1 << 30) - 4));
}

fn row(label: ChunkLabel, nr_alloc: i64, first_bit: i64, free_bytes: i64, sum_frag: i64) -> ChunkStats {
    let frag = Fragmentation { sum_frag, ..Fragmentation::default() };
    ChunkStats { label, nr_alloc, first_bit, free_bytes, frag, ..ChunkStats::default() }
}

fn stats(chunks: Vec<ChunkStats>) -> PercpuStats {
    let sizes = StatsSizes { unit_size: 65_536, static_size: 5_000, dyn_size: 20_000, ..StatsSizes::default() };
    PercpuStats { sizes, chunks, ..PercpuStats::default() }
}

/// Two chunks; the trace touches one of them where the other is full.
#[test]
fn statistics_are_matched_by_what_the_trace_does_not_contradict() {
    let full = row(ChunkLabel::Plain, 700, 16_000, 1_536, 0);
    let airy = row(ChunkLabel::Plain, 9, 100, 60_000, 4_000);
    let events = [alloc(BASE, 400, 8), free(BASE, 800), alloc(BASE + (1 << 20), 64_100, 4)];
    let options = Options { stats: Some(stats(vec![full, airy])), ..Options::default() };
    let found = followed(&events, options.clone());
    assert_eq!(found.nr_illegal(), 0);
    assert_eq!(found.unit_size, Bytes(65_536));
    let [first, second] = found.chunks[..] else { panic!("two chunks") };
    assert_eq!((first.free, first.used_to), (((65_536 - 56_000) / 4, 16_383), 100));
    assert_eq!(second.used_to, 16_000);
    let unseen = found.unseen.unwrap();
    assert_eq!(unseen.objects, 708);
    let total = (65_536 - 1_536) + (65_536 - 60_000);
    assert_eq!((unseen.bytes.1, unseen.bytes.2), (total - 4, total - 4));
    assert!(unseen.bytes.0 < unseen.bytes.1);
    let cells = found.cells(0);
    assert_eq!((cells[99], cells[100], cells[102], cells[16_382], cells[16_383]), {
        (Cell::Held, Cell::Live, Cell::Unknown, Cell::Free, Cell::Unknown)
    });
    // The same two rows leave it open which chunk is which.
    let alike = Options { stats: Some(stats(vec![airy, row(ChunkLabel::Plain, 9, 90, 60_000, 4_000)])), ..options };
    let open = followed(&[alloc(BASE, 400, 8)], alike);
    assert_eq!(open.chunks[0].used_to, 0);
    let end = Options { stats_end: Some(stats(vec![full, airy])), ..Options::default() };
    let unseen = followed(&events, end).unseen.unwrap();
    assert_eq!((unseen.objects, unseen.bytes), (707, (total - 12, total - 12, total - 12)));
}

#[test]
fn wrong_sizes_are_named() {
    let wrong = |options: Options| Follower::new(options).unwrap_err().to_string();
    assert!(wrong(Options { granule: Bytes(3), ..Options::default() }).starts_with("granule=3: must be"));
    let unit = wrong(Options { unit_size: Some(Bytes(10)), ..Options::default() });
    assert!(unit.starts_with("unit_size=10: must be a multiple of 4"), "{unit}");
}
