//! Every behaviour flag matters: inverted, it makes golden files differ.
//!
//! A flag that survives would be one whose value no recording shows to be right.
#![cfg(feature = "testing")]

use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use percpu::testing::golden::{run_file_with, Options};
use percpu::variant::{RuleInfo, Rules};
use rayon::prelude::*;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");

/// The recordings of each generation, and its rules.
const GENERATIONS: [(&str, &[&str], Rules); 3] = [
    ("linux-4.14", &["linux-4.19"], Rules::LINUX_4_14),
    ("linux-5.2", &["linux-5.4"], Rules::LINUX_5_2),
    ("linux-5.14", &["linux-6.1", "linux-6.12"], Rules::LINUX_5_14),
];

/// Flags that make no difference in one generation, so that no recording can show their value.
///
/// Without scan hints the hints of blocks are exact, also the better aligned of two equal runs. What
/// a bounded search reports is a maximal run of its block, and recording one of those again changes
/// nothing; and the search never gets as far as the map's end.
const WITHOUT_EFFECT: [(&str, &str); 1] = [("linux-4.14", "bounded_search")];

/// Traces of these directories, smallest first, so that most flags die soon. Generated runs are
/// left out: combinations that no kernel has might not come to an end of them.
fn traces(dirs: &[&str]) -> Vec<PathBuf> {
    let mut files: Vec<_> = dirs
        .iter()
        .flat_map(|dir| fs::read_dir(Path::new(DATA).join(dir)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.ends_with(".jsonl.gz") && !name.starts_with("layout-") && !name.starts_with("digest-")
        })
        .collect();
    files.sort_by_key(|path| (fs::metadata(path).unwrap().len(), path.clone()));
    files
}

/// The first file that shows the flag's value to be right. A panic shows it too: the rules were
/// not made for each other.
fn killed_by(flag: &RuleInfo, value: bool, rules: Rules, files: &[PathBuf]) -> Option<String> {
    let rules = rules.with(flag.name, !value).unwrap();
    let options = Options { rules: Some(rules), stop_at_difference: true, ..Options::default() };
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().find_map(|path| match catch_unwind(AssertUnwindSafe(|| run_file_with(path, &options).unwrap())) {
        Ok(report) if report.differences == 0 => None,
        Ok(report) => Some(format!("{}: {}", name(path), report.shown.first().cloned().unwrap_or_default())),
        Err(_) => Some(format!("{}: panic", name(path))),
    })
}

#[test]
fn no_flag_survives_inversion() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let pairs: Vec<_> = (0..3).flat_map(|column| Rules::TABLE.iter().map(move |flag| (column, flag))).collect();
    let results: Vec<_> = pairs
        .into_par_iter()
        .map(|(column, flag)| {
            let (generation, dirs, rules) = GENERATIONS[column];
            (generation, flag.name, killed_by(flag, flag.values[column], rules, &traces(dirs)))
        })
        .collect();
    std::panic::set_hook(quiet);
    for (generation, flag, killer) in &results {
        let killer: String = killer.as_deref().unwrap_or("SURVIVES").chars().take(150).collect();
        println!("{generation:10} {flag:20} {killer}");
    }
    let survivors: Vec<_> = results.iter().filter(|(.., killer)| killer.is_none()).map(|(g, f, _)| (*g, *f)).collect();
    assert_eq!(survivors, WITHOUT_EFFECT, "inverted flags that no golden file notices");
}
