//! Follows every trace below a directory without its start state: `make follow RECORDINGS=DIR`.
//!
//! What follow knows is compared with what a naive reader knows and, where there is a state, with what is true. With
//! anything illegal or wrong the exit code is 1.

use std::path::Path;
use std::process::ExitCode;

use percpu::testing::following::{check, find_traces, summary, table};
use rayon::prelude::*;

fn main() -> ExitCode {
    match follow_all() {
        Ok(right) => ExitCode::from(u8::from(!right)),
        Err(error) => {
            eprintln!("follow: {error}");
            ExitCode::from(2)
        }
    }
}

fn follow_all() -> Result<bool, String> {
    let dir = std::env::args().nth(1).ok_or("which directory?")?;
    let files = find_traces(Path::new(&dir)).map_err(|error| format!("{dir}: {error}"))?;
    if files.is_empty() {
        return Err(format!("{dir}: no trace"));
    }
    let all = files.par_iter().map(|file| check(file)).collect::<Result<Vec<_>, _>>()?;
    print!("{}", table(&all));
    all.iter().flat_map(|one| &one.wrong).for_each(|text| println!("{text}"));
    println!("{}", summary(&all));
    Ok(all.iter().all(|one| one.wrong.is_empty()))
}
