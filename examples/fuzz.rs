//! Random operations without a fuzzer.
//!
//! ```text
//! fuzz SECONDS [SEED]
//!     the engine against the slow model in free geometries, then operations, damaged traces and layouts, each so long
//! fuzz operations small|kernel NUMBER FILE [SEED]
//!     operations up to NUMBER in all; goes on from FILE, which it writes every few seconds
//! fuzz layouts NUMBER [SEED]
//!     so many layouts
//! fuzz replay NUMBER [SEED]
//!     so many damaged traces
//! fuzz shorten small|kernel|replay FILE
//!     the input of a failure with pieces left out, and the first step at which anything differs
//! fuzz figures FILE...
//!     what such files say, for people
//! ```
//!
//! The input of a failure goes to `fuzz/artifacts/`; beside the seeds of its target it is replayed by `cargo test`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use percpu::testing::operations::{self, Finding, Scale, Tally};
use percpu::testing::{damage, differential, layouts};
use percpu::variant::Generation;
use serde_json::{json, Value};

/// Cases between two looks at the clock.
const ROUND: u64 = 200;
/// Between two writes of the file that a run goes on from.
const WRITE_EVERY: Duration = Duration::from_secs(10);

type Failed = String;

fn main() -> ExitCode {
    if env::var_os("RUST_BACKTRACE").is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let seed = |text: Option<&&str>| text.and_then(|text| text.parse().ok()).unwrap_or_else(fresh_seed);
    let result = match words[..] {
        ["operations", scale, number, file, ..] => match (scale_of(scale), number.parse()) {
            (Some(scale), Ok(number)) => keep_on(scale, number, Path::new(file), words.get(4)),
            _ => return usage(),
        },
        ["layouts", number, ..] => match number.parse() {
            Ok(number) => many_layouts(seed(words.get(2)), |done, _| done < number),
            Err(_) => return usage(),
        },
        ["replay", number, ..] => match number.parse() {
            Ok(number) => many_damages(seed(words.get(2)), |done| done < number),
            Err(_) => return usage(),
        },
        ["shorten", "replay", file] => match fs::read(file).map(|bytes| damage::shortened(0, bytes, String::new())) {
            Ok(finding) if finding.what.is_empty() => {
                println!("fuzz: {file}: nothing fails");
                Ok(())
            }
            Ok(finding) => Err(keep("replay", 0, &finding)),
            Err(_) => return usage(),
        },
        ["shorten", scale, file] => match (scale_of(scale), fs::read(file)) {
            (Some(scale), Ok(bytes)) => match operations::shortened(0, bytes, String::new(), scale) {
                finding if finding.what.is_empty() => {
                    println!("fuzz: {file}: nothing fails");
                    Ok(())
                }
                finding => Err(keep("operations", 0, &finding)),
            },
            _ => return usage(),
        },
        ["figures", ..] => words[1..].iter().try_for_each(|file| figures(Path::new(file))),
        [seconds, ..] => match seconds.parse() {
            Ok(seconds) => for_seconds(Duration::from_secs(seconds), seed(words.get(1))),
            Err(_) => return usage(),
        },
        [] => return usage(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            println!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: fuzz SECONDS [SEED] | fuzz operations small|kernel NUMBER FILE [SEED] | fuzz layouts NUMBER [SEED] | fuzz replay NUMBER [SEED] | fuzz figures FILE..."
    );
    ExitCode::from(2)
}

fn scale_of(text: &str) -> Option<Scale> {
    match text {
        "small" => Some(Scale::Small),
        "kernel" => Some(Scale::Kernel),
        _ => None,
    }
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64)
}

/// Writes the input of a failure down and says where it is.
fn keep(target: &str, seed: u64, finding: &Finding) -> Failed {
    let directory = Path::new("fuzz/artifacts").join(target);
    let file = directory.join(format!("{seed}-{}", finding.index));
    let kept = fs::create_dir_all(&directory).and_then(|()| fs::write(&file, &finding.bytes));
    let kept = kept.map_or_else(|error| error.to_string(), |()| file.display().to_string());
    format!("fuzz: {target}, seed {seed}, case {}: {}\n{kept}", finding.index, finding.what)
}

fn for_seconds(time: Duration, seed: u64) -> Result<(), Failed> {
    println!("fuzz: seed {seed}");
    let begun = Instant::now();
    let (mut operations, mut round) = (0, 0);
    while begun.elapsed() < time {
        let summary = differential::run_cases(seed, round * ROUND, (round + 1) * ROUND);
        operations += summary.operations;
        if summary.differences > 0 {
            return Err(summary.shown.join("\n"));
        }
        round += 1;
    }
    println!("fuzz: {operations} operations in {} s, 0 differences", begun.elapsed().as_secs());
    for (name, scale) in [("small", Scale::Small), ("kernel", Scale::Kernel)] {
        let (begun, mut tally) = (Instant::now(), Tally::default());
        while begun.elapsed() < time {
            let (more, finding) = operations::run_cases(seed, tally.cases, tally.cases + ROUND, scale);
            tally += more;
            if let Some(finding) = finding {
                return Err(keep("operations", seed, &finding));
            }
        }
        println!("fuzz: {name}: {} operations in {} s, 0 findings", tally.operations, begun.elapsed().as_secs());
    }
    let begun = Instant::now();
    many_damages(seed, |_| begun.elapsed() < time)?;
    let begun = Instant::now();
    many_layouts(seed, |_, _| begun.elapsed() < time)
}

fn many_layouts(seed: u64, go_on: impl Fn(u64, u64) -> bool) -> Result<(), Failed> {
    let (mut done, mut built) = (0, 0);
    while go_on(done, built) {
        let (more, finding) = layouts::run_cases(seed, done, done + ROUND);
        built += more;
        done += ROUND;
        if let Some(finding) = finding {
            return Err(keep("layouts", seed, &finding));
        }
    }
    println!("fuzz: {done} layouts, {built} of them built, 0 findings");
    Ok(())
}

fn many_damages(seed: u64, go_on: impl Fn(u64) -> bool) -> Result<(), Failed> {
    let mut tally = damage::Tally::default();
    while go_on(tally.cases) {
        let (more, finding) = damage::run_cases(seed, tally.cases, tally.cases + ROUND / 10);
        tally += more;
        if let Some(finding) = finding {
            return Err(keep("replay", seed, &finding));
        }
    }
    println!(
        "fuzz: {} damaged traces of {} lines, {} of them diverged, 0 findings",
        tally.cases, tally.lines, tally.diverged
    );
    Ok(())
}

/// What a run goes on from.
struct Kept {
    seed: u64,
    next: u64,
    seconds: f64,
    tally: Tally,
}

impl Kept {
    fn read(file: &Path, seed: Option<&&str>) -> Result<Self, Failed> {
        let fresh = || seed.and_then(|text| text.parse().ok()).unwrap_or_else(fresh_seed);
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(_) => return Ok(Self { seed: fresh(), next: 0, seconds: 0.0, tally: Tally::default() }),
        };
        let value: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        let number = |name: &str| value[name].as_u64().ok_or_else(|| format!("{}: no {name}", file.display()));
        let mut generations = [0; 6];
        for (count, value) in generations.iter_mut().zip(value["generations"].as_array().into_iter().flatten()) {
            *count = value.as_u64().unwrap_or(0);
        }
        Ok(Self {
            seed: number("seed")?,
            next: number("next")?,
            seconds: value["seconds"].as_f64().unwrap_or(0.0),
            tally: Tally {
                cases: number("cases")?,
                operations: number("operations")?,
                placed: number("placed")?,
                failed: number("failed")?,
                freed: number("freed")?,
                refused: number("refused")?,
                naive: number("naive")?,
                batched: number("batched")?,
                resumed: number("resumed")?,
                generations,
            },
        })
    }

    fn write(&self, file: &Path, scale: Scale, findings: u64) -> Result<(), Failed> {
        let t = &self.tally;
        let text = json!({
            "scale": format!("{scale:?}").to_lowercase(),
            "seed": self.seed, "next": self.next, "seconds": self.seconds.round(), "findings": findings,
            "cases": t.cases, "operations": t.operations, "placed": t.placed, "failed": t.failed, "freed": t.freed,
            "refused": t.refused, "naive": t.naive, "batched": t.batched, "resumed": t.resumed,
            "generations": t.generations,
        });
        let new = file.with_extension("new");
        fs::write(&new, format!("{text}\n"))
            .and_then(|()| fs::rename(&new, file))
            .map_err(|error| format!("{}: {error}", file.display()))
    }
}

/// A number in groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

fn figures(file: &Path) -> Result<(), Failed> {
    let kept = Kept::read(file, None)?;
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let t = &kept.tally;
    let (scale, findings) = (value["scale"].as_str().unwrap_or_default(), value["findings"].as_u64().unwrap_or(1));
    let maps = if scale == "small" { "maps of blocks of 8 to 32 bits" } else { "maps of a kernel's sizes" };
    println!("{maps}: {} operations in {} lists, {findings} findings", grouped(t.operations), grouped(t.cases));
    println!("  {:>14} beside the slow model", grouped(t.naive));
    println!("  {:>14} done as batches too", grouped(t.batched));
    println!("  {:>14} beside an allocator restored from a snapshot", grouped(t.resumed));
    println!("  {:>14} requests failed, {} wild frees were refused", grouped(t.failed), grouped(t.refused));
    for (generation, count) in Generation::ALL.iter().zip(t.generations) {
        println!("  {:>14} on {generation}", grouped(count));
    }
    println!("  seed {}, lists 0 to {}, {:.0} s", kept.seed, kept.next, kept.seconds);
    Ok(())
}

fn keep_on(scale: Scale, number: u64, file: &Path, seed: Option<&&str>) -> Result<(), Failed> {
    let mut kept = Kept::read(file, seed)?;
    let mut looked = Instant::now();
    let mut written = Instant::now();
    while kept.tally.operations < number {
        let (more, finding) = operations::run_cases(kept.seed, kept.next, kept.next + ROUND, scale);
        kept.tally += more;
        kept.next += ROUND;
        kept.seconds += looked.elapsed().as_secs_f64();
        looked = Instant::now();
        if let Some(finding) = finding {
            kept.write(file, scale, 1)?;
            return Err(keep("operations", kept.seed, &finding));
        }
        if written.elapsed() >= WRITE_EVERY || kept.tally.operations >= number {
            kept.write(file, scale, 0)?;
            let t = &kept.tally;
            println!(
                "fuzz: {} operations in {} cases, {:.0} a second, 0 findings",
                t.operations,
                t.cases,
                t.operations as f64 / kept.seconds.max(1e-3)
            );
            written = Instant::now();
        }
    }
    Ok(())
}
