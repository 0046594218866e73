//! The whole state of an engine in the form of the golden files.

use serde_json::{json, Map, Value};

use crate::block::Block;
use crate::chunk::Role;
use crate::engine::{ChunkView, Engine, Older};
use crate::request::ChunkId;
use crate::variant::Generation;

/// Bytes of a bit in the golden files.
const GRANULE: u64 = 4;

/// A bit string as in the golden files: two hexadecimal digits a byte, trailing zero bytes left
/// out.
fn hex(words: &[u64]) -> String {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A chunk's name in the golden files.
pub fn chunk_name(id: ChunkId) -> Value {
    if id.is_reserved() {
        json!("R")
    } else {
        json!(id.0)
    }
}

fn old_block(b: &Block) -> Value {
    json!([b.contig_hint, b.contig_hint_start, b.left_free, b.right_free, b.first_free])
}

fn new_block(b: &Block) -> Value {
    json!([
        b.scan_hint,
        b.scan_hint_start,
        b.contig_hint,
        b.contig_hint_start,
        b.left_free,
        b.right_free,
        b.first_free,
        b.nr_bits
    ])
}

fn chunk(engine: &dyn Engine, generation: Generation, id: ChunkId, slot: i64, pos: i64) -> Value {
    let view = engine.chunk(id).expect("a listed chunk exists");
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.into(), value);
    put("id", chunk_name(id));
    put("slot", json!(slot));
    put("pos", json!(pos));
    put("nr_alloc", json!(view.nr_alloc));
    put("max_alloc_size", json!(view.max_alloc_size.0));
    put("immutable", json!(u8::from(view.role != Role::Dynamic)));
    put("nr_populated", json!(view.nr_populated.0));
    put("populated", json!(hex(&view.populated)));
    match view.older {
        Some(older) => early(&view, older, &mut out),
        None => linux(generation, &view, &mut out),
    }
    Value::Object(out)
}

/// What the generations before 4.14 keep, under its names.
fn early(view: &ChunkView<'_>, older: Older, out: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| out.insert(key.into(), value);
    match older {
        Older::AreaMap { contig_hint, first_free, map_alloc, has_reserved } => {
            let map = view.area_map.as_deref().unwrap_or_default();
            put("free_size", json!(view.free_bytes.0));
            put("contig_hint", json!(contig_hint.0));
            put("first_free", json!(first_free));
            put("has_reserved", json!(u8::from(has_reserved)));
            put("map_used", json!(map.len().saturating_sub(1)));
            put("map_alloc", json!(map_alloc));
            put("map", json!(map));
        }
        Older::RfcV1 { contig_hint, contig_hint_start, first_free_block, has_reserved } => {
            put("free_bits", json!(view.free_bytes.0 / GRANULE));
            put("contig_hint", json!(contig_hint.0));
            put("contig_hint_start", json!(contig_hint_start.0));
            put("first_free_block", json!(first_free_block));
            put("has_reserved", json!(u8::from(has_reserved)));
            put("nr_pages", json!(view.nr_pages.0));
            put("nr_empty_pop_pages", json!(view.nr_empty_pop_pages));
            put("alloc_map", json!(hex(&view.alloc_map)));
            put("bound_map", json!(view.bound_map.as_deref().map(hex)));
            put("md", view.blocks.as_deref().unwrap_or_default().iter().map(old_block).collect());
        }
        // Its states have a form of their own: `state_2008`.
        Older::CpuAlloc { .. } => {}
    }
}

fn linux(generation: Generation, view: &ChunkView<'_>, out: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| out.insert(key.into(), value);
    let hints = view.hints.expect("a bitmap engine has hints");
    put("free_bytes", json!(view.free_bytes.0));
    put("start_offset", json!(view.start_offset.0));
    put("end_offset", json!(view.end_offset.0));
    put("nr_pages", json!(view.nr_pages.0));
    put("nr_empty_pop_pages", json!(view.nr_empty_pop_pages));
    put("alloc_map", json!(hex(&view.alloc_map)));
    put("bound_map", json!(view.bound_map.as_deref().map(hex)));
    let old = generation == Generation::Linux414;
    let blocks = view.blocks.as_deref().unwrap_or_default();
    put("md", blocks.iter().map(if old { old_block } else { new_block }).collect());
    if old {
        put("contig_bits", json!(hints.contig_hint));
        put("contig_bits_start", json!(hints.contig_hint_start));
        put("first_bit", json!(hints.first_free));
    } else {
        put("chunk_md", new_block(&hints));
    }
    if let Some(isolated) = view.isolated {
        put("isolated", json!(u8::from(isolated)));
    }
}

/// The state object of the golden files.
pub fn state(engine: &dyn Engine) -> Value {
    state_as(engine, engine.generation())
}

/// The state object in the form of a generation, which need not be the engine's own.
pub fn state_as(engine: &dyn Engine, generation: Generation) -> Value {
    let stats = engine.stats();
    let totals = engine.totals();
    let mut chunks = Vec::new();
    if engine.chunk(ChunkId::RESERVED).is_some() {
        chunks.push(chunk(engine, generation, ChunkId::RESERVED, -1, -1));
    }
    for (slot, list) in engine.slots().iter().enumerate() {
        chunks.extend(list.iter().enumerate().map(|(pos, id)| chunk(engine, generation, *id, slot as i64, pos as i64)));
    }
    let mut out = json!({
        "nr_slots": engine.slot_numbers().nr_slots,
        "nr_empty_pop_pages": totals.nr_empty_pop_pages,
        "pending": u8::from(engine.balance_pending()),
        "atomic_failed": u8::from(totals.atomic_failed),
        "backing_pages": engine.backend().backing_pages,
        "stats": {
            "nr_alloc": stats.nr_alloc,
            "nr_dealloc": stats.nr_dealloc,
            "nr_cur_alloc": stats.nr_cur_alloc,
            "nr_max_alloc": stats.nr_max_alloc,
            "nr_chunks": stats.nr_chunks,
            "nr_max_chunks": stats.nr_max_chunks,
            "min_alloc_size": stats.min_alloc_size.0,
            "max_alloc_size": stats.max_alloc_size.0,
        },
        "chunks": chunks,
    });
    if let (Some(populated), Some(out)) = (totals.nr_populated, out.as_object_mut()) {
        out.insert("nr_populated".into(), json!(populated));
    }
    out
}

/// The state object of the golden files of `cpu_alloc-2008`; null for any other engine.
pub fn state_2008(engine: &dyn Engine) -> Value {
    let view = engine.chunk(ChunkId(0));
    match view.as_ref().map(|view| (view, view.older)) {
        Some((view, Some(Older::CpuAlloc { nr_units, first_free, cpu_bytes }))) => json!({
            "nr_units": nr_units,
            "first_free": first_free,
            "cpu_bytes": cpu_bytes,
            "map": hex(&view.alloc_map),
        }),
        _ => Value::Null,
    }
}
