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
use percpu::testing::tables::{split_arguments, write_between};
use rayon::iter::Either;
use rayon::prelude::*;

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
    let (document, args) = split_arguments("--table");
    let dir = args.first().ok_or("which directory?")?;
    let dirs = find_runs(Path::new(dir)).map_err(|error| format!("{dir}: {error}"))?;
    if dirs.is_empty() {
        return Err(format!("{dir}: no recording"));
    }
    // A recording that cannot be read is an error; the others are replayed all the same.
    let (runs, unreadable): (Vec<_>, Vec<_>) =
        dirs.par_iter().map(|dir| run(dir)).partition_map(|result| match result {
            Ok(run) => Either::Left(run),
            Err(error) => Either::Right(error),
        });
    let rows = table(&runs);
    print!("{rows}");
    for shown in runs.iter().flat_map(|run| &run.shown) {
        println!("{shown}");
    }
    unreadable.iter().for_each(|error| println!("{error}"));
    if let Some(document) = document {
        write_between(&document, "recordings", &format!("{rows}\n`{}`\n", summary(&runs)))?;
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
    Ok(!diverged && !states && !bases && equal == found.len() && unreadable.is_empty())
}
