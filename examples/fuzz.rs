//! Random operations for some time, from a fresh seed: `fuzz SECONDS [SEED]`.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use percpu::testing::differential::run_cases;

/// Cases between two looks at the clock.
const ROUND: u64 = 200;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let Some(Ok(seconds)) = args.next() else {
        eprintln!("usage: fuzz SECONDS [SEED]");
        return ExitCode::from(2);
    };
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
    let seed = args.next().and_then(Result::ok).unwrap_or_else(fresh);
    println!("fuzz: seed {seed}");
    let begun = Instant::now();
    let (mut operations, mut differences, mut round) = (0, 0, 0);
    while begun.elapsed() < Duration::from_secs(seconds) && differences == 0 {
        let summary = run_cases(seed, round * ROUND, (round + 1) * ROUND);
        operations += summary.operations;
        differences += summary.differences;
        for shown in &summary.shown {
            println!("{shown}");
        }
        round += 1;
    }
    println!("fuzz: {operations} operations in {} s, {differences} differences", begun.elapsed().as_secs());
    ExitCode::from(u8::from(differences > 0))
}
