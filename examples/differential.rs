//! Random operations on the engine and on the naive model: `differential OPERATIONS SEED`.

use std::process::ExitCode;

use percpu::testing::differential::run;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let [operations, seed] = numbers[..] else {
        eprintln!("usage: differential OPERATIONS SEED");
        return ExitCode::from(2);
    };
    let summary = run(operations, seed);
    for shown in &summary.shown {
        println!("{shown}");
    }
    println!(
        "differential: {} geometries, {} operations, {} differences",
        summary.geometries, summary.operations, summary.differences
    );
    ExitCode::from(u8::from(summary.differences > 0 || summary.operations == 0))
}
