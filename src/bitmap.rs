//! Word arrays: find set and clear bits, set and clear ranges.
//!
//! # Design
//!
//! Maps are slices of `u64`, bit `i` is bit `i % 64` of word `i / 64`. This is the only
//! module with shifts and masks. Searches read whole words and stop at the first hit.
//!
//! # Units
//!
//! Everything is in bits; plain integers.
//!
//! # Invariants
//!
//! Bits at and above the map's size are never set. Searches return `size` when there is
//! no hit, also when `off >= size` (the convention of specification 00 section 1), except
//! [`last_set`], which says `None`.
//!
//! # Cost
//!
//! One load per 64 bits skipped.

/// Bits per word.
pub const WORD_BITS: u32 = u64::BITS;

/// Words needed for `bits`.
pub const fn words_for(bits: u32) -> usize {
    bits.div_ceil(WORD_BITS) as usize
}

/// The bits of a word at and above `bit` (taken modulo 64).
#[inline]
const fn mask_from(bit: u32) -> u64 {
    u64::MAX << (bit % WORD_BITS)
}

/// The bits of a word below `bit`, where a multiple of 64 means the whole word.
#[inline]
const fn mask_below(bit: u32) -> u64 {
    u64::MAX >> (bit.wrapping_neg() % WORD_BITS)
}

/// True if `bit` is set.
#[inline]
pub fn test(words: &[u64], bit: u32) -> bool {
    words[(bit / WORD_BITS) as usize] >> (bit % WORD_BITS) & 1 != 0
}

/// Sets `bit`.
#[inline]
pub fn set(words: &mut [u64], bit: u32) {
    words[(bit / WORD_BITS) as usize] |= 1 << (bit % WORD_BITS);
}

#[inline(always)]
fn next(words: &[u64], size: u32, off: u32, invert: u64) -> u32 {
    if off >= size {
        return size;
    }
    let index = (off / WORD_BITS) as usize;
    let word = (words[index] ^ invert) >> (off % WORD_BITS);
    if word != 0 {
        return (off + word.trailing_zeros()).min(size);
    }
    next_word(words, size, index + 1, invert)
}

/// The lowest hit in the words from `index` on.
#[inline(never)]
fn next_word(words: &[u64], size: u32, index: usize, invert: u64) -> u32 {
    let rest = words.get(index..words_for(size)).unwrap_or_default();
    match rest.iter().position(|word| word ^ invert != 0) {
        Some(at) => {
            let bit = (rest[at] ^ invert).trailing_zeros();
            ((index + at) as u32 * WORD_BITS + bit).min(size)
        }
        None => size,
    }
}

/// The lowest set bit in `off..size`, or `size`.
#[inline(always)]
pub fn next_set(words: &[u64], size: u32, off: u32) -> u32 {
    next(words, size, off, 0)
}

/// The lowest clear bit in `off..size`, or `size`.
#[inline(always)]
pub fn next_zero(words: &[u64], size: u32, off: u32) -> u32 {
    next(words, size, off, u64::MAX)
}

/// The lowest clear bit in `off..size` at a multiple of `align`, or `size`; `align` is a power of
/// two.
#[inline]
pub fn next_aligned_zero(words: &[u64], size: u32, off: u32, align: u32) -> u32 {
    if align >= WORD_BITS {
        let mut bit = off.next_multiple_of(align);
        while bit < size && test(words, bit) {
            bit += align;
        }
        return bit.min(size);
    }
    if off >= size {
        return size;
    }
    // Every `align`-th bit of a word.
    let places = u64::MAX / ((1 << align) - 1);
    let last = ((size - 1) / WORD_BITS) as usize;
    let words = &words[..=last];
    let mut index = (off / WORD_BITS) as usize;
    let mut word = !words[index] & places & mask_from(off);
    while word == 0 {
        index += 1;
        if index > last {
            return size;
        }
        word = !words[index] & places;
    }
    (index as u32 * WORD_BITS + word.trailing_zeros()).min(size)
}

/// The highest set bit in `low..high`.
#[inline(always)]
pub fn last_set(words: &[u64], low: u32, high: u32) -> Option<u32> {
    if low >= high {
        return None;
    }
    let index = ((high - 1) / WORD_BITS) as usize;
    let word = words[index] & mask_below(high);
    let bit = if word != 0 { highest_in(index, word) } else { last_in_words(&words[..index], low)? };
    (bit >= low).then_some(bit)
}

#[inline(always)]
fn highest_in(index: usize, word: u64) -> u32 {
    index as u32 * WORD_BITS + (WORD_BITS - 1 - word.leading_zeros())
}

/// The highest set bit of words, of which those below the word of `low` are not looked at.
#[inline(never)]
fn last_in_words(words: &[u64], low: u32) -> Option<u32> {
    let first = (low / WORD_BITS) as usize;
    let at = words.get(first..)?.iter().rposition(|word| *word != 0)?;
    Some(highest_in(first + at, words[first + at]))
}

/// Calls `apply` with each word of `from..to` and the mask of its bits in the range.
#[inline(always)]
fn for_masks(words: &mut [u64], from: u32, to: u32, apply: impl FnMut(&mut u64, u64)) {
    let mut apply = apply;
    if from >= to {
        return;
    }
    let index = (from / WORD_BITS) as usize;
    if index == ((to - 1) / WORD_BITS) as usize {
        return apply(&mut words[index], mask_from(from) & mask_below(to));
    }
    for_many_masks(words, from, to, apply);
}

/// [`for_masks`] where there is more than one word.
#[inline]
fn for_many_masks(words: &mut [u64], from: u32, to: u32, mut apply: impl FnMut(&mut u64, u64)) {
    let first = (from / WORD_BITS) as usize;
    let last = ((to - 1) / WORD_BITS) as usize;
    let words = &mut words[first..=last];
    let (head, tail) = (mask_from(from), mask_below(to));
    if let [first, middle @ .., last] = words {
        apply(first, head);
        middle.iter_mut().for_each(|word| apply(word, u64::MAX));
        apply(last, tail);
    }
}

/// Sets the bits `from..to`.
#[inline(always)]
pub fn set_range(words: &mut [u64], from: u32, to: u32) {
    for_masks(words, from, to, |word, mask| *word |= mask);
}

/// Clears the bits `from..to`.
#[inline(always)]
pub fn clear_range(words: &mut [u64], from: u32, to: u32) {
    for_masks(words, from, to, |word, mask| *word &= !mask);
}

/// Marks the boundaries of an area: sets `from` and `to`, clears what is between; `from < to`.
#[inline(always)]
pub fn set_bounds(words: &mut [u64], from: u32, to: u32) {
    let index = (from / WORD_BITS) as usize;
    if index == (to / WORD_BITS) as usize {
        let (low, high) = (1 << (from % WORD_BITS), 1 << (to % WORD_BITS));
        // The bits from `low` up to below `high`.
        words[index] = words[index] & !(high - low) | low | high;
        return;
    }
    clear_range(words, from + 1, to);
    set(words, from);
    set(words, to);
}

/// The 64 bits from `bit` on; beyond the map they are clear.
#[inline(always)]
pub fn window_from(words: &[u64], bit: u32) -> u64 {
    let (index, shift) = ((bit / WORD_BITS) as usize, bit % WORD_BITS);
    let high = words.get(index + 1).copied().unwrap_or(0);
    // In two steps: there may be nothing of it.
    words[index] >> shift | high << (WORD_BITS - 1 - shift) << 1
}

/// The 64 bits below `bit`, the one next to it highest; beyond the map they are clear.
#[inline(always)]
fn window_below(words: &[u64], bit: u32) -> u64 {
    let (index, shift) = ((bit / WORD_BITS) as usize, bit % WORD_BITS);
    let low = words.get(index.wrapping_sub(1)).copied().unwrap_or(0);
    let high = words.get(index).copied().unwrap_or(0);
    high << (WORD_BITS - 1 - shift) << 1 | low >> shift
}

/// [`next_set`] where one is near: nothing hangs on where words begin.
#[inline(always)]
pub fn next_set_near(words: &[u64], size: u32, off: u32) -> u32 {
    if off >= size {
        return size;
    }
    let window = window_from(words, off);
    if window != 0 {
        return (off + window.trailing_zeros()).min(size);
    }
    next_word(words, size, (off / WORD_BITS) as usize + 1, 0)
}

/// The bit behind the highest set one in `low..high`, or `low`, where one is near.
#[inline(always)]
pub fn free_from_near(words: &[u64], low: u32, high: u32) -> u32 {
    let window = window_below(words, high);
    if window != 0 {
        return low.max(high - window.leading_zeros());
    }
    if high - low <= WORD_BITS {
        return low;
    }
    last_in_words(&words[..(high / WORD_BITS) as usize], low).map_or(low, |bit| low.max(bit + 1))
}

/// Clears `bit`.
#[inline]
pub fn clear(words: &mut [u64], bit: u32) {
    words[(bit / WORD_BITS) as usize] &= !(1 << (bit % WORD_BITS));
}

/// Sets `len` bits from `from` on, and again every `step` bits, `count` times in all;
/// `0 < len <= step`.
pub fn set_periodic(words: &mut [u64], from: u32, len: u32, step: u32, count: u32) {
    if step == 1 || len == step {
        return set_range(words, from, from + count * step);
    }
    if step <= WORD_BITS / 2 && step.is_power_of_two() {
        // Whole periods fit a word: one pattern for all words.
        let mut pattern = mask_below(len);
        let mut width = step;
        while width < WORD_BITS {
            pattern |= pattern << width;
            width *= 2;
        }
        let pattern = pattern.rotate_left(from % step);
        return for_masks(words, from, from + count * step, |word, mask| *word |= mask & pattern);
    }
    for at in 0..count {
        let from = from + at * step;
        set_range(words, from, from + len);
    }
}

/// How many areas of `len` bits, one every `step` bits from `from` on, are there in a row, at most `most`: their first bit is set in
/// `used`, and of their bits and the one behind in `bound` only the two boundaries. The first is one.
pub fn count_areas(used: &[u64], bound: &[u64], from: u32, len: u32, step: u32, most: u32) -> u32 {
    let end = from + (most - 1) * step + len;
    if step % WORD_BITS == 0 && len % WORD_BITS == 0 {
        let (first, words, shift) = (from / WORD_BITS, len / WORD_BITS, from % WORD_BITS);
        if step == len && shift == 0 {
            return count_adjoining(&used[first as usize..], &bound[first as usize..], words as usize, most);
        }
        let is_area = |at: &u32| {
            let start = (first + at * (step / WORD_BITS)) as usize;
            let [begin, inner @ .., behind] = &bound[start..=start + words as usize] else { return false };
            used[start] >> shift & 1 == 1
                && begin >> shift == 1
                && inner.iter().fold(0, |any, word| any | word) == 0
                && behind << (WORD_BITS - 1 - shift) == 1 << (WORD_BITS - 1)
        };
        return (0..most).take_while(is_area).count() as u32;
    }
    if !fits_word(step) {
        let is_area = |at: &u32| {
            let (start, end) = (from + at * step, from + at * step + len);
            test(used, start) && test(bound, start) && next_set(bound, end + 1, start + 1) == end
        };
        return (0..most).take_while(is_area).count() as u32;
    }
    let area = mask_below(len);
    let ends = 1 | if len < step { 1 << len } else { 0 };
    let live = first_other(used, repeat(area, step, from), repeat(area, step, from), from, end);
    let bounds = first_other(bound, repeat(ends, step, from), repeat(area | ends, step, from), from, end + 1);
    // What is amiss at a start may be the end of the area before.
    let first = live.into_iter().chain(bounds).min();
    first.map_or(most, |bit| (bit.max(from + 1) - from - 1) / step)
}

/// [`count_areas`] of whole words without gaps, from the first word on: where one ends the next begins.
fn count_adjoining(used: &[u64], bound: &[u64], words: usize, most: u32) -> u32 {
    let rows = used.chunks_exact(words).zip(bound.chunks_exact(words)).take(most as usize);
    let begins = |(used, bound): &(&[u64], &[u64])| {
        used[0] & 1 == 1 && bound[0] == 1 && bound[1..].iter().fold(0, |any, word| any | word) == 0
    };
    let count = rows.take_while(begins).count();
    // The end of the last one may be a boundary or not.
    (count - usize::from(bound[count * words] & 1 == 0)) as u32
}

/// How many areas of `len` set bits, one every `step` bits from `from` on, follow one another with nothing but clear bits
/// between, at most `most`. The first is one. 0 where that is not easily told.
pub fn count_apart(words: &[u64], from: u32, len: u32, step: u32, most: u32) -> u32 {
    if (from | len | step) % WORD_BITS == 0 {
        let [from, len, step] = [from, len, step].map(|bits| (bits / WORD_BITS) as usize);
        let follows = |at: &usize| {
            let start = from + at * step;
            let (gap, area) = words[start + len - step..start + len].split_at(step - len);
            gap.iter().all(|word| *word == 0) && area.iter().all(|word| *word == u64::MAX)
        };
        return 1 + (1..most as usize).take_while(follows).count() as u32;
    }
    if !fits_word(step) {
        return 0;
    }
    let end = from + (most - 1) * step + len;
    let other = first_other(words, repeat(mask_below(len), step, from), u64::MAX, from, end);
    other.map_or(most, |bit| (bit - from) / step)
}

/// Whether whole periods fit a word, so that there is one pattern for all words.
#[inline(always)]
fn fits_word(step: u32) -> bool {
    step <= WORD_BITS / 2 && step.is_power_of_two()
}

/// `bits` once every `step` bits, from a bit `from` on; [`fits_word`].
#[inline(always)]
fn repeat(bits: u64, step: u32, from: u32) -> u64 {
    // With one bit every `step` bits the product has no carries.
    (u64::MAX / mask_below(step)).wrapping_mul(bits).rotate_left(from % step)
}

/// The first bit of `from..to` that is under `mask` and differs from `pattern`.
#[inline(always)]
fn first_other(words: &[u64], pattern: u64, mask: u64, from: u32, to: u32) -> Option<u32> {
    let (first, last) = (from / WORD_BITS, (to - 1) / WORD_BITS);
    for index in first..=last {
        let mut other = (words[index as usize] ^ pattern) & mask;
        if index == first {
            other &= mask_from(from);
        }
        if index == last {
            other &= mask_below(to);
        }
        if other != 0 {
            return Some(index * WORD_BITS + other.trailing_zeros());
        }
    }
    None
}

/// The longest run of clear bits in `from..to`.
pub fn longest_clear(words: &[u64], from: u32, to: u32) -> u32 {
    clear_runs(words, from, to).map(|(start, end)| end - start).max().unwrap_or(0)
}

/// Number of bits set in both of two maps.
pub fn count_both(a: &[u64], b: &[u64]) -> u32 {
    a.iter().zip(b).map(|(a, b)| (a & b).count_ones()).sum()
}

/// Bits of `from..to` that are set in both of two maps.
pub fn count_both_within(a: &[u64], b: &[u64], from: u32, to: u32) -> u32 {
    if from >= to {
        return 0;
    }
    let (first, last) = ((from / WORD_BITS) as usize, ((to - 1) / WORD_BITS) as usize);
    let (low, high) = (a[first] & b[first] & !mask_from(from), a[last] & b[last] & !mask_below(to));
    count_both(&a[first..=last], &b[first..=last]) - low.count_ones() - high.count_ones()
}

/// True if every run of set bits of `map` begins at a bit that `marks` has, and ends before one. `marks` has one
/// bit more than `map`, and `map` has none beyond its last.
pub fn runs_are_marked(map: &[u64], marks: &[u64]) -> bool {
    let mut before = 0;
    let mut missing = 0;
    for (word, marks) in map.iter().zip(marks) {
        // Where a bit differs from the one before.
        let edges = word ^ (word << 1 | before);
        missing |= edges & !marks;
        before = word >> (WORD_BITS - 1);
    }
    missing == 0 && (before == 0 || marks.get(map.len()).is_some_and(|marks| marks & 1 != 0))
}

/// True if `map` has `len` (at least 1) set bits in a row in `from..to` of which `marks` has none.
pub fn has_unmarked_run(map: &[u64], marks: &[u64], from: u32, to: u32, len: u32) -> bool {
    has_run_in(|index| map[index] & !marks[index], from, to, len)
}

/// True if `map` has `len` (at least 1) set bits in a row in `from..to`.
pub fn has_run_within(map: &[u64], from: u32, to: u32, len: u32) -> bool {
    has_run_in(|index| map[index], from, to, len)
}

#[inline]
fn has_run_in(word_at: impl Fn(usize) -> u64, from: u32, to: u32, len: u32) -> bool {
    if from >= to {
        return false;
    }
    let (first, last) = ((from / WORD_BITS) as usize, ((to - 1) / WORD_BITS) as usize);
    let mut run = 0;
    for index in first..=last {
        let mut word = word_at(index);
        if index == first {
            word &= mask_from(from);
        }
        if index == last {
            word &= mask_below(to);
        }
        if word == 0 {
            run = 0;
            continue;
        }
        if word == u64::MAX {
            run += WORD_BITS;
            if run >= len {
                return true;
            }
            continue;
        }
        if run + word.trailing_ones() >= len || (len < WORD_BITS && has_run(word, len)) {
            return true;
        }
        run = word.leading_ones();
    }
    false
}

/// True if a word has `len` (at least 1) set bits in a row.
#[inline]
fn has_run(mut word: u64, len: u32) -> bool {
    let mut have = 1;
    while have < len {
        let by = have.min(len - have);
        word &= word >> by;
        have += by;
    }
    word != 0
}

/// The highest bit below `high` that is set in both of two maps.
pub fn last_both(a: &[u64], b: &[u64], high: u32) -> Option<u32> {
    if high == 0 {
        return None;
    }
    let mut index = ((high - 1) / WORD_BITS) as usize;
    let mut word = a[index] & b[index] & mask_below(high);
    while word == 0 {
        index = index.checked_sub(1)?;
        word = a[index] & b[index];
    }
    Some(index as u32 * WORD_BITS + (WORD_BITS - 1 - word.leading_zeros()))
}

/// Number of set bits in `from..to`.
pub fn count_set(words: &[u64], from: u32, to: u32) -> u32 {
    if from >= to {
        return 0;
    }
    let (first, last) = ((from / WORD_BITS) as usize, ((to - 1) / WORD_BITS) as usize);
    let outside = words[first] & !mask_from(from);
    let behind = words[last] & !mask_below(to);
    let count: u32 = words[first..=last].iter().map(|word| word.count_ones()).sum();
    count - outside.count_ones() - behind.count_ones()
}

/// The maximal runs of clear bits in `from..to`, ascending, as `(start, end)`.
pub fn clear_runs(words: &[u64], from: u32, to: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
    let mut pos = from;
    std::iter::from_fn(move || {
        let start = next_zero(words, to, pos);
        if start >= to {
            return None;
        }
        let end = next_set(words, to, start + 1);
        pos = end + 1;
        Some((start, end))
    })
}

/// The maximal runs of set bits in `from..to`, ascending, as `(start, end)`.
pub fn set_runs(words: &[u64], from: u32, to: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
    let mut pos = from;
    std::iter::from_fn(move || {
        let start = next_set(words, to, pos);
        if start >= to {
            return None;
        }
        let end = next_zero(words, to, start + 1);
        pos = end + 1;
        Some((start, end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(bits: &[bool]) -> Vec<u64> {
        let mut words = vec![0; words_for(bits.len() as u32)];
        for (i, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
            set(&mut words, i as u32);
        }
        words
    }

    fn unpack(words: &[u64], n: usize) -> Vec<bool> {
        (0..n as u32).map(|i| test(words, i)).collect()
    }

    #[test]
    fn edge_masks_over_all_positions() {
        for low in 0..64 {
            for high in low + 1..=64 {
                let mask = mask_from(low) & mask_below(high);
                for bit in 0..64 {
                    assert_eq!(mask >> bit & 1 == 1, (low..high).contains(&bit));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn searches_meet_their_definitions(bits in prop::collection::vec(any::<bool>(), 1..200), a in 0u32..220, b in 0u32..220) {
            let words = pack(&bits);
            let n = bits.len() as u32;
            let size = b.min(n);
            let find = |value: bool| (a..size).find(|i| bits[*i as usize] == value).unwrap_or(size);
            prop_assert_eq!(next_set(&words, size, a), find(true));
            prop_assert_eq!(next_zero(&words, size, a), find(false));
            prop_assert_eq!(last_set(&words, a, size), (a..size).rev().find(|i| bits[*i as usize]));
            prop_assert_eq!(count_set(&words, a, size), (a..size).filter(|i| bits[*i as usize]).count() as u32);
        }

        #[test]
        fn marked_runs_meet_their_definitions(
            bits in prop::collection::vec((prop::bool::weighted(0.9), prop::bool::weighted(0.1)), 1..400), edges: bool,
            a in 0u32..420, b in 0u32..420, len in prop_oneof![1u32..12, 1u32..200],
        ) {
            let map: Vec<bool> = bits.iter().map(|(bit, _)| *bit).collect();
            let n = map.len() as u32;
            let edge = |i: u32| {
                let at = |i: u32| map.get(i as usize).copied().unwrap_or(false);
                at(i) != (i > 0 && at(i - 1))
            };
            // Marks at random, or at every edge too.
            let marks: Vec<bool> =
                (0..=n).map(|i| bits.get(i as usize).is_some_and(|(_, mark)| *mark) || (edges && edge(i))).collect();
            let (words, marked) = (pack(&map), pack(&marks));
            prop_assert_eq!(runs_are_marked(&words, &marked), (0..=n).all(|i| !edge(i) || marks[i as usize]));
            let size = b.min(n);
            let both = |i: u32| map[i as usize] && marks[i as usize];
            prop_assert_eq!(count_both_within(&words, &marked, a, size), (a..size).filter(|i| both(*i)).count() as u32);
            let inside = |i: u32| map[i as usize] && !marks[i as usize];
            let longest = (a..size).fold((0, 0), |(run, most), i| {
                let run = if inside(i) { run + 1 } else { 0 };
                (run, run.max(most))
            });
            prop_assert_eq!(has_unmarked_run(&words, &marked, a, size, len), longest.1 >= len);
            let run = set_runs(&words, a, size).any(|(start, end)| end - start >= len);
            prop_assert_eq!(has_run_within(&words, a, size, len), run);
        }

        #[test]
        fn aligned_searches_meet_their_definition(
            bits in prop::collection::vec(prop::bool::weighted(0.9), 1..600), a in 0u32..620, b in 0u32..620, shift in 0u32..9,
        ) {
            let words = pack(&bits);
            let (size, align) = (b.min(bits.len() as u32), 1 << shift);
            let found = (a..size).find(|i| i % align == 0 && !bits[*i as usize]).unwrap_or(size);
            prop_assert_eq!(next_aligned_zero(&words, size, a, align), found);
        }

        #[test]
        fn ranges_touch_exactly_their_bits(bits in prop::collection::vec(any::<bool>(), 1..200), a in 0u32..200, b in 0u32..200) {
            let n = bits.len();
            let (from, to) = (a.min(n as u32), b.min(n as u32));
            for value in [false, true] {
                let mut words = pack(&bits);
                if value { set_range(&mut words, from, to) } else { clear_range(&mut words, from, to) }
                let mut want = bits.clone();
                (from..to).for_each(|i| want[i as usize] = value);
                prop_assert_eq!(unpack(&words, n), want);
            }
        }

        #[test]
        fn bounds_and_periods_meet_their_definitions(
            bits in prop::collection::vec(any::<bool>(), 400..600), from in 0u32..100, len in 1u32..70, gap in 0u32..40, count in 1u32..4,
        ) {
            let step = len + gap;
            let mut words = pack(&bits);
            let mut want = bits.clone();
            set_periodic(&mut words, from, len, step, count.min((400 - from) / step));
            for at in 0..count.min((400 - from) / step) {
                (0..len).for_each(|i| want[(from + at * step + i) as usize] = true);
            }
            prop_assert_eq!(unpack(&words, bits.len()), want);
            let step = step.next_power_of_two();
            let (mut words, mut want) = (pack(&bits), bits.clone());
            set_periodic(&mut words, from, len, step, (400 - from) / step);
            for at in 0..(400 - from) / step {
                (0..len).for_each(|i| want[(from + at * step + i) as usize] = true);
            }
            prop_assert_eq!(unpack(&words, bits.len()), want);
            let (mut words, mut want) = (pack(&bits), bits.clone());
            set_bounds(&mut words, from, from + len);
            (from..=from + len).for_each(|i| want[i as usize] = i == from || i == from + len);
            prop_assert_eq!(unpack(&words, bits.len()), want);
        }

        #[test]
        fn near_searches_meet_their_definitions(
            bits in prop::collection::vec(prop::bool::weighted(0.02), 1..400), a in 0u32..400, b in 0u32..400,
        ) {
            let words = pack(&bits);
            let n = bits.len() as u32;
            let (low, high) = (a.min(b).min(n), a.max(b).min(n));
            prop_assert_eq!(next_set_near(&words, high, low), next_set(&words, high, low));
            prop_assert_eq!(free_from_near(&words, low, high), last_set(&words, low, high).map_or(low, |bit| bit + 1));
            if low < n {
                let from = window_from(&words, low);
                (0..64).for_each(|i| assert_eq!(from >> i & 1 == 1, *bits.get((low + i) as usize).unwrap_or(&false)));
            }
        }

        #[test]
        fn equal_areas_are_counted(
            from in 0u32..70, len in 1u32..80, gap in prop_oneof![Just(0), 0u32..40], power in 0..3, most in 1u32..12,
            broken in prop::option::of((0u32..1500, any::<bool>())),
        ) {
            let (len, step) = match power {
                0 => (len, len + gap),
                1 => (len, (len + gap).next_power_of_two()),
                // Whole words.
                _ => (64 * (1 + len % 2), 64 * (1 + len % 2 + gap % 2)),
            };
            let from = if power == 2 && gap % 4 < 2 { from / 64 * 64 } else { from };
            let most = most.min(1500 / step);
            let end = from + (most - 1) * step + len;
            let (mut used, mut bound) = (vec![false; 1700], vec![false; 1700]);
            for start in (0..most).map(|at| from + at * step) {
                (start..start + len).for_each(|bit| used[bit as usize] = true);
                (bound[start as usize], bound[(start + len) as usize]) = (true, true);
            }
            if let Some((at, in_used)) = broken.filter(|(at, _)| *at > len) {
                let map = if in_used { &mut used } else { &mut bound };
                let bit = &mut map[(from + at) as usize];
                *bit = !*bit;
            }
            let is_area = |at: &u32| {
                let start = (from + at * step) as usize;
                let end = start + len as usize;
                used[start] && bound[start] && bound[end] && !bound[start + 1..end].contains(&true)
            };
            // Only the start is sure to be looked at of an area in use.
            let really = (0..most).take_while(is_area).count() as u32;
            let counted = count_areas(&pack(&used), &pack(&bound), from, len, step, most);
            prop_assert!(counted <= really && (broken.is_some() || counted == most), "{counted} of {really}");

            let apart = count_apart(&pack(&used), from, len, step, most);
            let free_gap = |at: &u32| {
                let start = (from + at * step) as usize;
                !used[start..start + len as usize].contains(&false)
                    && (at + 1 == most || !used[start + len as usize..start + step as usize].contains(&true))
            };
            let really = (0..most).take_while(free_gap).count() as u32;
            // An area whose gap behind is not free may be the last one.
            prop_assert!(apart <= really + 1 && apart <= most);
            prop_assert!(!fits_word(step) || broken.is_some() || apart == most);
            let last = (from + apart * step).saturating_sub(step) + len;
            let gaps = (0..apart.saturating_sub(1)).flat_map(|at| from + at * step + len..from + (at + 1) * step);
            prop_assert!(apart == 0 || (last <= end && gaps.into_iter().all(|bit| !used[bit as usize])));
        }

        #[test]
        fn two_maps_meet_their_definitions(
            a in prop::collection::vec(any::<bool>(), 200), b in prop::collection::vec(any::<bool>(), 200), high in 0usize..=200,
        ) {
            let both = |i: &usize| a[*i] && b[*i];
            prop_assert_eq!(count_both(&pack(&a), &pack(&b)), (0..200).filter(both).count() as u32);
            prop_assert_eq!(last_both(&pack(&a), &pack(&b), high as u32), (0..high).rev().find(both).map(|i| i as u32));
        }

        #[test]
        fn runs_partition_the_range(bits in prop::collection::vec(any::<bool>(), 1..200)) {
            let words = pack(&bits);
            let n = bits.len() as u32;
            let mut seen = vec![None; bits.len()];
            for (value, runs) in [(false, clear_runs(&words, 0, n).collect::<Vec<_>>()), (true, set_runs(&words, 0, n).collect())] {
                for (start, end) in runs {
                    prop_assert!(start < end && end <= n);
                    (start..end).for_each(|i| seen[i as usize] = Some(value));
                }
            }
            prop_assert_eq!(seen, bits.iter().map(|b| Some(*b)).collect::<Vec<_>>());
        }
    }
}
