//! Speed of the trace readers on one core: megabytes of text a second, by format.
//!
//! `cargo bench --bench trace -- FILE...` reads each file (plain, gzip or zstd) into memory, repeats its text up to
//! 64 MB, and times the parsing alone; without files it takes the recordings of the clone. The best of five rounds
//! counts: other work on the machine only ever adds. For instructions a byte, run the binary under
//! `valgrind --tool=callgrind` with `--once`.

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

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let once = arguments.iter().any(|argument| argument == "--once");
    let mut files: Vec<String> = arguments.into_iter().filter(|argument| argument != "--once").collect();
    if files.is_empty() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        files = DEFAULT.iter().map(|name| data.join(name).display().to_string()).collect();
    }
    println!("{:>9} {:>10} {:>8} {:>12}  file", "MB", "events", "MB/s", "events/s");
    for file in files {
        let one = plain(Path::new(&file));
        let copies = if once { 1 } else { (TEXT / one.len().max(1)).max(1) };
        let text = one.repeat(copies);
        let mut best = f64::INFINITY;
        let mut events = 0;
        for _ in 0..if once { 1 } else { ROUNDS } {
            let begun = Instant::now();
            events = parse(&text);
            best = best.min(begun.elapsed().as_secs_f64());
        }
        let (size, name) = (text.len() as f64 / 1e6, Path::new(&file));
        let shown: Vec<_> = name.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
        let shown: Vec<_> = shown.into_iter().rev().collect();
        println!("{size:>9.1} {events:>10} {:>8.0} {:>12.0}  {}", size / best, events as f64 / best, shown.join("/"));
    }
}
