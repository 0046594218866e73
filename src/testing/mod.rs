//! Runners, dumps and naive models for tests and for the make targets that compare with
//! recorded data. Not part of the library proper.

pub mod boots;
pub mod damage;
pub mod differential;
pub mod dump;
pub mod following;
pub mod golden;
mod golden_2008;
pub mod golden_layout;
pub mod json;
pub mod layouts;
pub mod naive;
pub mod operations;
pub mod properties;
pub mod random;
pub mod recordings;
#[cfg(test)]
pub mod shadow;
pub mod surfaces;
pub mod tables;
