//! Answers to questions that people have about a machine.
//!
//! # Design
//!
//! Each question is a module that reads what there is (a log, a state, a trace) and changes nothing.

pub mod explain;
pub mod owners;
pub mod symbols;
