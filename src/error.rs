//! Errors of the core: what is bad input, and what is a broken invariant.
//!
//! # Design
//!
//! A failed allocation is a result, not an error: see
//! [`Outcome`](crate::request::Outcome). The types here are for input that no
//! allocator could serve, and they hold the values, so that a message names the
//! parameter, what was given and the limit. A [`Violation`] is a bug of the model (or
//! damage in a state file); it carries the name of the invariant.

use std::fmt;

use thiserror::Error;

/// A geometry or an engine that cannot exist.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{parameter}={given}: {limit}")]
pub struct ConfigError {
    /// The parameter as users of the Python package know it.
    pub parameter: &'static str,
    /// The value that was given.
    pub given: String,
    /// What is allowed.
    pub limit: String,
}

impl ConfigError {
    /// An error for `parameter`, which was `given` and must satisfy `limit`.
    pub fn new(parameter: &'static str, given: impl fmt::Display, limit: impl Into<String>) -> Self {
        Self { parameter, given: given.to_string(), limit: limit.into() }
    }
}

/// A first chunk that cannot be computed or set up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// An input that the layout function rejects.
    #[error(transparent)]
    Input(#[from] ConfigError),
    /// A check of the set-up failed; the kernel stops here.
    #[error("failed to initialize, {condition}")]
    Setup {
        /// The condition as the kernel prints it.
        condition: String,
        /// The emergency lines that the kernel prints before it stops.
        log: Vec<String>,
    },
    /// The memory or address space could not be had.
    #[error("{what} (errno {errno})")]
    Failed {
        /// What failed.
        what: String,
        /// A negative errno, as the kernel returns it.
        errno: i32,
        /// The lines that the kernel prints on the way.
        log: Vec<String>,
    },
}

/// A request that names something impossible. The allocator is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The pointer is not the start of a live area.
    #[error("ptr={ptr:#x}: {reason}")]
    InvalidFree {
        /// The pointer as given.
        ptr: u64,
        /// Why it cannot be freed.
        reason: String,
    },
    /// The address belongs to no chunk.
    #[error("address={address:#x}: {reason}")]
    InvalidAddress {
        /// The address as given.
        address: u64,
        /// Why it has no answer.
        reason: String,
    },
    /// An argument outside its range.
    #[error(transparent)]
    Argument(#[from] ConfigError),
}

/// A trace that cannot be read or replayed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{message}{}",
    .line.map(|l| format!("line {l}: ")).unwrap_or_default(),
    .text.as_ref().map(|t| format!(": {t:?}")).unwrap_or_default())]
pub struct TraceError {
    /// Line in the file, counted from 1.
    pub line: Option<u64>,
    /// What is wrong.
    pub message: String,
    /// The line itself, shortened.
    pub text: Option<String>,
}

impl TraceError {
    /// An error in line `line`, whose text is quoted up to 120 characters.
    pub fn at(line: u64, message: impl Into<String>, text: &str) -> Self {
        let text = text.chars().take(120).collect();
        Self { line: Some(line), message: message.into(), text: Some(text) }
    }

    /// An error that belongs to no line.
    pub fn new(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into(), text: None }
    }
}

/// A state file or snapshot that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path}: {message}")]
pub struct StateError {
    /// Where in the state, for example `chunks[3].alloc_map`.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl StateError {
    /// An error at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// An invariant that does not hold. In a state that this crate made, a bug.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invariant {invariant} broken: {detail}")]
pub struct Violation {
    /// The name of the invariant, as listed in `docs/design.md`.
    pub invariant: &'static str,
    /// Where, and both values.
    pub detail: String,
}

impl Violation {
    /// A violation of `invariant`.
    pub fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

/// Returns a [`Violation`] unless the condition holds.
macro_rules! ensure_invariant {
    ($condition:expr, $invariant:expr, $($detail:tt)+) => {
        if !($condition) {
            return Err($crate::error::Violation::new($invariant, format!($($detail)+)));
        }
    };
}
pub(crate) use ensure_invariant;
