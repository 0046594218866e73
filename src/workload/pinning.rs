//! Head pinning: chunks that are nearly empty and cannot be reached.
//!
//! # Design
//!
//! Objects fill some chunks. Then all are freed but those on the first page of each chunk (whose frees would raise the
//! chunk's hint) and a few everywhere (so that no page becomes empty, which would too). Since 5.2 the hints of the
//! chunks then stay as low as they were when the chunks were full, and what is allocated next goes into new chunks.
//!
//! ```text
//! page     0        1        2        3
//!       [XXXXXXXX|.X......|........|..X.....]   free: 99 %; the chunk's hint: 0
//! ```
//!
//! # Source
//!
//! Specification 10 section 7.3; the live experiment beside the recordings.

use super::{alloc, in_first_chunk, no_check, number, Place, Procedure, Step, Stream, MAX_BYTES, MAX_OBJECTS};

/// Head pinning.
pub(super) const HEAD_PINNING: Procedure = Procedure {
    name: "head_pinning",
    version: 1,
    summary: "all freed but the first pages and every so many, then as many allocated again",
    parameters: &[
        number("n", 200_000, 0, MAX_OBJECTS / 2, "objects at first"),
        number("size", 16, 0, MAX_BYTES, "bytes of each"),
        number("align", 16, 0, MAX_BYTES, "alignment of each, bytes"),
        number("keep_every", 200, 1, MAX_OBJECTS, "objects 0, k, 2k, ... stay"),
    ],
    phases: &["fill", "thin", "refill"],
    needs_places: true,
    check: no_check,
    start: |recipe| {
        let n = recipe.number("n") as u32;
        Box::new(HeadPinning {
            n,
            size: recipe.number("size"),
            align: recipe.number("align"),
            keep_every: recipe.number("keep_every"),
            freed: Vec::new(),
            at: At::Fill(None),
        })
    },
};

/// The next step.
#[derive(Clone, Copy)]
enum At {
    /// `None` = the marker of the phase.
    Fill(Option<u32>),
    Thin(Option<usize>),
    Refill(Option<u32>),
}

struct HeadPinning {
    n: u32,
    size: u64,
    align: u64,
    keep_every: u64,
    /// Objects to free.
    freed: Vec<u32>,
    at: At,
}

impl Stream for HeadPinning {
    fn next_step(&mut self) -> Option<Step> {
        loop {
            match self.at {
                At::Fill(None) => {
                    self.at = At::Fill(Some(0));
                    return Some(Step::Phase(0));
                }
                At::Fill(Some(id)) if id < self.n => {
                    self.at = At::Fill(Some(id + 1));
                    return Some(alloc(id, self.size, self.align));
                }
                At::Fill(Some(_)) => self.at = At::Thin(None),
                At::Thin(None) => {
                    self.at = At::Thin(Some(0));
                    return Some(Step::Phase(1));
                }
                At::Thin(Some(index)) => match self.freed.get(index) {
                    Some(id) => {
                        self.at = At::Thin(Some(index + 1));
                        return Some(Step::Free { id: *id });
                    }
                    None => self.at = At::Refill(None),
                },
                At::Refill(None) => {
                    self.at = At::Refill(Some(0));
                    return Some(Step::Phase(2));
                }
                At::Refill(Some(count)) => {
                    if count as usize == self.freed.len() {
                        return None;
                    }
                    self.at = At::Refill(Some(count + 1));
                    return Some(alloc(self.n + count, self.size, self.align));
                }
            }
        }
    }

    fn placed(&mut self, id: u32, place: Option<Place>) {
        let Some(place) = place.filter(|_| id < self.n) else { return };
        let pinned = place.page == 0 && !in_first_chunk(place.chunk);
        if !pinned && u64::from(id) % self.keep_every != 0 {
            self.freed.push(id);
        }
    }
}
