//! Replays golden files and compares everything that they record.
//!
//! # Design
//!
//! One runner for all generations with chunks, and `golden_2008` for the one without. A line is an operation and what the kernel's
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

use super::dump::{chunk_name, state_as};
use super::golden_2008;
use super::golden_layout::{first_chunk_of_header, preset_of, run_case, run_init, run_question};
use super::json::{differences, read_lines};
use super::naive::Naive;
use crate::address::AddressMap;
use crate::backend::{BackendEvent, Supply};
use crate::engine::{self, Engine, Setup};
use crate::layout::FirstChunk;
use crate::request::{ChunkId, Outcome, Reason, Request, Sleep};
use crate::stats_text::{PercpuStats, StatsSizes};
use crate::units::Bytes;
use crate::variant::{Generation, Preset, Rules};

/// Differences shown of one file.
pub(super) const SHOWN: usize = 8;

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

/// How a golden file is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Check every invariant after every operation.
    pub verify: bool,
    /// Run the slow implementation instead of the engine.
    pub naive: bool,
    /// Behaviour flags instead of those of the generation: shows that a flag matters.
    pub rules: Option<Rules>,
    /// Leave a trace at its first difference.
    pub stop_at_difference: bool,
}

/// Runs one golden file. `verify` also checks every invariant after every operation.
pub fn run_file(path: &Path, verify: bool) -> Result<Report, String> {
    run_file_with(path, &Options { verify, ..Options::default() })
}

/// Runs one golden file.
pub fn run_file_with(path: &Path, options: &Options) -> Result<Report, String> {
    let lines = read_lines(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (header, lines) = lines.split_first().ok_or_else(|| format!("{}: empty", path.display()))?;
    let directory = header["generation"].as_str().unwrap_or_default();
    let preset = preset_of(directory);
    let mut report = Report { files: 1, ..Report::default() };
    let name = format!("{directory}/{}", header["name"].as_str().unwrap_or_default());
    match (header["kind"].as_str(), preset) {
        (Some("trace"), Ok(preset)) => {
            let mut runner = Runner::new(preset, header, options)?;
            run_lines(&name, lines, &mut report, options, |line, report| runner.line(line, report));
        }
        (Some("trace-2008"), Ok(preset)) => {
            let init = lines.first().ok_or_else(|| format!("{name}: no set-up line"))?;
            let mut runner = golden_2008::Runner::new(preset.generation, header, init, options.verify)?;
            run_lines(&name, lines, &mut report, options, |line, report| runner.line(line, report));
        }
        (Some(kind @ ("layout-build" | "layout-setup")), Ok(_)) => {
            run_lines(&name, lines, &mut report, options, |line, report| {
                report.operations += 1;
                run_case(directory, kind, header, line)
            });
        }
        _ => report.without_engine = 1,
    }
    Ok(report)
}

/// Runs every line and notes what differs.
fn run_lines(
    name: &str,
    lines: &[Value],
    report: &mut Report,
    options: &Options,
    mut run: impl FnMut(&Value, &mut Report) -> Vec<String>,
) {
    for (index, line) in lines.iter().enumerate() {
        let found = run(line, report);
        if !found.is_empty() {
            report.differences += 1;
            if report.shown.len() < SHOWN {
                report.shown.push(format!("{name} line {}: {}", index + 2, found.join("; ")));
            }
            if options.stop_at_difference {
                break;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Live {
    chunk: ChunkId,
    off: Bytes,
}

struct Runner {
    header: Value,
    first_chunk: FirstChunk,
    engine: Box<dyn Engine>,
    /// What every allocation got, freed or not: questions are asked of both.
    places: HashMap<u64, Live>,
    objects: HashMap<u64, Live>,
    generation: Generation,
    run: Option<GeneratedRun>,
    verify: bool,
}

impl Runner {
    fn new(preset: &Preset, header: &Value, options: &Options) -> Result<Self, String> {
        let (mut setup, first_chunk) = setup_of(preset, header)?;
        setup.rules = options.rules.unwrap_or(setup.rules);
        let mut engine: Box<dyn Engine> = if options.naive {
            Box::new(Naive::new(&setup).ok_or("the slow implementation knows no other rules")?)
        } else {
            engine::new(preset.generation, &setup).map_err(|error| error.to_string())?
        };
        engine.backend_mut().journal.enabled = true;
        Ok(Self {
            header: header.clone(),
            first_chunk,
            engine,
            places: HashMap::new(),
            objects: HashMap::new(),
            generation: preset.generation,
            run: header.get("run").map(GeneratedRun::new),
            verify: options.verify,
        })
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
            "init" => out = run_init(&self.header, line),
            "s" => differences("state", &line[1], &state_as(&*self.engine, self.generation), SHOWN, &mut out),
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
            "S" => {
                let info = &self.first_chunk.info;
                let sizes = StatsSizes {
                    unit_size: info.unit_size,
                    static_size: info.static_size,
                    reserved_size: info.reserved_size,
                    dyn_size: info.dyn_size,
                    atom_size: info.atom_size,
                    alloc_size: info.alloc_size,
                };
                let text =
                    PercpuStats::of_engine(&*self.engine, sizes).map(|stats| stats.to_text()).unwrap_or_default();
                differences("statistics", &line[1], &text.lines().collect(), SHOWN, &mut out);
            }
            "q" => self.question(line, &mut out),
            "Q" => out = run_question(&self.first_chunk, line),
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
                let id = line[1].as_u64().unwrap_or_default();
                self.objects.insert(id, Live { chunk, off });
                self.places.insert(id, Live { chunk, off });
                [chunk_name(chunk), json!(off.0)]
            }
            Outcome::Failed(Reason::Illegal) => [Value::Null, json!("illegal")],
            Outcome::Failed(reason) => [Value::Null, json!(reason.text())],
        };
        self.answer(line, &got, 5, out);
    }

    /// A question about the address of an object: `["q", id, cpu, delta, addr, static, canon, phys]`.
    fn question(&self, line: &Value, out: &mut Vec<String>) {
        let map = AddressMap::from_first_chunk(&self.first_chunk, 0);
        let live = line[1].as_u64().and_then(|id| self.places.get(&id));
        let chunk = live.and_then(|live| self.engine.chunk(live.chunk));
        let unit = line[2].as_u64().and_then(|cpu| map.unit_offset(cpu as u32));
        let (Some(live), Some(chunk), Some(unit)) = (live, chunk, unit) else {
            return out.push("no such object, chunk or CPU".into());
        };
        let delta = line[3].as_i64().unwrap_or_default();
        let addr = (chunk.base_addr + live.off.0 + unit).wrapping_add_signed(delta);
        let place = map.static_address(addr);
        let got = json!([
            "q",
            line[1],
            line[2],
            line[3],
            addr,
            u8::from(place.is_some()),
            place.map(|place| place.canonical - map.base_addr - map.unit_offset(map.boot_cpu).unwrap_or(0)),
            map.physical(addr).name(),
        ]);
        differences("question", line, &got, SHOWN, out);
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

/// The set-up that a trace file's header asks for, computed by the layout.
fn setup_of(preset: &Preset, header: &Value) -> Result<(Setup, FirstChunk), String> {
    let result = first_chunk_of_header(header).map_err(|error| error.to_string())?;
    let first_chunk = result.first_chunk.ok_or("the set-up fails")?;
    let rules = preset.generation.rules().unwrap_or(Rules::LINUX_5_14);
    let mut setup = Setup::of_first_chunk(preset, rules, &first_chunk).map_err(|error| error.to_string())?;
    setup.async_enabled = header["config"]["early"] != 1;
    Ok((setup, first_chunk))
}
