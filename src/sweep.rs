//! Many runs at once: points of an experiment over the cores of the machine.
//!
//! # Design
//!
//! ```text
//! points, made when there is room --> pool of threads --> results, as they come, by index
//!           ^                                                  |
//!           +-------------- the caller's thread ---------------+
//! ```
//!
//! Every point owns its allocator and shares only the steps, which nobody changes; so the result of a point does
//! not depend on which thread made it, or when. Points are made on the caller's thread, a few ahead of the
//! pool, so that a long sweep needs no more memory than a short one. There results are handed over as well, each
//! once, with the index of its point: the order of a table is the order of the points, never that of the threads.
//!
//! A point that ends in a panic is a result like any other. The caller is asked every few milliseconds whether to
//! go on; when it says no, running points stop within a hundred steps.
//!
//! # Units
//!
//! Points by index.
//!
//! # Source
//!
//! Design of the Python package, section 3.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use crate::compare::{run, Figures, Options, Rewrite, Source, Stopped, Subject};

/// Between two questions whether to go on.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Points that are ready or running, for each thread.
const AHEAD: usize = 2;

/// What to run.
pub struct Point {
    /// Its number: that of its row.
    pub index: usize,
    /// The steps.
    pub source: Arc<Source>,
    /// How requests are changed.
    pub rewrite: Rewrite,
    /// What the steps are made with, in the state in which they begin.
    pub subject: Box<dyn Subject + Send>,
}

/// What came of a point.
pub type Outcome = Result<Figures, String>;

/// Who gives points and takes results, on the caller's thread.
pub trait Caller {
    /// The next point; `None` when there is none left.
    fn next(&mut self) -> Option<Point>;

    /// The result of point `index`, and its subject unless that is lost.
    fn done(&mut self, index: usize, outcome: Outcome, subject: Option<Box<dyn Subject + Send>>);

    /// Whether to go on.
    fn go_on(&mut self) -> bool;
}

/// Runs every point of `caller` on `threads` threads, 0 = one for each core. False if the caller stopped it.
///
/// # Errors
///
/// If the threads cannot be had.
pub fn sweep(caller: &mut dyn Caller, options: Options, threads: usize) -> Result<bool, String> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("sweep-{number}"))
        .build()
        .map_err(|error| error.to_string())?;
    let room = pool.current_num_threads() * AHEAD;
    let stop = AtomicBool::new(false);
    let (sender, results) = channel();
    // The scope waits for the points that still run.
    pool.in_place_scope(|scope| {
        let (mut running, mut more) = (0, true);
        loop {
            while more && running < room {
                let Some(point) = caller.next() else {
                    more = false;
                    break;
                };
                running += 1;
                let (sender, stop) = (sender.clone(), &stop);
                scope.spawn(move |_| {
                    // The receiver is gone only if the caller panicked.
                    let _ = sender.send(run_point(point, options, stop));
                });
            }
            if running == 0 {
                return Ok(true);
            }
            match results.recv_timeout(ASK_EVERY) {
                Ok((index, Some(outcome), subject)) => {
                    running -= 1;
                    caller.done(index, outcome, subject);
                }
                Ok((_, None, _)) => running -= 1,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if !caller.go_on() {
                stop.store(true, Ordering::Relaxed);
                return Ok(false);
            }
        }
    })
}

type Sent = (usize, Option<Outcome>, Option<Box<dyn Subject + Send>>);

/// No outcome: it was stopped.
fn run_point(point: Point, options: Options, stop: &AtomicBool) -> Sent {
    let Point { index, source, rewrite, mut subject } = point;
    // What is half done is dropped with the subject.
    let result = catch_unwind(AssertUnwindSafe(|| {
        run(&source, &rewrite, &mut *subject, options, &mut || !stop.load(Ordering::Relaxed))
    }));
    match result {
        Ok(Ok(figures)) => (index, Some(Ok(figures)), Some(subject)),
        Ok(Err(Stopped::Interrupted)) => (index, None, Some(subject)),
        Ok(Err(Stopped::Broken(step, text))) => (index, Some(Err(format!("step {step}: {text}"))), Some(subject)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            (index, Some(Err(format!("internal error: {text}"))), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::{Allocator, Balance, Placement};
    use crate::compare::moment::Moment;
    use crate::compare::source::Columns;
    use crate::geometry::Geometry;
    use crate::request::Request;
    use crate::units::Bytes;
    use crate::variant::Preset;

    /// Objects of growing sizes, every other one given back.
    fn source(n: u32) -> Arc<Source> {
        let mut columns = Columns::default();
        for id in 0..n {
            for (op, size) in [(0, 4 + id % 200), (1, 0)].into_iter().take(1 + id as usize % 2) {
                // Numbers of objects that are gone are not used again here.
                columns.op.push(op);
                columns.id.push(id);
                columns.size.push(size);
                columns.align.push(4 * u32::from(op == 0));
            }
        }
        Arc::new(Source::from_columns(columns, Vec::new(), 0).unwrap())
    }

    fn allocator(block: u64) -> Box<dyn Subject + Send> {
        let g = Geometry::new(Bytes(4096), Bytes(4), Bytes(block), Bytes(65536), 2).unwrap();
        Box::new(Allocator::bare(Preset::by_release("6.12").unwrap(), g, Balance::Eager).unwrap())
    }

    struct Collect {
        points: std::vec::IntoIter<Point>,
        found: Vec<Option<Outcome>>,
        stop_after: usize,
        done: usize,
    }

    impl Collect {
        fn new(points: Vec<Point>) -> Self {
            let found = vec![None; points.len()];
            Self { points: points.into_iter(), found, stop_after: usize::MAX, done: 0 }
        }
    }

    impl Caller for Collect {
        fn next(&mut self) -> Option<Point> {
            self.points.next()
        }

        fn done(&mut self, index: usize, outcome: Outcome, _: Option<Box<dyn Subject + Send>>) {
            assert!(self.found[index].replace(outcome).is_none(), "point {index} came twice");
            self.done += 1;
        }

        fn go_on(&mut self) -> bool {
            self.done < self.stop_after
        }
    }

    fn points(n: usize, source: &Arc<Source>) -> Vec<Point> {
        let point = |index: usize| Point {
            index,
            source: source.clone(),
            rewrite: Rewrite { min_align: Some(4 << (index % 4)), ..Rewrite::default() },
            subject: allocator(1024 << (index % 5)),
        };
        (0..n).map(point).collect()
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let source = source(3000);
        let by_threads: Vec<_> = [1, 2, 7]
            .into_iter()
            .map(|threads| {
                let mut caller = Collect::new(points(40, &source));
                assert_eq!(sweep(&mut caller, Options::default(), threads), Ok(true));
                caller.found
            })
            .collect();
        assert!(by_threads[0].iter().all(|outcome| matches!(outcome, Some(Ok(_)))));
        assert_eq!(by_threads[0], by_threads[1]);
        assert_eq!(by_threads[0], by_threads[2]);
        let first = |index: usize| by_threads[0][index].clone().unwrap().unwrap();
        assert_ne!(first(0), first(1), "the points differ");
    }

    #[test]
    fn a_caller_can_stop() {
        let source = source(500_000);
        let mut caller = Collect { stop_after: 3, ..Collect::new(points(1000, &source)) };
        assert_eq!(sweep(&mut caller, Options::default(), 2), Ok(false));
        assert!(caller.done < 20);
        let mut nothing = Collect::new(Vec::new());
        assert_eq!(sweep(&mut nothing, Options::default(), 2), Ok(true));
    }

    /// Answers nothing, or panics.
    struct Bad(bool);

    impl Subject for Bad {
        fn alloc(&mut self, _: &Request) -> Result<Placement, String> {
            assert!(!self.0, "no room in the head");
            Err("a bad answer".to_owned())
        }
        fn free(&mut self, _: u64, _: Bytes) -> Result<(), String> {
            Ok(())
        }
        fn balance(&mut self) {}
        fn moment(&self) -> Result<Moment, String> {
            Ok(Moment::default())
        }
        fn backing_bytes(&self) -> u64 {
            0
        }
        fn chunks_created(&self) -> u64 {
            0
        }
        fn max_chunks(&self) -> u64 {
            0
        }
        fn nr_cpus(&self) -> u64 {
            1
        }
        fn page_size(&self) -> u64 {
            4096
        }
    }

    #[test]
    fn a_broken_point_is_a_result() {
        let source = source(100);
        let mut list = points(4, &source);
        list[1].subject = Box::new(Bad(true));
        list[2].subject = Box::new(Bad(false));
        let mut caller = Collect::new(list);
        assert_eq!(sweep(&mut caller, Options::default(), 2), Ok(true));
        let text = |index: usize| caller.found[index].clone().unwrap().unwrap_err();
        assert!(caller.found[0].as_ref().is_some_and(Result::is_ok));
        assert!(text(1).ends_with("no room in the head"), "{}", text(1));
        assert_eq!(text(2), "step 0: a bad answer");
        assert!(caller.found[3].as_ref().is_some_and(Result::is_ok));
    }
}
