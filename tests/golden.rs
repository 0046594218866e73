//! Golden files of the clone on the engine they name, whole state, every invariant checked; and
//! on the naive model.
#![cfg(feature = "testing")]

use std::fs;
use std::path::{Path, PathBuf};

use percpu::testing::golden::{run_file, run_file_with, Options, Report};
use rayon::prelude::*;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");

fn files_below(path: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, out);
        } else if path.to_string_lossy().ends_with(".jsonl.gz") {
            out.push(path);
        }
    }
    out.sort();
}

fn run(dir: &str, run_one: impl Fn(&Path) -> Result<Report, String> + Sync) -> Report {
    let mut files = Vec::new();
    files_below(&Path::new(DATA).join(dir), &mut files);
    let reports: Vec<_> = files.par_iter().map(|file| run_one(file).unwrap()).collect();
    let mut total = Report::default();
    reports.into_iter().for_each(|report| total.add(report));
    assert!(total.files > 0, "no files below {dir:?}");
    assert_eq!(total.differences, 0, "{}", total.shown.join("\n"));
    total
}

#[test]
fn every_file_of_the_clone() {
    let total = run("", |file| run_file(file, true));
    assert!(total.files >= 80 && total.states > 500, "{}", total.summary());
}

#[test]
fn the_naive_model_too() {
    for dir in ["linux-4.19", "linux-5.4", "linux-6.1", "linux-6.12"] {
        let naive = Options { naive: true, ..Options::default() };
        let total = run(dir, |file| run_file_with(file, &naive));
        assert_eq!(total.without_engine, 0, "{dir}");
    }
}
