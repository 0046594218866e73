//! Runners, dumps and naive models for tests and for the make targets that compare with
//! recorded data. Not part of the library proper.

pub mod dump;
pub mod golden;
pub mod json;
