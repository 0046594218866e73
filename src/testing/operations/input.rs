//! Numbers out of bytes: what a fuzzer gives, read as choices.
//!
//! # Cost
//!
//! One byte for a choice among up to 256.

/// Bytes that are used up, from the front.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Nothing is left: from now on every number is 0.
    pub fn ended(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u64 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                u64::from(*first)
            }
            None => 0,
        }
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&mut self, n: u64) -> u64 {
        let mut value = self.byte();
        let mut range = 256;
        while range < n {
            value = value << 8 | self.byte();
            range <<= 8;
        }
        value % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// One of several.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
