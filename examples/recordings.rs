//! Replays every recording below a directory: `make recordings RECORDINGS=DIR`.
//!
//! Files `initial/*.json.gz` there are states before the first request; they are computed and compared. With
//! anything predicted wrongly the exit code is 1.
//!
//! With `--table FILE` the table between the markers of FILE is replaced.

use std::path::Path;
use std::process::ExitCode;

use percpu::testing::recordings::{
    find_initial, find_runs, initial_file_difference, initial_summary, run, summary, table,
};
use rayon::prelude::*;

const BEGIN: &str = "<!-- recordings -->";
const END: &str = "<!-- /recordings -->";

fn main() -> ExitCode {
    match replay_all() {
        Ok(equal) => ExitCode::from(u8::from(!equal)),
        Err(error) => {
            eprintln!("recordings: {error}");
            ExitCode::from(2)
        }
    }
}

fn replay_all() -> Result<bool, String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let file = args.iter().position(|arg| arg == "--table").and_then(|at| args.get(at + 1));
    let dir = args.first().filter(|arg| !arg.starts_with("--")).ok_or("which directory?")?;
    let dirs = find_runs(Path::new(dir)).map_err(|error| format!("{dir}: {error}"))?;
    let runs = dirs.par_iter().map(|dir| run(dir)).collect::<Result<Vec<_>, _>>()?;
    if runs.is_empty() {
        return Err(format!("{dir}: no recording"));
    }
    let rows = table(&runs);
    print!("{rows}");
    for shown in runs.iter().flat_map(|run| &run.shown) {
        println!("{shown}");
    }
    if let Some(file) = file {
        write_table(file, &format!("{rows}\n`{}`\n", summary(&runs)))?;
    }
    let files = find_initial(Path::new(dir)).map_err(|error| format!("{dir}: {error}"))?;
    let found = files.par_iter().map(|file| initial_file_difference(file)).collect::<Result<Vec<_>, _>>()?;
    found.iter().flatten().for_each(|difference| println!("{difference}"));
    let equal = found.iter().filter(|difference| difference.is_none()).count();
    println!("{}", initial_summary(found.len(), equal));
    println!("{}", summary(&runs));
    let diverged = runs.iter().any(|run| run.totals.diverged > 0);
    let states = runs.iter().any(|run| run.states_equal < run.states);
    let bases = runs.iter().any(|run| run.bases_predicted < run.bases);
    Ok(!diverged && !states && !bases && equal == found.len())
}

/// Replaces what stands between the markers.
fn write_table(file: &str, rows: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let marker = |marker: &str| text.find(marker).ok_or_else(|| format!("{file}: no {marker}"));
    let (begin, end) = (marker(BEGIN)? + BEGIN.len(), marker(END)?);
    let text = format!("{}\n\n{rows}\n{}", &text[..begin], &text[end..]);
    std::fs::write(file, text).map_err(|error| format!("{file}: {error}"))
}
