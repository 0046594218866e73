//! Traces from files and to files, block by block; summaries.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use numpy::IntoPyArray;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::errors;
use super::trace::{clock_name, Trace};
use crate::error::TraceError;
use crate::trace::{self as core, Compression, Format, Limits, ReadOptions};

/// Time between two looks for a Ctrl-C.
const LOOK: Duration = Duration::from_millis(20);
/// Events that are made between two looks, where nothing is read.
const SLICE: usize = 1 << 17;

/// Where bytes come from. Whatever Python raises on the way is kept.
struct Input {
    from: From,
    raised: Arc<Mutex<Option<PyErr>>>,
    looked: Instant,
}

enum From {
    File(File),
    Stdin(io::Stdin),
    /// Anything with `read(n)` that gives bytes.
    Object(Py<PyAny>),
}

impl Input {
    fn keep(&self, raised: PyErr) -> io::Error {
        *self.raised.lock().expect("nobody panics with it") = Some(raised);
        io::Error::other("stopped")
    }

    fn look(&mut self) -> io::Result<()> {
        self.looked = Instant::now();
        Python::attach(|py| py.check_signals()).map_err(|raised| self.keep(raised))
    }
}

fn read_object(object: &Py<PyAny>, buffer: &mut [u8]) -> PyResult<usize> {
    Python::attach(|py| {
        let data = object.bind(py).call_method1("read", (buffer.len(),))?;
        let Ok(bytes) = data.cast::<PyBytes>() else {
            let name = data.get_type().name()?;
            return Err(PyTypeError::new_err(format!("read() gave {name}; the file must be open in binary mode")));
        };
        let bytes = bytes.as_bytes();
        if bytes.len() > buffer.len() {
            return Err(PyValueError::new_err("read(n) gave more than n bytes"));
        }
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    })
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.looked.elapsed() > LOOK {
            self.look()?;
        }
        loop {
            let result = match &mut self.from {
                From::File(file) => file.read(buffer),
                From::Stdin(stdin) => stdin.read(buffer),
                From::Object(object) => read_object(object, buffer).map_err(|raised| {
                    *self.raised.lock().expect("nobody panics with it") = Some(raised);
                    io::Error::other("stopped")
                }),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.look()?,
                other => return other,
            }
        }
    }
}

/// The events of a block in slices, between which a Ctrl-C is noticed; one slice if there are none.
fn parts(block: &Trace) -> impl Iterator<Item = Range<usize>> {
    let n = block.inner.len();
    (0..n.max(1)).step_by(SLICE).map(move |start| start..n.min(start + SLICE))
}

type Reader = core::TraceReader<Input>;

/// Reads a trace block by block.
#[pyclass(frozen, module = "percpu._core")]
pub struct TraceReader {
    name: String,
    raised: Arc<Mutex<Option<PyErr>>>,
    /// `None` after everything was read at once, or closed.
    inner: Mutex<Option<Reader>>,
}

impl TraceReader {
    fn error(&self, py: Python<'_>, error: &TraceError) -> PyErr {
        let raised = self.raised.lock().expect("nobody panics with it").take();
        raised.unwrap_or_else(|| errors::trace_error_in(py, &self.name, error))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Reader>> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs `work` on the reader without the interpreter; the lock is waited for without it as well.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Option<Reader>) -> Result<T, TraceError> + Send,
    ) -> PyResult<T> {
        py.detach(|| work(&mut self.lock())).map_err(|error| self.error(py, &error))
    }
}

#[pymethods]
impl TraceReader {
    /// `source`: a path, or an object with `read`; `-` is standard input.
    #[new]
    fn new(
        py: Python<'_>,
        source: Bound<'_, PyAny>,
        name: String,
        strict: bool,
        max_events: Option<u64>,
    ) -> PyResult<Self> {
        let from = if source.hasattr("read")? {
            From::Object(source.unbind())
        } else {
            let path: PathBuf = source.extract()?;
            match path.as_os_str() == "-" {
                true => From::Stdin(io::stdin()),
                false => From::File(File::open(path)?),
            }
        };
        let raised = Arc::new(Mutex::new(None));
        let input = Input { from, raised: Arc::clone(&raised), looked: Instant::now() };
        let limits = max_events.map_or(Limits::default(), |events| Limits { events });
        let reader = py.detach(|| Reader::new(input, ReadOptions { limits, strict }));
        let this = Self { name, raised, inner: Mutex::new(None) };
        let reader = reader.map_err(|error| this.error(py, &error))?;
        *this.lock() = Some(reader);
        Ok(this)
    }

    fn next_block(&self, py: Python<'_>, events: usize) -> PyResult<Option<Trace>> {
        py.check_signals()?;
        let block = self.with(py, |reader| match reader {
            Some(reader) => reader.next_block(events),
            None => Ok(None),
        })?;
        Ok(block.map(Trace::new))
    }

    fn read_all(&self, py: Python<'_>) -> PyResult<Trace> {
        let Some(mut reader) = py.detach(|| self.lock().take()).map(Reader::whole) else {
            return Ok(Trace::new(core::Trace::default()));
        };
        // In slices, for runs that are made without reading.
        let mut events = SLICE;
        loop {
            let (back, more) = py.detach(|| {
                let more = reader.advance(events);
                (reader, more)
            });
            reader = back;
            if !more.map_err(|error| self.error(py, &error))? {
                return Ok(Trace::new(py.detach(|| reader.into_trace())));
            }
            py.check_signals()?;
            events += SLICE;
        }
    }

    /// Bytes of the file, lines, events so far.
    fn position(&self) -> (u64, u64, u64) {
        self.lock().as_ref().map_or((0, 0, 0), |reader| {
            let position = reader.position();
            (position.bytes, position.lines, position.events)
        })
    }

    fn close(&self) {
        *self.lock() = None;
    }
}

/// Writes ftrace text, block by block.
#[pyclass(frozen, module = "percpu._core")]
pub struct TraceWriter {
    inner: Mutex<Option<core::TraceWriter<File>>>,
}

#[pymethods]
impl TraceWriter {
    /// `compression`: "", "gzip" or "zstd".
    #[new]
    fn new(path: PathBuf, compression: &str) -> PyResult<Self> {
        let compression = match compression {
            "gzip" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            _ => Compression::None,
        };
        Ok(Self { inner: Mutex::new(Some(core::TraceWriter::new(File::create(path)?, compression)?)) })
    }

    fn write(&self, py: Python<'_>, block: &Trace) -> PyResult<()> {
        py.check_signals()?;
        let mut inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let writer = inner.as_mut().ok_or_else(|| PyValueError::new_err("the file is closed"))?;
        for part in parts(block) {
            py.detach(|| writer.write_part(&block.inner, part))?;
            py.check_signals()?;
        }
        Ok(())
    }

    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        let writer = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        Ok(py.detach(|| writer.map_or(Ok(()), |writer| writer.finish().map(|_| ())))?)
    }
}

/// Selects by call site, block by block.
#[pyclass(frozen, module = "percpu._core")]
pub struct CallSiteFilter {
    inner: Mutex<core::CallSiteFilter>,
}

#[pymethods]
impl CallSiteFilter {
    #[new]
    fn new() -> Self {
        Self { inner: Mutex::new(core::CallSiteFilter::new()) }
    }

    fn select(&self, py: Python<'_>, block: &Trace, wanted: Vec<bool>) -> Trace {
        let lock = || self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Trace::new(py.detach(|| lock().select(&block.inner, &wanted)))
    }
}

/// The numbers of a trace, block by block.
#[pyclass(frozen, module = "percpu._core")]
pub struct TraceSummary {
    inner: Mutex<core::Summary>,
}

impl TraceSummary {
    fn lock(&self) -> MutexGuard<'_, core::Summary> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[pymethods]
impl TraceSummary {
    #[new]
    fn new() -> Self {
        Self { inner: Mutex::new(core::Summary::new()) }
    }

    fn add(&self, py: Python<'_>, block: &Trace) -> PyResult<()> {
        py.detach(|| self.lock().begin(&block.inner));
        for part in parts(block) {
            py.detach(|| self.lock().add_part(&block.inner, part));
            py.check_signals()?;
        }
        Ok(())
    }

    fn totals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let summary = self.lock();
        let (t, d) = (summary.totals(), PyDict::new(py));
        d.set_item("format", t.format.map(Format::name))?;
        d.set_item("clock", clock_name(t.clock))?;
        d.set_item("hashed", t.hashed)?;
        d.set_item("nr_events", t.events)?;
        d.set_item("first_ns", t.times.map(|(first, _)| first))?;
        d.set_item("last_ns", t.times.map(|(_, last)| last))?;
        d.set_item("nr_chunks", t.chunks)?;
        d.set_item("nr_unseen_free", t.unseen_frees)?;
        d.set_item("nr_live", t.live)?;
        d.set_item("live_bytes", t.live_bytes)?;
        d.set_item("peak_live_bytes", t.peak_bytes)?;
        d.set_item("lost_events", t.lost)?;
        d.set_item("nr_losses", t.losses)?;
        d.set_item("overwritten_events", t.overwritten)?;
        d.set_item("skipped_lines", t.skipped_lines)?;
        d.set_item("damaged_lines", t.damaged_lines)?;
        Ok(d)
    }

    /// Columns: kind (code), nr_events, first_ns, last_ns (0 for losses), bytes.
    fn kinds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let summary = self.lock();
        let rows: Vec<_> = summary.kinds().collect();
        let d = PyDict::new(py);
        d.set_item("kind", rows.iter().map(|(kind, _)| *kind as u8).collect::<Vec<_>>().into_pyarray(py))?;
        let column = |name: &str, value: fn(&core::KindRow) -> u64| {
            d.set_item(name, rows.iter().map(|(_, row)| value(row)).collect::<Vec<_>>().into_pyarray(py))
        };
        column("nr_events", |row| row.events)?;
        column("first_ns", |row| row.times.map_or(0, |times| times.0))?;
        column("last_ns", |row| row.times.map_or(0, |times| times.1))?;
        column("bytes", |row| row.bytes)?;
        Ok(d)
    }

    /// Texts and columns of the call sites, most requested bytes first; None for events without one.
    fn call_sites<'py>(&self, py: Python<'py>) -> PyResult<(Vec<Option<String>>, Bound<'py, PyDict>)> {
        let summary = self.lock();
        let rows = summary.sites();
        let d = PyDict::new(py);
        let column = |name: &str, value: fn(&core::SiteRow) -> u64| {
            d.set_item(name, rows.iter().map(|(_, row)| value(row)).collect::<Vec<_>>().into_pyarray(py))
        };
        column("nr_alloc", |row| row.allocs)?;
        column("nr_atomic", |row| row.atomic)?;
        column("nr_free", |row| row.frees)?;
        column("requested_bytes", |row| row.requested)?;
        column("charged_bytes", |row| row.charged)?;
        column("nr_live", |row| row.live)?;
        column("live_bytes", |row| row.live_bytes)?;
        column("peak_live_bytes", |row| row.peak_bytes)?;
        Ok((rows.iter().map(|(name, _)| name.map(str::to_owned)).collect(), d))
    }

    /// CPUs (None: not recorded) and their columns.
    fn cpus<'py>(&self, py: Python<'py>) -> PyResult<(Vec<Option<u16>>, Bound<'py, PyDict>)> {
        let summary = self.lock();
        let rows: Vec<_> = summary.cpus().collect();
        let d = PyDict::new(py);
        let column = |name: &str, value: fn(&core::CpuRow) -> u64| {
            d.set_item(name, rows.iter().map(|(_, row)| value(row)).collect::<Vec<_>>().into_pyarray(py))
        };
        column("nr_events", |row| row.events)?;
        column("nr_alloc", |row| row.allocs)?;
        column("nr_free", |row| row.frees)?;
        column("nr_lost", |row| row.lost)?;
        Ok((rows.iter().map(|(cpu, _)| *cpu).collect(), d))
    }
}
