//! Replays golden files and compares everything that they record.
//!
//! # Design
//!
//! One runner for all generations with chunks. A line is an operation and what the kernel's
//! own code answered: place or failure text, the pending flag, backend events and log lines.
//! State lines hold the complete state. After a difference the file goes on, so that one run
//! shows how far it reaches; the first differences are reported in full.
//!
//! # Source
//!
//! The description of the golden data (`tests/data/README.md`).

use std::collections::HashMap;
use std::path::Path;

use serde_json::{json, Value};

use super::dump::{chunk_name, state};
use super::json::{differences, read_lines};
use crate::backend::{Backend, BackendEvent, Supply};
use crate::engine::{BootChunks, BootRegion, Engine, Setup};
use crate::geometry::Geometry;
use crate::request::{ChunkId, Outcome, Reason, Request, Sleep};
use crate::units::{Bytes, Pages};
use crate::variant::Preset;

/// Differences shown of one file.
const SHOWN: usize = 8;

/// What a run over golden files has found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Files that were run.
    pub files: u64,
    /// Operations, set-ups and layout cases.
    pub operations: u64,
    /// Whole states compared.
    pub states: u64,
    /// Lines that differ.
    pub differences: u64,
    /// Files of generations without an engine.
    pub without_engine: u64,
    /// The first differences.
    pub shown: Vec<String>,
}

impl Report {
    /// Adds the figures of another run.
    pub fn add(&mut self, other: Report) {
        self.files += other.files;
        self.operations += other.operations;
        self.states += other.states;
        self.differences += other.differences;
        self.without_engine += other.without_engine;
        self.shown.extend(other.shown);
    }

    /// The closing line of `make golden`.
    pub fn summary(&self) -> String {
        format!(
            "golden: {} files, {} operations, {} states, {} differences, {} files without an engine",
            self.files, self.operations, self.states, self.differences, self.without_engine
        )
    }
}

/// The release whose preset reproduces a golden directory.
pub fn preset_of_directory(directory: &str) -> Option<&'static Preset> {
    let release = match directory {
        "cpu_alloc-2008" => "2008",
        "areamap-4.x" => "4.13",
        "rfc-v1" => "rfc-v1",
        _ => directory.strip_prefix("linux-")?,
    };
    Preset::by_release(release)
}

/// Runs one golden file. `verify` also checks every invariant after every operation.
pub fn run_file(path: &Path, verify: bool) -> Result<Report, String> {
    let lines = read_lines(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (header, lines) = lines.split_first().ok_or_else(|| format!("{}: empty", path.display()))?;
    let directory = header["generation"].as_str().unwrap_or_default();
    let preset = preset_of_directory(directory);
    let mut report = Report { files: 1, ..Report::default() };
    let name = format!("{directory}/{}", header["name"].as_str().unwrap_or_default());
    match (header["kind"].as_str(), preset) {
        (Some("trace"), Some(preset)) if preset.generation.rules().is_some() => {
            let mut runner = Runner::new(preset, header, &lines[0], verify)?;
            for (index, line) in lines.iter().enumerate() {
                let found = runner.line(line, &mut report);
                if !found.is_empty() {
                    report.differences += 1;
                    if report.shown.len() < SHOWN {
                        report.shown.push(format!("{name} line {}: {}", index + 2, found.join("; ")));
                    }
                }
            }
        }
        _ => report.without_engine = 1,
    }
    Ok(report)
}

struct Live {
    chunk: ChunkId,
    off: Bytes,
}

struct Runner {
    engine: Box<dyn Engine>,
    objects: HashMap<u64, Live>,
    run: Option<GeneratedRun>,
    verify: bool,
}

impl Runner {
    fn new(preset: &Preset, header: &Value, init: &Value, verify: bool) -> Result<Self, String> {
        let setup = setup_of(preset, header, &init[2])?;
        let mut engine: Box<dyn Engine> = Box::new(crate::engine::linux::Linux::new(&setup));
        engine.backend_mut().journal.enabled = true;
        Ok(Self { engine, objects: HashMap::new(), run: header.get("run").map(GeneratedRun::new), verify })
    }

    /// Runs one line and returns what differs.
    fn line(&mut self, line: &Value, report: &mut Report) -> Vec<String> {
        let mut out = Vec::new();
        let op = line[0].as_str().unwrap_or_default();
        match op {
            "s" => report.states += 1,
            _ => report.operations += 1,
        }
        if let Some(run) = self.run.as_mut().filter(|_| !matches!(op, "init" | "s" | "x")) {
            run.finish(&mut *self.engine);
        }
        let supply =
            || line[1].as_i64().map_or(Supply::ENDLESS, |n| u64::try_from(n).map_or(Supply::ENDLESS, Supply::of));
        match op {
            "init" => {}
            "s" => differences("state", &line[1], &state(&*self.engine), SHOWN, &mut out),
            "a" => self.alloc(line, &mut out),
            "f" => {
                if let Some(live) = line[1].as_u64().and_then(|id| self.objects.remove(&id)) {
                    if let Err(error) = self.engine.free(live.chunk, live.off, None) {
                        out.push(error.to_string());
                    }
                }
                self.answer(line, &[], 2, &mut out);
            }
            "b" | "B" => {
                let ran = op == "B" || self.engine.balance_pending();
                if ran {
                    self.engine.balance();
                }
                self.answer(line, &[json!(u8::from(ran))], 1, &mut out);
            }
            "F" => self.engine.backend_mut().page_supply = supply(),
            "M" => self.engine.backend_mut().map_supply = supply(),
            "V" => self.engine.backend_mut().chunk_supply = supply(),
            "L" => self.engine.enable_async(),
            "S" | "q" | "Q" => {}
            "x" => {
                let run = self.run.as_mut().expect("checkpoints come with a generated run");
                let got = run.checkpoint(&mut *self.engine);
                differences("checkpoint", line, &got, SHOWN, &mut out);
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

    fn alloc(&mut self, line: &Value, out: &mut Vec<String>) {
        let flags = line[4].as_str().unwrap_or_default();
        let request = Request {
            size: Bytes(line[2].as_u64().unwrap_or_default()),
            align: Bytes(line[3].as_u64().unwrap_or_default()),
            sleep: match (flags.contains('t'), flags.contains('n')) {
                (true, _) => Sleep::Never,
                (false, true) => Sleep::NoFs,
                (false, false) => Sleep::Full,
            },
            reserved: flags.contains('r'),
            nowarn: flags.contains('w'),
        };
        let got = match self.engine.alloc(&request) {
            Outcome::Placed { chunk, off } => {
                self.objects.insert(line[1].as_u64().unwrap_or_default(), Live { chunk, off });
                [chunk_name(chunk), json!(off.0)]
            }
            Outcome::Failed(Reason::Illegal) => [Value::Null, json!("illegal")],
            Outcome::Failed(reason) => [Value::Null, json!(reason.text())],
        };
        self.answer(line, &got, 5, out);
    }

    /// Compares the results that stand from index `at` on, the pending flag behind them, and the
    /// backend events and log lines behind that.
    fn answer(&mut self, line: &Value, results: &[Value], at: usize, out: &mut Vec<String>) {
        for (want, got) in line.as_array().into_iter().flatten().skip(at).zip(results) {
            if want != got {
                out.push(format!("wanted {want}, found {got}"));
            }
        }
        let from = at + results.len();
        let flag = json!(u8::from(self.engine.balance_pending()));
        if line[from] != flag {
            out.push(format!("pending: wanted {}, found {flag}", line[from]));
        }
        let journal = &mut self.engine.backend_mut().journal;
        let events: Vec<Value> = journal.events.drain(..).map(event).collect();
        let log: Vec<Value> = journal.log.drain(..).map(|(level, text)| json!(format!("<{level}>{text}"))).collect();
        for (key, got) in [("ev", events), ("log", log)] {
            let want = line.get(from + 1).and_then(|extra| extra.get(key)).cloned().unwrap_or(json!([]));
            differences(key, &want, &Value::Array(got), SHOWN, out);
        }
    }
}

fn event(event: BackendEvent) -> Value {
    match event {
        BackendEvent::New(c) => json!(["new", c.0]),
        BackendEvent::Del(c) => json!(["del", c.0]),
        BackendEvent::Map(c, p, q) => json!(["map", c.0, p, q]),
        BackendEvent::Unmap(c, p, q) => json!(["unmap", c.0, p, q]),
        BackendEvent::Unpopulated(c, p) => json!(["unpopulated", c.0, p]),
    }
}

/// The deterministic operations of a `digest-*` file.
struct GeneratedRun {
    random: u64,
    hash: u64,
    step: u64,
    ops: u64,
    size_bits: u64,
    every: u64,
    table: Vec<Option<Live>>,
    failures: u64,
    balances: u64,
    finished: bool,
}

impl GeneratedRun {
    fn new(run: &Value) -> Self {
        let number = |key: &str| run[key].as_u64().unwrap_or(1);
        Self {
            random: number("seed"),
            hash: 0xcbf2_9ce4_8422_2325,
            step: 0,
            ops: number("ops"),
            size_bits: number("size_bits"),
            every: number("every"),
            table: std::iter::repeat_with(|| None).take(number("slots") as usize).collect(),
            failures: 0,
            balances: 0,
            finished: false,
        }
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0100_0000_01b3);
    }

    fn one(&mut self, engine: &mut dyn Engine) {
        self.step += 1;
        let k = (self.next() % self.table.len() as u64) as usize;
        if let Some(live) = self.table[k].take() {
            engine.free(live.chunk, live.off, None).expect("the object is live");
            self.mix(3);
        } else {
            let bits = self.next() % self.size_bits;
            let size = 1 + self.next() % (1 << bits);
            let align = 1 << (self.next() % 8);
            let sleep = if self.next() % 16 == 0 { Sleep::Never } else { Sleep::Full };
            let request = Request { sleep, nowarn: true, ..Request::new(Bytes(size), Bytes(align)) };
            match engine.alloc(&request) {
                Outcome::Placed { chunk, off } => {
                    self.mix(u64::from(chunk.0) + 2);
                    self.mix(off.0);
                    self.table[k] = Some(Live { chunk, off });
                }
                Outcome::Failed(_) => {
                    self.failures += 1;
                    self.mix(0);
                    self.mix(0);
                }
            }
        }
        if engine.balance_pending() {
            engine.balance();
            self.balances += 1;
            self.mix(5);
        }
    }

    /// Goes on to the next checkpoint.
    fn checkpoint(&mut self, engine: &mut dyn Engine) -> Value {
        loop {
            self.one(engine);
            if self.step % self.every == 0 {
                break;
            }
        }
        let live = self.table.iter().flatten().count();
        let journal = &mut engine.backend_mut().journal;
        journal.events.clear();
        let value = json!([
            "x",
            self.step,
            format!("{:016x}", self.hash),
            live,
            self.failures,
            self.balances,
            engine.stats().nr_chunks,
            engine.totals().nr_empty_pop_pages,
            engine.backend().backing_pages,
            engine.chunks_created() - 1,
        ]);
        if self.step >= self.ops {
            self.finish(engine);
        }
        value
    }

    /// What is left of the steps, then frees everything in table order.
    fn finish(&mut self, engine: &mut dyn Engine) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        while self.step < self.ops {
            self.one(engine);
        }
        for live in self.table.iter_mut().filter_map(Option::take) {
            engine.free(live.chunk, live.off, None).expect("the object is live");
        }
        engine.backend_mut().journal.events.clear();
    }
}

fn setup_of(preset: &Preset, header: &Value, setup: &Value) -> Result<Setup, String> {
    let number = |value: &Value| value.as_u64().ok_or_else(|| format!("no number: {value}"));
    let config = &header["config"];
    let page = number(&header["page_size"])?;
    let geometry = Geometry::new(
        Bytes(page),
        Bytes(4),
        Bytes(page),
        Bytes(number(&setup["unit_size"])?),
        number(&setup["nr_units"])? as u32,
    )
    .map_err(|error| error.to_string())?;
    let base = number(&setup["base_addr"])?;
    let region = |region: &Value| -> Result<BootRegion, String> {
        Ok(BootRegion {
            base_addr: base + number(&region["base"])?,
            start_offset: Bytes(number(&region["start_offset"])?),
            size: Bytes(number(&region["free_bytes"])?),
        })
    };
    let first = region(&setup["first"])?;
    let reserved = if setup["reserved"].is_null() { None } else { Some(region(&setup["reserved"])?) };
    let size_sum = first.base_addr - base + first.start_offset.0 + first.size.0;
    let impossible = config["impossible_cpus"].as_array().map_or(0, Vec::len) as u32;
    let offsets = setup["group_offsets"].as_array().into_iter().flatten();
    let sizes = setup["group_sizes"].as_array().into_iter().flatten();
    let span = offsets.zip(sizes).map(|(o, s)| o.as_u64().unwrap_or(0) + s.as_u64().unwrap_or(0)).max().unwrap_or(0);
    let atom = number(&setup["atom_size"])?;
    let mut backend = Backend::new(number(&config["cpus"])? as u32 - impossible, page, atom, span);
    backend.contiguous = header["backend"] == "km";
    backend.unmap_nothing = preset.unmap_nothing;
    if config["first_chunk"] == "page" {
        backend.reserve_span(page, span);
    }
    Ok(Setup {
        geometry,
        rules: preset.generation.rules().ok_or("no rules")?,
        warn_atomic: preset.warn_atomic,
        async_enabled: config["early"] != 1,
        boot: Some(BootChunks { base_addr: base, first, reserved, nr_populated: Pages((size_sum / page) as u32) }),
        backend,
    })
}
