//! Speed of the trace readers on one core: megabytes of text a second, by format.
//!
//! `cargo bench --bench trace -- FILE...` reads each file (plain, gzip or zstd) into memory, repeats its text up to
//! 64 MB, and measures the parsing alone; without files it takes the recordings of the clone. The best of five rounds
//! counts: other work on the machine only ever adds. The second figure is by the time that the core spent on this
//! process, which other processes disturb less. For instructions a byte, run the binary under
//! `valgrind --tool=callgrind` with `--rounds 1` and `--rounds 2`, both
//! with `--copies 1`: the difference is one parse of the text.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use percpu::trace::{ReadOptions, TraceReader};

const TEXT: usize = 64 << 20;
const ROUNDS: usize = 5;
const DEFAULT: [&str; 7] = [
    "recordings/drain-612-4cpu/trace.txt.gz",
    "recordings/drain-612-4cpu/trace-ext.txt.gz",
    "recordings/netns-612-3+1/trace.txt.gz",
    "recordings/cg-own-2+2/trace.txt.gz",
    "captures/ftrace-hashed.txt.gz",
    "captures/perf-script.txt.gz",
    "captures/bpftrace.txt.gz",
];

fn plain(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = Vec::new();
    match bytes.as_slice() {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut text),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd::stream::read::Decoder::new(&bytes[..]).and_then(|mut d| d.read_to_end(&mut text))
        }
        _ => return bytes,
    }
    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text
}

/// Events of `text`.
fn parse(text: &[u8]) -> usize {
    let reader = TraceReader::new(text, ReadOptions::default()).expect("a slice can be read");
    reader.read_all().unwrap_or_else(|error| panic!("{error}")).len()
}

/// Seconds that this process was on a core; the wall clock where that is not known.
fn on_core(begun: Instant) -> f64 {
    let text = fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.map_or(begun.elapsed().as_secs_f64(), |ns| ns / 1e9)
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut rounds, mut copies, mut files) = (ROUNDS, None, Vec::new());
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|word| word.parse::<usize>().ok()).expect("a number");
        match argument.as_str() {
            "--rounds" => rounds = number(),
            "--copies" => copies = Some(number()),
            _ => files.push(argument),
        }
    }
    if files.is_empty() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        files = DEFAULT.iter().map(|name| data.join(name).display().to_string()).collect();
    }
    println!("{:>9} {:>10} {:>8} {:>16} {:>12}  file", "MB", "events", "MB/s", "MB/s of the core", "events/s");
    let start = Instant::now();
    for file in files {
        let one = plain(Path::new(&file));
        let text = one.repeat(copies.unwrap_or((TEXT / one.len().max(1)).max(1)));
        let (mut wall, mut core, mut events) = (f64::INFINITY, f64::INFINITY, 0);
        for _ in 0..rounds {
            let (begun, before) = (Instant::now(), on_core(start));
            events = parse(&text);
            wall = wall.min(begun.elapsed().as_secs_f64());
            core = core.min(on_core(start) - before);
        }
        let shown: Vec<_> = Path::new(&file).iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
        let name = shown.into_iter().rev().collect::<Vec<_>>().join("/");
        let size = text.len() as f64 / 1e6;
        let (speed, rate) = (size / core, events as f64 / core);
        println!("{size:>9.1} {events:>10} {:>8.0} {speed:>16.0} {rate:>12.0}  {name}", size / wall);
    }
}
