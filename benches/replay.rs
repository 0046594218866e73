//! Events a second of the three kinds of replay, and the memory of a stream that is larger than it.
//!
//! `cargo bench --bench replay -- RUN [--events N] [--out DIR]`: RUN is the directory of a recorded run with a start
//! state (the million-event one of `tests/data`), N the length of the generated stream (10^8). Each figure of the
//! recorded run is the best of five: other work on the machine only ever adds. The stream is read in blocks; its peak is
//! what the kernel counts for the process from the start of the stream on.
//!
//! With `--out` the figures go to `DIR/<cpu>/<date>-replay.csv` and `.txt`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use percpu::allocator::{Allocator, Balance};
use percpu::geometry::Geometry;
use percpu::replay::follow::{follow, Follower, Options as FollowOptions};
use percpu::replay::rerun::{rerun, Options as RerunOptions, Rerunner};
use percpu::replay::{predict, Options};
use percpu::state::State;
use percpu::trace::{read_trace, Alloc, Base, Clock, Event, Trace, TraceBuilder};
use percpu::units::Bytes;
use percpu::variant::Preset;

const REPEAT: usize = 5;
const BLOCK: usize = 1 << 16;
/// Objects of the stream that can be live at a time.
const SLOTS: usize = 200_000;

/// One line of the result.
struct Row {
    case: &'static str,
    events: u64,
    time: Time,
    peak_bytes: u64,
}

/// Seconds of the processor and of the wall clock.
#[derive(Clone, Copy)]
struct Time {
    cpu: f64,
    wall: f64,
}

struct Stopwatch(f64, Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(cpu_seconds(), Instant::now())
    }

    fn read(&self) -> Time {
        let wall = self.1.elapsed().as_secs_f64();
        let cpu = cpu_seconds() - self.0;
        Time { cpu: if cpu > 0.0 { cpu } else { wall }, wall }
    }
}

/// Processor time of this thread; 0 where the kernel does not tell.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) as f64 / 1e9
}

fn main() {
    let mut run = PathBuf::from("tests/data/recordings/million-612-2cpu");
    let mut events = 100_000_000_u64;
    let mut out = None;
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--events" => events = args.next().and_then(|n| n.parse().ok()).expect("--events N"),
            "--out" => out = args.next(),
            path => run = path.into(),
        }
    }
    let mut rows = vec![stream_followed(events), stream_rerun(events)];
    rows.extend(recorded(&run));
    println!("{:20}{:>12}{:>10}{:>10}{:>14}{:>10}", "case", "events", "cpu s", "wall s", "events/cpu s", "peak MB");
    for row in &rows {
        let Time { cpu, wall } = row.time;
        let (rate, peak) = (row.events as f64 / cpu, row.peak_bytes >> 20);
        println!("{:20}{:>12}{cpu:>10.3}{wall:>10.3}{rate:>14.0}{peak:>10}", row.case, row.events);
    }
    if let Some(out) = out {
        store(Path::new(&out), &rows);
    }
}

/// The stream without the start: places that are legal, 200,000 slots of 4 KiB in units of 1 MiB.
struct Stream {
    random: u64,
    live: Vec<u16>,
    time: u64,
    left: u64,
}

impl Stream {
    fn new(events: u64) -> Self {
        Self { random: 0x9e37_79b9_7f4a_7c15, live: vec![0; SLOTS], time: 0, left: events }
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Iterator for Stream {
    type Item = Trace;

    fn next(&mut self) -> Option<Trace> {
        let length = self.left.min(BLOCK as u64);
        if length == 0 {
            return None;
        }
        let mut block = TraceBuilder::new(Clock::Counter);
        for _ in 0..length {
            let random = Stream::next(self);
            let slot = (random % SLOTS as u64) as usize;
            let base = Some(Base::new(0xffff_e8ff_0000_0000 + (slot as u64 / 256) * (1 << 20)));
            let off = Bytes(slot as u64 % 256 * 4096);
            let event = if self.live[slot] > 0 {
                self.live[slot] = 0;
                Event::Free { base, off, ptr: None }
            } else {
                let size = 4 + (random >> 32) % 64 * 4;
                self.live[slot] = size as u16;
                Event::Alloc(Alloc {
                    size: Bytes(size),
                    align: Bytes(4),
                    reserved: false,
                    atomic: false,
                    base,
                    off,
                    ptr: None,
                    bytes_alloc: None,
                    call_site: None,
                    gfp_flags: None,
                })
            };
            block.push(self.time, Some(0), &event).expect("a legal event");
            self.time += 1;
        }
        self.left -= length;
        Some(block.finish())
    }
}

fn stream_followed(events: u64) -> Row {
    let peak = Peak::start();
    let watch = Stopwatch::start();
    let options = FollowOptions { history: false, unit_size: Some(Bytes(1 << 20)), ..FollowOptions::default() };
    let mut follower = Follower::new(options).expect("legal options");
    Stream::new(events).for_each(|block| assert!(follower.read(&block, &mut |_| true)));
    let found = follower.finish();
    assert_eq!((found.events, found.nr_illegal()), (events, 0));
    Row { case: "stream_follow", events, time: watch.read(), peak_bytes: peak.bytes() }
}

fn stream_rerun(events: u64) -> Row {
    let peak = Peak::start();
    let watch = Stopwatch::start();
    let mut runner = Rerunner::new(bare(), &RerunOptions { history: false, ..RerunOptions::default() });
    Stream::new(events).for_each(|block| assert!(runner.read(&block, &mut |_| true).expect("legal frees")));
    let done = runner.finish();
    assert_eq!((done.totals.events, done.totals.fails), (events, 0));
    done.allocator.engine().verify().expect("every invariant holds");
    Row { case: "stream_rerun", events, time: watch.read(), peak_bytes: peak.bytes() }
}

fn bare() -> Allocator {
    let geometry = Geometry::new(Bytes(4096), Bytes(4), Bytes(4096), Bytes(1 << 20), 2).expect("kernel sizes");
    Allocator::bare(Preset::by_release("6.12").expect("a known release"), geometry, Balance::Eager).expect("sizes")
}

fn recorded(run: &Path) -> Vec<Row> {
    let read = |name: &str| fs::read(run.join(name)).ok();
    let names = ["trace-cols.csv.gz", "trace-ext.txt.gz", "trace.txt.gz"];
    let text = names.into_iter().find_map(read).expect("a trace");
    let trace = read_trace(&text).expect("a trace");
    let state = State::from_json(&read("state-a.json.gz").expect("a start state")).expect("a start state");
    let start = state.restore(Preset::by_release("6.12").expect("a known release")).expect("a start state");
    let best = |case: &'static str, once: &mut dyn FnMut()| {
        let peak = Peak::start();
        let time = |_| {
            let watch = Stopwatch::start();
            once();
            watch.read()
        };
        let times = (0..REPEAT).map(time);
        let time = times.min_by(|a, b| a.cpu.total_cmp(&b.cpu)).expect("at least one");
        Row { case, events: trace.len() as u64, time, peak_bytes: peak.bytes() }
    };
    vec![
        best("recorded_predict", &mut || {
            let replay = predict(&trace, start.clone(), &Options::default()).expect("it replays");
            assert_eq!(replay.totals.diverged, 0);
        }),
        best("recorded_follow", &mut || {
            let found = follow(&trace, FollowOptions::default(), &mut |_| true).expect("it replays");
            assert_eq!(found.nr_illegal(), 0);
        }),
        best("recorded_rerun", &mut || {
            let done = rerun(&trace, bare(), &RerunOptions::default(), &mut |_| true).expect("it replays");
            assert_eq!(done.totals.fails, 0);
        }),
    ]
}

/// The most memory that the process has had.
struct Peak;

impl Peak {
    /// Forgets what was before, where the kernel allows that.
    fn start() -> Self {
        let _ = fs::write("/proc/self/clear_refs", "5");
        Peak
    }

    fn bytes(&self) -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
    }
}

fn output(command: &str, args: &[&str]) -> String {
    let done = Command::new(command).args(args).output();
    done.map_or("unknown".into(), |done| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

fn store(out: &Path, rows: &[Row]) {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let model = model.unwrap_or("unknown");
    let mut directory = String::new();
    for c in model.chars() {
        if c.is_ascii_alphanumeric() {
            directory.push(c.to_ascii_lowercase());
        } else if !directory.ends_with('-') {
            directory.push('-');
        }
    }
    let directory = out.join(directory.trim_matches('-'));
    fs::create_dir_all(&directory).expect("a directory for results");
    let date = output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]);
    let stem = directory.join(format!("{}-replay", date.get(..10).unwrap_or("unknown")));
    let mut csv = "case,events,cpu_seconds,wall_seconds,events_per_cpu_second,peak_bytes\n".to_owned();
    for row in rows {
        let Time { cpu, wall } = row.time;
        let rate = row.events as f64 / cpu;
        let _ = writeln!(csv, "{},{},{cpu:.3},{wall:.3},{rate:.0},{}", row.case, row.events, row.peak_bytes);
    }
    let commit = output("git", &["describe", "--always", "--dirty"]);
    let rustc = output("rustc", &["--version"]);
    let about = format!("date: {date}\ncommit: {commit}\ncpu: {model}\nrustc: {rustc}\nrepeat: {REPEAT}\n");
    fs::write(stem.with_extension("csv"), csv).expect("a writable directory");
    fs::write(stem.with_extension("txt"), about).expect("a writable directory");
    println!("written: {}.csv, .txt", stem.display());
}
