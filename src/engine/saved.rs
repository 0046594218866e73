//! Saved engines: plain data, read back without trust.
//!
//! # Design
//!
//! [`Engine::save`](super::Engine::save) writes chunks and lists as words ([`bulk`]), and the few other values as a JSON object,
//! which [`Fields`] reads: every value is asked for by name and type, and what is missing, of another type or out of range is a
//! [`StateError`] with its path. An engine checks what belongs together (lengths, list membership),
//! and `verify` the rest, so that damaged bytes never become an engine.
//!
//! # Units
//!
//! As the values of the engines. Words of maps are numbers, lowest bit first.
//!
//! # Source
//!
//! A form of this crate; nothing that a kernel writes.

pub mod bulk;

use serde_json::{json, Map, Value};

use super::Stats;
use crate::error::StateError;
use crate::units::Bytes;

/// No counter is larger: one can go on counting without wrapping.
const MAX_COUNT: u64 = 1 << 62;
/// Most chunks that a saved engine may ever have made.
pub const MAX_CHUNKS: u32 = 1 << 24;

/// The fields of an object, and where it is.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which is at `path`.
    pub fn new(value: &'a Value, path: impl Into<String>) -> Result<Self, StateError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            _ => Err(StateError::new(path, "is no object")),
        }
    }

    /// Where field `name` is.
    pub fn path_of(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// An error at field `name`.
    pub fn error(&self, name: &str, message: impl Into<String>) -> StateError {
        StateError::new(self.path_of(name), message)
    }

    /// The error that the value of field `name` makes no sense.
    pub fn bad(&self, name: &str) -> StateError {
        let mut value = self.map.get(name).map_or("nothing".into(), Value::to_string);
        if value.chars().count() > 60 {
            value = value.chars().take(60).chain("...".chars()).collect();
        }
        self.error(name, format!("{value} makes no sense here"))
    }

    /// An error at field `name` unless `holds`.
    pub fn check(&self, holds: bool, name: &str) -> Result<(), StateError> {
        if holds {
            Ok(())
        } else {
            Err(self.bad(name))
        }
    }

    /// Any value.
    pub fn value(&self, name: &str) -> Result<&'a Value, StateError> {
        self.map.get(name).ok_or_else(|| self.bad(name))
    }

    /// An unsigned number.
    pub fn number(&self, name: &str) -> Result<u64, StateError> {
        self.value(name)?.as_u64().ok_or_else(|| self.bad(name))
    }

    /// An unsigned number up to `limit`.
    pub fn number_to(&self, name: &str, limit: u64) -> Result<u64, StateError> {
        let number = self.number(name)?;
        self.check(number <= limit, name)?;
        Ok(number)
    }

    /// An unsigned number of 32 bits.
    pub fn small(&self, name: &str) -> Result<u32, StateError> {
        u32::try_from(self.number(name)?).map_err(|_| self.bad(name))
    }

    /// A number from `-limit` to `limit`.
    pub fn signed_to(&self, name: &str, limit: i64) -> Result<i64, StateError> {
        let number = self.value(name)?.as_i64().filter(|number| (-limit..=limit).contains(number));
        number.ok_or_else(|| self.bad(name))
    }

    /// A flag.
    pub fn flag(&self, name: &str) -> Result<bool, StateError> {
        self.value(name)?.as_bool().ok_or_else(|| self.bad(name))
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<&'a str, StateError> {
        self.value(name)?.as_str().ok_or_else(|| self.bad(name))
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Fields<'a>, StateError> {
        Fields::new(self.value(name)?, self.path_of(name))
    }

    /// An object, or null.
    pub fn optional(&self, name: &str) -> Result<Option<Fields<'a>>, StateError> {
        match self.value(name)? {
            Value::Null => Ok(None),
            _ => self.object(name).map(Some),
        }
    }

    /// A list.
    pub fn list(&self, name: &str) -> Result<&'a [Value], StateError> {
        self.value(name)?.as_array().map(Vec::as_slice).ok_or_else(|| self.bad(name))
    }

    /// A list of unsigned numbers, each of which may be null.
    pub fn optional_numbers(&self, name: &str) -> Result<Vec<Option<u64>>, StateError> {
        let read = |value: &Value| match value {
            Value::Null => Ok(None),
            _ => value.as_u64().map(Some).ok_or_else(|| self.bad(name)),
        };
        self.list(name)?.iter().map(read).collect()
    }

    /// How many chunks were ever made.
    pub fn chunks_created(&self, name: &str) -> Result<u32, StateError> {
        Ok(self.number_to(name, u64::from(MAX_CHUNKS))? as u32)
    }

    /// Lifetime counters.
    pub fn stats(&self, name: &str) -> Result<Stats, StateError> {
        let own = self.object(name)?;
        let count = |name: &str| own.number_to(name, MAX_COUNT);
        let chunks = |name: &str| own.chunks_created(name);
        Ok(Stats {
            nr_alloc: count("nr_alloc")?,
            nr_dealloc: count("nr_dealloc")?,
            nr_cur_alloc: count("nr_cur_alloc")?,
            nr_max_alloc: count("nr_max_alloc")?,
            nr_chunks: chunks("nr_chunks")?,
            nr_max_chunks: chunks("nr_max_chunks")?,
            min_alloc_size: Bytes(count("min_alloc_size")?),
            max_alloc_size: Bytes(count("max_alloc_size")?),
        })
    }
}

/// What [`Fields::stats`] reads.
pub fn stats(stats: &Stats) -> Value {
    json!({
        "nr_alloc": stats.nr_alloc,
        "nr_dealloc": stats.nr_dealloc,
        "nr_cur_alloc": stats.nr_cur_alloc,
        "nr_max_alloc": stats.nr_max_alloc,
        "nr_chunks": stats.nr_chunks,
        "nr_max_chunks": stats.nr_max_chunks,
        "min_alloc_size": stats.min_alloc_size.0,
        "max_alloc_size": stats.max_alloc_size.0,
    })
}
