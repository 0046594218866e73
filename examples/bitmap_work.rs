//! The work of `linux-4.14` by block size, counted place by place: `bitmap_work RECORDINGS`.
//!
//! Runs the second, slow implementation on published workloads at a small scale and on the recordings below a
//! directory, and prints a Markdown table: work of one request and of one free with blocks of 1, 2, 4, 8 and 16 KiB.
//! `make published` puts it into `docs/published-comparison.md`.

use std::path::Path;
use std::process::ExitCode;

use percpu::allocator::Placement;
use percpu::cost::Costs;
use percpu::engine::{Engine, Setup};
use percpu::error::RequestError;
use percpu::geometry::Geometry;
use percpu::request::{ChunkId, Outcome, Request};
use percpu::testing::naive::Naive;
use percpu::trace::read_trace;
use percpu::units::Bytes;
use percpu::variant::{Preset, Rules};
use percpu::workload::{of_trace, run, Options, Phase, Recipe, Target, Value};
use rayon::prelude::*;

const BLOCKS: [u64; 5] = [1024, 2048, 4096, 8192, 16384];
/// Recordings with more steps take too long.
const MAX_STEPS: usize = 40_000;

/// The slow implementation as a target; a pointer is chunk and offset.
struct Slow(Naive);

impl Target for Slow {
    fn alloc(&mut self, request: &Request) -> Placement {
        let outcome = self.0.alloc(request);
        self.worker();
        let ptr = match outcome {
            Outcome::Placed { chunk, off } => u64::from(chunk.0 + 1) << 32 | off.0,
            Outcome::Failed(_) => 0,
        };
        Placement { ptr, outcome }
    }

    fn free(&mut self, ptr: u64, size: Bytes) -> Result<(), RequestError> {
        let chunk = ChunkId((ptr >> 32) as u32 - 1);
        self.0.free(chunk, Bytes(ptr & u64::from(u32::MAX)), Some(size))?;
        self.worker();
        Ok(())
    }

    fn balance(&mut self) {
        self.0.balance();
    }

    fn page_size(&self) -> Bytes {
        self.0.geometry().page_size()
    }

    fn unit_off(&self, chunk: ChunkId, off: Bytes) -> Bytes {
        self.0.chunk_unit_off(chunk) + off
    }

    fn nr_chunks(&self) -> u32 {
        self.0.stats().nr_chunks
    }

    fn chunks_created(&self) -> u32 {
        self.0.chunks_created()
    }

    fn nr_populated(&self) -> u32 {
        let backend = self.0.backend();
        (backend.backing_pages / backend.nr_cpus()) as u32
    }

    fn costs(&self) -> Option<Costs> {
        self.0.costs()
    }
}

impl Slow {
    fn new(unit_size: u64, block_size: u64) -> Self {
        let sizes = [4096, 4, block_size, unit_size].map(Bytes);
        let geometry = Geometry::new(sizes[0], sizes[1], sizes[2], sizes[3], 4).expect("a geometry that can be");
        let preset = Preset::by_release("4.14").expect("a preset");
        Self(Naive::new(&Setup::bare(preset, Rules::LINUX_4_14, geometry)).expect("rules of a generation"))
    }

    /// The balance worker runs right after what scheduled it.
    fn worker(&mut self) {
        if self.0.balance_pending() {
            self.0.balance();
        }
    }
}

/// A workload, and the bytes of a unit that it runs with.
type Job = (String, Recipe, u64);

fn published() -> Vec<Job> {
    let number = |name, value| (name, Value::Number(value));
    let make = |name: &str, given: Vec<(&'static str, Value)>| Recipe::new(name, given).expect("parameters in range");
    let mut jobs = Vec::new();
    for (size, n) in [(4, 40_000), (64, 4_000), (1024, 400)] {
        for (order, unit_size) in [("in-order", 64 << 10), ("alternate", 64 << 10), ("in-order", 256 << 10)] {
            let free = ("free", Value::Word(order.into()));
            let given = vec![number("n", n), number("size", size), free];
            jobs.push((format!("{size} bytes, {order}"), make("objects", given), unit_size));
        }
        let given = vec![number("n", n / 2), number("size", size)];
        jobs.push((format!("{size} bytes, half full"), make("fill_level", given), 64 << 10));
    }
    jobs.push(("4 bytes at 8".into(), make("four_at_eight", vec![number("n", 8_000)]), 64 << 10));
    jobs.push(("vmalloc test".into(), make("vmalloc_test", vec![number("n", 2_000)]), 256 << 10));
    jobs
}

fn recorded(directory: &Path) -> Result<Vec<Job>, String> {
    let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", directory.display());
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .map_err(|error| shown(&error))?
        .filter_map(|entry| Some(entry.ok()?.path().join("trace.txt.gz")))
        .filter(|path| path.exists())
        .collect();
    paths.sort();
    let mut jobs = Vec::new();
    for path in paths {
        let bytes = std::fs::read(&path).map_err(|error| shown(&error))?;
        let trace = read_trace(&bytes).map_err(|error| shown(&error))?;
        let recipe = of_trace(&trace).map_err(|error| shown(&error))?;
        if trace.len() <= MAX_STEPS {
            let name = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            jobs.push((name.into_owned(), recipe, 256 << 10));
        }
    }
    Ok(jobs)
}

/// Words read, blocks visited and blocks refreshed of one operation.
fn each(costs: Costs, operations: u64) -> [f64; 3] {
    [costs.words_read, costs.blocks_visited, costs.block_refreshes].map(|n| n as f64 / operations.max(1) as f64)
}

/// What one run shows: most chunks, work of a request, of a free.
fn figures(total: &Phase) -> (u32, [f64; 3], [f64; 3]) {
    let all = total.costs.unwrap_or_default();
    let requests = total.alloc_costs.unwrap_or_default();
    let asked = total.allocs + total.fails();
    (total.peak.nr_chunks, each(requests, asked), each(all - requests, total.frees))
}

/// Three digits.
fn short(value: f64) -> String {
    let digits = if value >= 100.0 { 0 } else { usize::from(value < 100.0) + usize::from(value < 10.0) };
    format!("{value:.digits$}")
}

fn row((name, _, unit_size): &Job, runs: &[Phase]) -> String {
    let figures: Vec<_> = runs.iter().map(figures).collect();
    type Row = (u32, [f64; 3], [f64; 3]);
    let series = |value: &dyn Fn(&Row) -> String| figures.iter().map(value).collect::<Vec<_>>().join(" / ");
    let mut cells = vec![name.clone(), format!("{}", unit_size >> 10), series(&|run| run.0.to_string())];
    cells.extend((0..3).map(|i| series(&|run| short(run.1[i]))));
    cells.extend((0..2).map(|i| series(&|run| short(run.2[i]))));
    format!("| {} |", cells.join(" | "))
}

fn main() -> ExitCode {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "tests/data/recordings".into());
    let jobs = match recorded(Path::new(&directory)) {
        Ok(recorded) => published().into_iter().chain(recorded).collect::<Vec<_>>(),
        Err(error) => {
            eprintln!("bitmap_work: {error}");
            return ExitCode::from(2);
        }
    };
    let points: Vec<_> = jobs.iter().flat_map(|job| BLOCKS.map(|block_size| (job, block_size))).collect();
    let runs: Vec<Phase> = points
        .par_iter()
        .map(|((_, recipe, unit_size), block_size)| {
            let options = Options { split: true, ..Options::default() };
            let found = run(recipe, &mut Slow::new(*unit_size, *block_size), &options, &mut || true);
            found.expect("a workload of live objects").total()
        })
        .collect();
    println!(
        "| workload | unit, KiB | chunks | request: words read | blocks visited | blocks refreshed | free: words read | \
         blocks visited |"
    );
    println!("|---|--:|---|---|---|---|---|---|");
    jobs.iter().zip(runs.chunks(BLOCKS.len())).for_each(|(job, runs)| println!("{}", row(job, runs)));
    ExitCode::SUCCESS
}
