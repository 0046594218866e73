//! Golden files of cpu_alloc: no chunks, no worker, sized frees.
//!
//! Source: the description of the golden data, kind `trace-2008`.

use std::collections::HashMap;

use serde_json::{json, Value};

use super::dump::state_2008;
use super::golden::{Report, SHOWN};
use super::json::differences;
use crate::backend::Backend;
use crate::engine::{self, BootChunks, BootRegion, Engine, Setup};
use crate::geometry::Geometry;
use crate::request::{ChunkId, Outcome, Request};
use crate::units::{round_up, Bytes, Pages};
use crate::variant::{Generation, Rules};

/// Bytes of a unit of the proposal.
const UNIT: u64 = 4;

/// A file under way.
pub(super) struct Runner {
    engine: Box<dyn Engine>,
    objects: HashMap<u64, (ChunkId, Bytes)>,
    verify: bool,
}

impl Runner {
    pub(super) fn new(generation: Generation, header: &Value, init: &Value, verify: bool) -> Result<Self, String> {
        let number = |value: &Value| value.as_u64().ok_or_else(|| format!("no number: {value}"));
        let page = number(&header["page_size"])?;
        let size = number(&init[1])? * UNIT;
        let unit = Bytes(round_up(size, page));
        let geometry = Geometry::new(Bytes(page), Bytes(UNIT), Bytes(page), unit, 1).map_err(|e| e.to_string())?;
        let first = BootRegion { base_addr: 0, start_offset: Bytes(0), size: Bytes(size) };
        let nr_populated = Pages((unit.0 / page) as u32);
        let setup = Setup {
            geometry,
            rules: Rules::LINUX_5_14,
            warn_atomic: false,
            async_enabled: true,
            boot: Some(BootChunks { base_addr: 0, first, reserved: None, nr_populated }),
            backend: Backend::new(1, page, page, unit.0),
        };
        let mut engine = engine::new(generation, &setup).map_err(|error| error.to_string())?;
        engine.backend_mut().journal.enabled = true;
        Ok(Self { engine, objects: HashMap::new(), verify })
    }

    /// Runs one line and returns what differs.
    pub(super) fn line(&mut self, line: &Value, report: &mut Report) -> Vec<String> {
        let mut out = Vec::new();
        let number = |at: usize| line[at].as_u64().unwrap_or_default();
        let op = line[0].as_str().unwrap_or_default();
        match op {
            "s" => report.states += 1,
            _ => report.operations += 1,
        }
        match op {
            "init" => {}
            "s" => differences("state", &line[1], &state_2008(&*self.engine), SHOWN, &mut out),
            "a" => {
                let got = match self.engine.alloc(&Request::new(Bytes(number(2)), Bytes(number(3)))) {
                    Outcome::Failed(_) => Value::Null,
                    Outcome::Placed { chunk, off } => {
                        self.objects.insert(number(1), (chunk, off));
                        if chunk == ChunkId::ZERO_SIZE {
                            json!("zero")
                        } else {
                            json!(off.0)
                        }
                    }
                };
                let warned = !self.engine.backend_mut().journal.log.drain(..).as_slice().is_empty();
                differences("alloc", &json!([line[4], line[5]]), &json!([got, u8::from(warned)]), SHOWN, &mut out);
            }
            "f" => {
                // A refused free leaves the object; a free of nothing does nothing.
                let object = self.objects.get(&number(1)).copied();
                let result = object.map(|(chunk, off)| self.engine.free(chunk, off, Some(Bytes(number(2)))));
                let warned = matches!(result, Some(Err(_)));
                if !warned {
                    self.objects.remove(&number(1));
                }
                differences("free", &line[3], &json!(u8::from(warned)), SHOWN, &mut out);
            }
            other => out.push(format!("unknown operation {other:?}")),
        }
        if self.verify && op != "s" {
            if let Err(violation) = self.engine.verify() {
                out.push(violation.to_string());
            }
        }
        out
    }
}
