//! The random source of the workloads.
//!
//! # Design
//!
//! SplitMix64: a counter and a mixing function, so that a seed gives the same numbers on every machine.
//!
//! # Source
//!
//! Specification 41 section 6, where the first numbers of seed 1 are given.

/// A stream of numbers from a seed.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`, which is at least 1; by remainder.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// One of `values`, which are not empty.
    pub fn one_of(&mut self, values: &[u64]) -> u64 {
        values[self.below(values.len() as u64) as usize]
    }

    /// `0..n` in random order: from the last place down, each exchanged with `below(place + 1)`.
    pub fn shuffled(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for place in (1..order.len()).rev() {
            order.swap(place, self.below(place as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_1_starts_as_published() {
        let mut random = SplitMix64::new(1);
        for expected in [0x910a_2dec_8902_5cc1, 0xbeeb_8da1_658e_ec67, 0xf893_a2ee_fb32_555e, 0x71c1_8690_ee42_c90b] {
            assert_eq!(random.next(), expected);
        }
    }

    #[test]
    fn a_shuffle_keeps_every_number() {
        let mut order = SplitMix64::new(7).shuffled(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
        assert!(SplitMix64::new(7).shuffled(0).is_empty());
    }
}
