//! Runs every golden file below a directory: `make golden GOLDEN=DIR`.
//!
//! `--verify` checks every invariant after every operation; `--naive` runs the slow
//! implementation instead of the engine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use percpu::testing::golden::{run_file_with, Options, Report};
use rayon::prelude::*;

/// Every `*.jsonl.gz` below `path`, sorted.
fn files_below(path: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_file() {
        out.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_dir() || path.to_string_lossy().ends_with(".jsonl.gz") {
            files_below(&path, out)?;
        }
    }
    out.sort();
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    let options = Options { verify: flag("--verify"), naive: flag("--naive"), ..Options::default() };
    let mut files = Vec::new();
    for dir in args.iter().filter(|arg| !arg.starts_with("--")) {
        if let Err(error) = files_below(Path::new(dir), &mut files) {
            eprintln!("golden: {dir}: {error}");
            return ExitCode::from(2);
        }
    }
    let mut total = Report::default();
    for result in files.par_iter().map(|path| run_file_with(path, &options)).collect::<Vec<_>>() {
        match result {
            Ok(report) => total.add(report),
            Err(error) => {
                eprintln!("golden: {error}");
                return ExitCode::from(2);
            }
        }
    }
    for shown in &total.shown {
        println!("{shown}");
    }
    println!("{}", total.summary());
    ExitCode::from(u8::from(total.differences + total.without_engine > 0 || total.files == 0))
}
