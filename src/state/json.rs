//! States as JSON, in the format of the recordings.
//!
//! # Design
//!
//! Values are taken out of the parsed object one by one; what is left is kept as it is. A
//! missing or malformed value is an error with its path. Bit maps are hexadecimal, byte 0
//! first; `populated` has one character a page; rows of hints have the columns that
//! `md_fields` names, in any order.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use serde_json::{json, Map, Value};

use super::{ChunkState, Hints, State, StatsCounters, MD_FIELDS};
use crate::error::StateError;

/// Largest file that is read after decompression, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// The JSON of a state file or snapshot, compressed or not.
pub fn parse(bytes: &[u8]) -> Result<Value, StateError> {
    let mut text = Vec::new();
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        let read = MultiGzDecoder::new(bytes).take(MAX_BYTES).read_to_end(&mut text);
        read.map_err(|error| StateError::new("file", format!("cannot decompress: {error}")))?;
        &text[..]
    } else {
        bytes
    };
    if bytes.len() as u64 >= MAX_BYTES {
        return Err(StateError::new("file", format!("more than {MAX_BYTES} bytes")));
    }
    serde_json::from_slice(bytes).map_err(|error| StateError::new("file", error.to_string()))
}

impl State {
    /// Reads a state file, compressed or not, and validates it.
    pub fn from_json(bytes: &[u8]) -> Result<State, StateError> {
        Self::from_value(parse(bytes)?)
    }

    /// Reads the content of a state file, and validates it.
    pub fn from_value(value: Value) -> Result<State, StateError> {
        let state = from_value(value)?;
        state.validate()?;
        Ok(state)
    }

    /// The state in the format of the state files.
    pub fn to_json(&self) -> String {
        to_value(self).to_string()
    }

    /// The same, not yet text.
    pub(crate) fn to_value(&self) -> Value {
        to_value(self)
    }

    /// Reads the content of a state file, unchecked.
    pub(crate) fn from_unchecked(value: Value) -> Result<State, StateError> {
        from_value(value)
    }
}

/// An object whose values are taken out one by one.
struct Object {
    map: Map<String, Value>,
    path: String,
}

impl Object {
    fn new(value: Value, path: impl Into<String>) -> Result<Self, StateError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            _ => Err(StateError::new(path, "must be an object")),
        }
    }

    fn path(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_string(),
            path => format!("{path}.{key}"),
        }
    }

    /// The value of a key; null counts as absent.
    fn optional(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn value(&mut self, key: &str) -> Result<Value, StateError> {
        self.optional(key).ok_or_else(|| StateError::new(self.path(key), "is missing"))
    }

    fn object(&mut self, key: &str) -> Result<Object, StateError> {
        Object::new(self.value(key)?, self.path(key))
    }

    fn array(&mut self, key: &str) -> Result<Vec<Value>, StateError> {
        array(self.value(key)?, &self.path(key))
    }

    fn string(&mut self, key: &str) -> Result<String, StateError> {
        match self.value(key)? {
            Value::String(text) => Ok(text),
            _ => Err(StateError::new(self.path(key), "must be a string")),
        }
    }

    fn int<T: TryFrom<i128>>(&mut self, key: &str) -> Result<T, StateError> {
        int(&self.value(key)?, &self.path(key))
    }

    fn optional_int<T: TryFrom<i128>>(&mut self, key: &str) -> Result<Option<T>, StateError> {
        let value = self.optional(key);
        value.map(|value| int(&value, &self.path(key))).transpose()
    }

    /// `true`, `false`, 1 or 0.
    fn flag(&mut self, key: &str) -> Result<bool, StateError> {
        match self.value(key)? {
            Value::Bool(flag) => Ok(flag),
            value => match value.as_u64() {
                Some(0) => Ok(false),
                Some(1) => Ok(true),
                _ => Err(StateError::new(self.path(key), format!("{value}: must be 0 or 1"))),
            },
        }
    }

    /// A list of numbers; empty if absent.
    fn ints<T: TryFrom<i128>>(&mut self, key: &str) -> Result<Vec<T>, StateError> {
        let path = self.path(key);
        let Some(value) = self.optional(key) else { return Ok(Vec::new()) };
        let items = array(value, &path)?;
        items.iter().enumerate().map(|(i, item)| int(item, &format!("{path}[{i}]"))).collect()
    }
}

fn array(value: Value, path: &str) -> Result<Vec<Value>, StateError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(StateError::new(path, "must be a list")),
    }
}

fn int<T: TryFrom<i128>>(value: &Value, path: &str) -> Result<T, StateError> {
    let wide = value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from));
    wide.and_then(|wide| T::try_from(wide).ok())
        .ok_or_else(|| StateError::new(path, format!("{}: not an integer in range", short(&value.to_string()))))
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

fn from_value(value: Value) -> Result<State, StateError> {
    let mut top = Object::new(value, "")?;
    let order = md_order(top.array("md_fields")?)?;
    let mut g = top.object("globals")?;
    let unit_pages: u32 = g.int("pcpu_unit_pages")?;
    let unit_size: u64 = g.int("pcpu_unit_size")?;
    let page_size = unit_size / u64::from(unit_pages.max(1));
    let min_alloc_size = g.optional_int("min_alloc_size")?.unwrap_or(4);
    let block_size = g.optional_int("block_size")?.unwrap_or(page_size);
    let stats = match g.optional("pcpu_stats") {
        Some(value) => Some(stats_from(Object::new(value, g.path("pcpu_stats"))?)?),
        None => None,
    };
    let unit_map: Vec<i64> = g.ints("pcpu_unit_map")?;
    // A CPU without a unit holds UINT_MAX.
    let no_unit = |unit: i64| u32::try_from(unit).ok().filter(|&unit| unit != u32::MAX);
    let mut state = State {
        unit_pages,
        unit_size,
        min_alloc_size,
        block_size,
        nr_units: g.int("pcpu_nr_units")?,
        atom_size: g.optional_int("pcpu_atom_size")?,
        nr_slots: g.int("pcpu_nr_slots")?,
        free_slot: g.int("pcpu_free_slot")?,
        sidelined_slot: g.optional_int("pcpu_sidelined_slot")?,
        to_depopulate_slot: g.optional_int("pcpu_to_depopulate_slot")?,
        low_unit_cpu: g.optional_int("pcpu_low_unit_cpu")?,
        high_unit_cpu: g.optional_int("pcpu_high_unit_cpu")?,
        group_offsets: g.ints("pcpu_group_offsets")?,
        group_sizes: g.ints("pcpu_group_sizes")?,
        unit_map: unit_map.into_iter().map(no_unit).collect(),
        unit_offsets: g.ints("pcpu_unit_offsets")?,
        base_addr: g.int("pcpu_base_addr")?,
        per_cpu_start: g.int("per_cpu_start")?,
        static_size: g.int("static_size")?,
        nr_cpu_ids: g.optional_int("nr_cpu_ids")?,
        nr_empty_pop_pages: g.int("pcpu_nr_empty_pop_pages")?,
        nr_populated: g.int("pcpu_nr_populated")?,
        atomic_failed: g.flag("pcpu_atomic_alloc_failed")?,
        async_enabled: g.flag("pcpu_async_enabled")?,
        balance_pending: g.flag("balance_work_pending")?,
        stats,
        first_chunk: g.optional_int("first_chunk_index")?,
        reserved_chunk: g.optional_int("reserved_chunk_index")?,
        slots: Vec::new(),
        chunks: Vec::new(),
        other_globals: Map::new(),
        other: Map::new(),
    };
    // The chunks cannot be read without these.
    state.validate_sizes()?;
    if let Some(groups) = g.optional_int::<usize>("pcpu_nr_groups")? {
        if groups != state.group_offsets.len() {
            let given = state.group_offsets.len();
            return Err(StateError::new("globals.pcpu_group_offsets", format!("{given} entries for {groups} groups")));
        }
    }
    for (slot, list) in top.array("slots")?.into_iter().enumerate() {
        let path = format!("slots[{slot}]");
        let list = array(list, &path)?;
        let indices = list.iter().enumerate().map(|(i, index)| int(index, &format!("{path}[{i}]")));
        state.slots.push(indices.collect::<Result<_, _>>()?);
    }
    let chunks = top.array("chunks")?;
    let mut lists = HashMap::new();
    for (slot, list) in state.slots.iter().enumerate() {
        lists.extend(list.iter().map(|&index| (index, slot)));
    }
    for (index, chunk) in chunks.into_iter().enumerate() {
        let mut chunk = Object::new(chunk, format!("chunks[{index}]"))?;
        let given: Option<usize> = chunk.optional_int("slot")?;
        let found = lists.get(&index).copied();
        if given != found {
            return Err(StateError::new(chunk.path("slot"), format!("{given:?}, but the lists have it in {found:?}")));
        }
        let chunk = chunk_from(chunk, &state, &order)?;
        state.chunks.push(chunk);
    }
    state.other_globals = g.map;
    state.other = top.map;
    Ok(state)
}

/// For each column of the file its place in [`MD_FIELDS`].
fn md_order(names: Vec<Value>) -> Result<[usize; 8], StateError> {
    let wrong = |message: String| StateError::new("md_fields", message);
    if names.len() != 8 {
        return Err(wrong(format!("{} columns, must be 8", names.len())));
    }
    let mut order = [0; 8];
    for (column, name) in names.iter().enumerate() {
        let place = MD_FIELDS.iter().position(|field| name == field);
        order[column] = place.ok_or_else(|| wrong(format!("no such column: {}", short(&name.to_string()))))?;
        if order[..column].contains(&order[column]) {
            return Err(wrong(format!("{name} is there twice")));
        }
    }
    Ok(order)
}

fn stats_from(mut stats: Object) -> Result<StatsCounters, StateError> {
    Ok(StatsCounters {
        nr_alloc: stats.int("nr_alloc")?,
        nr_dealloc: stats.int("nr_dealloc")?,
        nr_cur_alloc: stats.int("nr_cur_alloc")?,
        nr_max_alloc: stats.int("nr_max_alloc")?,
        nr_chunks: stats.int("nr_chunks")?,
        nr_max_chunks: stats.int("nr_max_chunks")?,
        min_alloc_size: stats.int("min_alloc_size")?,
        max_alloc_size: stats.int("max_alloc_size")?,
    })
}

fn chunk_from(mut c: Object, state: &State, order: &[usize; 8]) -> Result<ChunkState, StateError> {
    let mut chunk = ChunkState {
        base_addr: c.int("base_addr")?,
        free_bytes: c.int("free_bytes")?,
        start_offset: c.int("start_offset")?,
        end_offset: c.int("end_offset")?,
        nr_pages: c.int("nr_pages")?,
        nr_populated: c.int("nr_populated")?,
        nr_empty_pop_pages: c.int("nr_empty_pop_pages")?,
        immutable: c.flag("immutable")?,
        isolated: c.flag("isolated")?,
        nr_alloc: c.optional_int("nr_alloc")?,
        max_alloc_size: c.optional_int("max_alloc_size")?,
        ..ChunkState::default()
    };
    let mut own = c.object("chunk_md")?;
    for (place, name) in MD_FIELDS.iter().enumerate() {
        chunk.chunk_md[place] = own.int(name)?;
    }
    let path = c.path("md_blocks");
    for (row, value) in c.array("md_blocks")?.into_iter().enumerate() {
        let path = format!("{path}[{row}]");
        let columns = array(value, &path)?;
        if columns.len() != 8 {
            return Err(StateError::new(path, format!("{} columns, must be 8", columns.len())));
        }
        let mut hints: Hints = [0; 8];
        for (value, &place) in columns.iter().zip(order) {
            hints[place] = int(value, &format!("{path}.{}", MD_FIELDS[place]))?;
        }
        chunk.md_blocks.push(hints);
    }
    let bits = state.nr_bits(&chunk);
    chunk.alloc_map = words_from_hex(&c.string("alloc_map")?, bits, &c.path("alloc_map"))?;
    chunk.bound_map = words_from_hex(&c.string("bound_map")?, bits + 1, &c.path("bound_map"))?;
    chunk.populated = words_from_flags(&c.string("populated")?, chunk.nr_pages, &c.path("populated"))?;
    chunk.other = c.map;
    Ok(chunk)
}

fn words_from_hex(hex: &str, bits: usize, path: &str) -> Result<Vec<u64>, StateError> {
    if hex.len() != bits.div_ceil(8) * 2 {
        return Err(StateError::new(path, format!("{} digits for {bits} bits", hex.len())));
    }
    let mut words = vec![0u64; bits.div_ceil(64)];
    for (i, pair) in hex.as_bytes().chunks_exact(2).enumerate() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
            return Err(StateError::new(path, format!("byte {i} is not hexadecimal")));
        };
        words[i / 8] |= u64::from(high << 4 | low) << (i % 8 * 8);
    }
    Ok(words)
}

fn words_from_flags(text: &str, pages: u32, path: &str) -> Result<Vec<u64>, StateError> {
    if text.len() != pages as usize {
        return Err(StateError::new(path, format!("{} characters for {pages} pages", text.len())));
    }
    let mut words = vec![0u64; text.len().div_ceil(64)];
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'0' => {}
            b'1' => words[i / 64] |= 1 << (i % 64),
            _ => return Err(StateError::new(path, format!("page {i} is neither 0 nor 1"))),
        }
    }
    Ok(words)
}

fn to_value(state: &State) -> Value {
    let mut g = state.other_globals.clone();
    let mut put = |key: &str, value: Value| {
        g.insert(key.to_string(), value);
    };
    put("pcpu_unit_pages", json!(state.unit_pages));
    put("pcpu_unit_size", json!(state.unit_size));
    if state.min_alloc_size != 4 {
        put("min_alloc_size", json!(state.min_alloc_size));
    }
    if state.block_size != state.page_size() {
        put("block_size", json!(state.block_size));
    }
    put("pcpu_nr_units", json!(state.nr_units));
    put("pcpu_nr_slots", json!(state.nr_slots));
    put("pcpu_free_slot", json!(state.free_slot));
    let optional = [
        ("pcpu_sidelined_slot", state.sidelined_slot),
        ("pcpu_to_depopulate_slot", state.to_depopulate_slot),
        ("pcpu_low_unit_cpu", state.low_unit_cpu),
        ("pcpu_high_unit_cpu", state.high_unit_cpu),
        ("nr_cpu_ids", state.nr_cpu_ids),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            put(key, json!(value));
        }
    }
    if let Some(atom_size) = state.atom_size {
        put("pcpu_atom_size", json!(atom_size));
    }
    if !state.group_offsets.is_empty() {
        put("pcpu_nr_groups", json!(state.group_offsets.len()));
        put("pcpu_group_offsets", json!(state.group_offsets));
        put("pcpu_group_sizes", json!(state.group_sizes));
    }
    if !state.unit_map.is_empty() {
        let units: Vec<u32> = state.unit_map.iter().map(|unit| unit.unwrap_or(u32::MAX)).collect();
        put("pcpu_unit_map", json!(units));
    }
    put("pcpu_unit_offsets", json!(state.unit_offsets));
    put("pcpu_base_addr", json!(state.base_addr));
    put("per_cpu_start", json!(state.per_cpu_start));
    put("static_size", json!(state.static_size));
    put("pcpu_nr_empty_pop_pages", json!(state.nr_empty_pop_pages));
    put("pcpu_nr_populated", json!(state.nr_populated));
    put("pcpu_atomic_alloc_failed", json!(u8::from(state.atomic_failed)));
    put("pcpu_async_enabled", json!(u8::from(state.async_enabled)));
    put("balance_work_pending", json!(u8::from(state.balance_pending)));
    if let Some(s) = &state.stats {
        let stats = json!({
            "nr_alloc": s.nr_alloc, "nr_dealloc": s.nr_dealloc,
            "nr_cur_alloc": s.nr_cur_alloc, "nr_max_alloc": s.nr_max_alloc,
            "nr_chunks": s.nr_chunks, "nr_max_chunks": s.nr_max_chunks,
            "min_alloc_size": s.min_alloc_size, "max_alloc_size": s.max_alloc_size,
        });
        put("pcpu_stats", stats);
    }
    put("first_chunk_index", json!(state.first_chunk));
    put("reserved_chunk_index", json!(state.reserved_chunk));
    let slots = state.slot_table();
    let chunks: Vec<Value> = state.chunks.iter().zip(slots).map(|(chunk, slot)| chunk_to(chunk, state, slot)).collect();
    let mut top = state.other.clone();
    top.insert("md_fields".into(), json!(MD_FIELDS));
    top.insert("globals".into(), Value::Object(g));
    top.insert("slots".into(), json!(state.slots));
    top.insert("chunks".into(), Value::Array(chunks));
    Value::Object(top)
}

fn chunk_to(chunk: &ChunkState, state: &State, slot: Option<usize>) -> Value {
    let mut map = chunk.other.clone();
    let own: Map<String, Value> =
        MD_FIELDS.iter().zip(chunk.chunk_md).map(|(name, value)| (name.to_string(), json!(value))).collect();
    let bits = state.nr_bits(chunk);
    let values = [
        ("slot", json!(slot)),
        ("free_bytes", json!(chunk.free_bytes)),
        ("base_addr", json!(chunk.base_addr)),
        ("immutable", json!(chunk.immutable)),
        ("isolated", json!(chunk.isolated)),
        ("start_offset", json!(chunk.start_offset)),
        ("end_offset", json!(chunk.end_offset)),
        ("nr_pages", json!(chunk.nr_pages)),
        ("nr_populated", json!(chunk.nr_populated)),
        ("nr_empty_pop_pages", json!(chunk.nr_empty_pop_pages)),
        ("chunk_md", Value::Object(own)),
        ("alloc_map", json!(hex_from_words(&chunk.alloc_map, bits))),
        ("bound_map", json!(hex_from_words(&chunk.bound_map, bits + 1))),
        ("md_blocks", json!(chunk.md_blocks)),
        ("populated", json!(flags_from_words(&chunk.populated, chunk.nr_pages as usize))),
    ];
    map.extend(values.map(|(key, value)| (key.to_string(), value)));
    if let Some(nr_alloc) = chunk.nr_alloc {
        map.insert("nr_alloc".into(), json!(nr_alloc));
    }
    if let Some(size) = chunk.max_alloc_size {
        map.insert("max_alloc_size".into(), json!(size));
    }
    Value::Object(map)
}

fn hex_from_words(words: &[u64], bits: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).take(bits.div_ceil(8));
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn flags_from_words(words: &[u64], pages: usize) -> String {
    (0..pages).map(|page| if words[page / 64] >> (page % 64) & 1 == 1 { '1' } else { '0' }).collect()
}
