//! Runs every golden file below a directory: `make golden GOLDEN=DIR`.
//!
//! `--verify` checks every invariant after every operation; `--naive` runs the slow
//! implementation instead of the engine; `--table FILE` writes the figures into a document.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use percpu::testing::golden::{run_file_with, Options, Report};
use percpu::testing::tables::{split_arguments, write_between};
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

/// Figures by directory, as a table.
fn table(reports: &[(String, Report)]) -> String {
    let mut rows = BTreeMap::new();
    for (directory, report) in reports {
        rows.entry(directory).or_insert_with(Report::default).add(report.clone());
    }
    let mut out = String::from("| directory | files | operations | whole states | differences | without an engine |\n");
    out += "|---|---|---|---|---|---|\n";
    for (directory, r) in rows {
        let Report { files, operations, states, differences, without_engine, .. } = r;
        out += &format!("| {directory} | {files} | {operations} | {states} | {differences} | {without_engine} |\n");
    }
    out
}

fn main() -> ExitCode {
    let (document, args) = split_arguments("--table");
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    let options = Options { verify: flag("--verify"), naive: flag("--naive"), ..Options::default() };
    let mut files = Vec::new();
    for dir in args.iter().filter(|arg| !arg.starts_with("--")) {
        if let Err(error) = files_below(Path::new(dir), &mut files) {
            eprintln!("golden: {dir}: {error}");
            return ExitCode::from(2);
        }
    }
    let run = |path: &PathBuf| {
        let directory = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        // A file that cannot be run is a difference; the others are run all the same.
        let unreadable = |error| Report { files: 1, differences: 1, shown: vec![error], ..Report::default() };
        (directory, run_file_with(path, &options).unwrap_or_else(unreadable))
    };
    let reports: Vec<(String, Report)> = files.par_iter().map(run).collect();
    let mut total = Report::default();
    reports.iter().for_each(|(_, report)| total.add(report.clone()));
    for shown in &total.shown {
        println!("{shown}");
    }
    if let Some(document) = document {
        let text = format!("{}\n`{}`\n", table(&reports), total.summary());
        if let Err(error) = write_between(&document, "golden", &text) {
            eprintln!("golden: {error}");
            return ExitCode::from(2);
        }
    }
    println!("{}", total.summary());
    ExitCode::from(u8::from(total.differences + total.without_engine > 0 || total.files == 0))
}
