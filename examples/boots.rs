//! Recomputes boots: `boots LAYOUTS CORPUS`, either of which may be empty. Exits with 1 if any log differs.
//! `--table FILE` writes the outcome into a document.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::process::ExitCode;

use percpu::testing::boots::{public_boot, recorded_boot, Totals, Verdict};
use percpu::testing::tables::{split_arguments, write_between};
use serde_json::Value;

fn run(path: &str, recompute: fn(&Value) -> Verdict, totals: &mut Totals) -> io::Result<()> {
    for (index, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let entry: Value = serde_json::from_str(&line)?;
        let verdict = recompute(&entry);
        totals.add(&verdict);
        let name = format!("{path}:{}", index + 1);
        match verdict {
            Verdict::Recomputed => {}
            Verdict::Different(text) => println!("{name}: different: {text}"),
            Verdict::TooLittle(text) => println!("{name}: too little shown: {text}"),
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let (document, arguments) = split_arguments("--table");
    let mut totals = Totals::default();
    for (path, recompute) in arguments.iter().zip([recorded_boot as fn(&Value) -> Verdict, public_boot]) {
        if path.is_empty() {
            continue;
        }
        if let Err(error) = run(path, recompute, &mut totals) {
            eprintln!("{path}: {error}");
            return ExitCode::from(2);
        }
    }
    if let Some(document) = document {
        if let Err(error) = write_between(&document, "boots", &format!("`{}`", totals.line())) {
            eprintln!("boots: {error}");
            return ExitCode::from(2);
        }
    }
    println!("{}", totals.line());
    ExitCode::from(u8::from(totals.different > 0))
}
