//! Against a count that goes over the events one by one and keeps everything.

use std::collections::BTreeMap;

use super::*;
use crate::replay::follow::Options;
use crate::trace::{Alloc, Base, Clock, Event, TraceBuilder};
use crate::units::Bytes;

const BASE: u64 = 0xffff_e8ff_ffc0_0000;
const SITES: [&str; 3] = ["one+0x1/0x9", "one+0x5/0x9", "two+0x1/0x9 [module]"];

/// An area at a place of its own: 64 bytes a place, sizes of 4 to 60.
#[derive(Clone, Copy)]
struct Step {
    place: u64,
    size: u64,
    site: usize,
    frees: bool,
}

/// Requests and frees without sense, always the same.
fn steps(n: usize) -> Vec<Step> {
    let mut state = 1_u64;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut live = vec![false; 500];
    (0..n)
        .map(|_| {
            let place = next(500);
            let frees = live[place as usize];
            live[place as usize] = !frees;
            Step { place, size: 4 * (1 + next(15)), site: next(3) as usize, frees }
        })
        .collect()
}

fn trace(steps: &[Step]) -> Trace {
    let mut builder = TraceBuilder::new(Clock::Nanoseconds);
    for (index, step) in steps.iter().enumerate() {
        let base = Some(Base::new(BASE + (step.place % 2) * (1 << 20)));
        let off = Bytes(64 * step.place);
        let event = match step.frees {
            true => Event::Free { base, off, ptr: None },
            false => Event::Alloc(Alloc {
                size: Bytes(step.size),
                align: Bytes(4),
                reserved: false,
                atomic: step.place % 3 == 0,
                base,
                off,
                ptr: None,
                bytes_alloc: Some(Bytes(step.size * 6)),
                call_site: Some(SITES[step.site]),
                gfp_flags: None,
            }),
        };
        builder.push(1000 + 3 * index as u64, Some(index as u16 % 4), &event).unwrap();
    }
    builder.finish()
}

fn tallied(steps: &[Step], by: By, block: usize) -> Owners {
    let mut follower = Follower::new(Options { history: false, ..Options::default() }).unwrap();
    let mut tally = Tally::new(by, Symbols::default());
    let whole = trace(steps);
    for start in (0..steps.len()).step_by(block) {
        let part = whole.slice(start..steps.len().min(start + block));
        assert!(tally.read(&mut follower, &part, &mut |_| true));
    }
    let time = follower.time();
    tally.finish(time)
}

/// What each owner holds after each event, and how much of it was reached when.
#[derive(Default)]
struct Naive {
    live: BTreeMap<String, u64>,
    peak: BTreeMap<String, (u64, u64)>,
    /// By event.
    course: Vec<BTreeMap<String, u64>>,
    life: BTreeMap<String, u128>,
}

fn naive(steps: &[Step], key: impl Fn(&Step) -> String) -> Naive {
    let mut out = Naive::default();
    let mut areas: BTreeMap<u64, (Step, usize)> = BTreeMap::new();
    for (index, step) in steps.iter().enumerate() {
        if step.frees {
            let (old, born) = areas.remove(&step.place).unwrap();
            *out.live.get_mut(&key(&old)).unwrap() -= old.size;
            *out.life.entry(key(&old)).or_default() += (index - born) as u128;
        } else {
            areas.insert(step.place, (*step, index));
            let live = out.live.entry(key(step)).or_default();
            *live += step.size;
            let peak = out.peak.entry(key(step)).or_default();
            if *live > peak.0 {
                *peak = (*live, index as u64);
            }
        }
        out.course.push(out.live.clone());
    }
    out
}

#[test]
fn every_group_is_that_of_a_naive_count() {
    let steps = steps(20_000);
    type Key = fn(&Step) -> String;
    let keys: [(By, Key); 4] = [
        (By::Site, |step| SITES[step.site].to_owned()),
        (By::Function, |step| ["one", "one", "two [module]"][step.site].to_owned()),
        (By::Size, |step| step.size.to_string()),
        (By::Chunk, |step| (step.place % 2).to_string()),
    ];
    for (by, key) in keys {
        let expected = naive(&steps, key);
        let found = tallied(&steps, by, steps.len());
        assert_eq!(found.groups.len(), expected.live.len() + 1, "{by:?}");
        let name = |group: usize| match by {
            By::Site | By::Function => found.names[group].clone(),
            By::Size => (found.group_of.iter().position(|g| *g as usize == group).unwrap() * 4).to_string(),
            // Named in the order of appearance: the first event tells which.
            By::Chunk => ((group as u64 - 1 + steps[0].place) % 2).to_string(),
        };
        for (index, group) in found.groups.iter().enumerate().skip(1) {
            let name = name(index);
            assert_eq!(group.live * 4, expected.live[&name], "{by:?} {name}");
            assert_eq!((group.peak * 4, group.peak_event), expected.peak[&name], "{by:?} {name}");
            assert_eq!(group.peak_time, 1000 + 3 * group.peak_event);
            assert_eq!(group.life_events, expected.life[&name]);
            assert_eq!(group.life_time, 3 * expected.life[&name]);
            assert_eq!(group.nr_alloc - group.nr_free, group.nr_live);
            // The course: what was held after the last event of each sample.
            let mut held = 0;
            for (sample, end) in found.ends.iter().enumerate() {
                let entry = found.entries.iter().find(|e| (e.sample as usize, e.group as usize) == (sample, index));
                held = entry.map_or(held, |entry| entry.live);
                let last = *end as usize - 1;
                assert_eq!(held * 4, expected.course[last].get(&name).copied().unwrap_or(0), "{by:?} {name} {end}");
                assert_eq!(found.times[sample], 1000 + 3 * last as u64);
            }
        }
        assert!(found.ends.len() as u64 <= SAMPLES);
        assert_eq!(found.ends.last(), Some(&20_000));
        assert!(found.entries.windows(2).all(|pair| pair[0].sample <= pair[1].sample));
        let sum = |value: fn(&Group) -> u64| found.groups.iter().map(value).sum::<u64>();
        assert_eq!(sum(|g| g.live), found.total.live);
        assert_eq!(sum(|g| g.nr_alloc), found.total.nr_alloc);
    }
}

#[test]
fn blocks_do_not_matter() {
    let steps = steps(5_000);
    let whole = tallied(&steps, By::Site, steps.len());
    for block in [1, 7, 1024, 4999] {
        let parts = tallied(&steps, By::Site, block);
        assert_eq!((&parts.groups, &parts.names, parts.total), (&whole.groups, &whole.names, whole.total));
        assert_eq!((&parts.ends, &parts.times, &parts.entries), (&whole.ends, &whole.times, &whole.entries));
        assert_eq!(parts.factor, whole.factor);
    }
    assert_eq!(whole.factor, Factor { max_cpu: Some(3), quotients: Some((6, 6)), nr_odd: 0, wide: true });
}

#[test]
fn few_entries_are_kept_of_many_groups() {
    let steps = steps(3_000);
    let mut follower = Follower::new(Options::default()).unwrap();
    let mut tally = Tally::new(By::Size, Symbols::default());
    tally.most_entries = 512;
    assert!(tally.read(&mut follower, &trace(&steps), &mut |_| true));
    let found = tally.finish(0);
    assert!(found.entries.len() <= 512);
    assert!((16..1024).contains(&found.ends.len()));
    let mut last = vec![0; found.groups.len()];
    found.entries.iter().for_each(|entry| last[entry.group as usize] = entry.live);
    assert_eq!(last, found.groups.iter().map(|group| group.live).collect::<Vec<_>>());
}

#[test]
fn areas_from_before_are_known_if_they_are_given() {
    let base = |place: u64| BASE + (place % 2) * (1 << 20);
    let frees = [2_u64, 4].map(|place| Step { place, size: 0, site: 0, frees: true });
    let areas = [(base(2), 32, 4), (base(4), 64, 1), (base(6), 96, 7)];
    let mut follower = Follower::new(Options::default()).unwrap();
    let mut tally = Tally::new(By::Site, Symbols::default()).with_prior(areas.into_iter());
    assert!(tally.read(&mut follower, &trace(&frees), &mut |_| true));
    let found = tally.finish(0);
    let before = found.groups[BEFORE as usize];
    assert_eq!((before.live, before.nr_live, before.peak, before.nr_free), (7, 1, 12, 2));
    assert_eq!(found.prior, Some(vec![(base(6), 96, 7)]));
    let unknown = tallied(&frees, By::Site, 2);
    assert_eq!((unknown.groups[BEFORE as usize].nr_free, unknown.groups[BEFORE as usize].live), (2, 0));
    assert_eq!(unknown.prior, None);
}
