//! Traces: files to columns, columns to numpy and back.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use numpy::{Element, IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors;
use crate::error::TraceError;
use crate::trace::{self, Alloc, Base, Clock, Event, Kind, Limits, TraceBuilder};
use crate::units::{Bits, Bytes, Pages};

/// A bit of the map of every kernel that was recorded.
const GRANULE: u64 = 4;

/// A trace; never changed.
#[pyclass(frozen, module = "percpu._core")]
pub struct Trace {
    pub(super) inner: Arc<trace::Trace>,
}

impl Trace {
    fn new(inner: trace::Trace) -> Self {
        Self { inner: Arc::new(inner) }
    }
}

/// One row of the Python columns; `None` = missing.
#[derive(Default)]
struct Row {
    reserved: Option<bool>,
    atomic: Option<bool>,
    size: Option<u64>,
    align: Option<u64>,
    base: Option<u64>,
    off: Option<u64>,
    ptr: Option<u64>,
    bytes_alloc: Option<u64>,
    pages: Option<(u32, u32)>,
    empty_only: Option<bool>,
    nr_lost: Option<u64>,
}

impl Row {
    fn of(event: &Event<'_>) -> Self {
        let base = event.base().map(|base| base.addr);
        let row = Self { base, ..Self::default() };
        match *event {
            Event::Alloc(a) => Self {
                reserved: Some(a.reserved),
                atomic: Some(a.atomic),
                size: Some(a.size.0),
                align: Some(a.align.0),
                off: Some(a.off.0),
                ptr: a.ptr,
                bytes_alloc: a.bytes_alloc.map(|bytes| bytes.0),
                ..row
            },
            Event::Free { off, ptr, .. } => Self { off: Some(off.0), ptr, ..row },
            Event::AllocFail { size, align, reserved, atomic } => {
                Self { reserved: Some(reserved), atomic: Some(atomic), size: Some(size.0), align: Some(align.0), ..row }
            }
            Event::Populated { first, end, .. } | Event::Depopulated { first, end, .. } => {
                Self { pages: Some((first.0, end.0)), ..row }
            }
            Event::BalanceFree { empty_only } => Self { empty_only: Some(empty_only), ..row },
            Event::AllocArea { bits, align_bits, start, .. } => Self {
                size: Some(u64::from(bits.0) * GRANULE),
                align: Some(u64::from(align_bits.0) * GRANULE),
                off: Some(u64::from(start.0) * GRANULE),
                ..row
            },
            Event::AllocAreaRet { off } => Self { off: off.map(|off| off.0), ..row },
            Event::FreeArea { off, .. } => Self { off: Some(off.0), ..row },
            Event::Lost { count } => Self { nr_lost: Some(count), ..row },
            _ => row,
        }
    }

    fn event<'a>(&self, kind: Kind, texts: Texts<'a>) -> Event<'a> {
        let bytes = |value: Option<u64>| Bytes(value.unwrap_or(0));
        let bits = |value: Option<u64>| Bits((value.unwrap_or(0) / GRANULE) as u32);
        let flag = |value: Option<bool>| value.unwrap_or(false);
        let base = self.base.map(Base::new);
        let known = base.unwrap_or(Base::new(0));
        let (first, end) = self.pages.map_or((Pages(0), Pages(0)), |(first, end)| (Pages(first), Pages(end)));
        let (reserved, atomic) = (flag(self.reserved), flag(self.atomic));
        match kind {
            Kind::Alloc => Event::Alloc(Alloc {
                size: bytes(self.size),
                align: bytes(self.align),
                reserved,
                atomic,
                base,
                off: bytes(self.off),
                ptr: self.ptr,
                bytes_alloc: self.bytes_alloc.map(Bytes),
                call_site: texts.call_site,
                gfp_flags: texts.gfp_flags,
            }),
            Kind::Free => Event::Free { base, off: bytes(self.off), ptr: self.ptr },
            Kind::AllocFail => Event::AllocFail { size: bytes(self.size), align: bytes(self.align), reserved, atomic },
            Kind::Create => Event::Create { base },
            Kind::Destroy => Event::Destroy { base },
            Kind::Populated => Event::Populated { base: known, first, end },
            Kind::Depopulated => Event::Depopulated { base: known, first, end },
            Kind::BalanceBegin => Event::BalanceBegin,
            Kind::BalanceEnd => Event::BalanceEnd,
            Kind::BalanceFree => Event::BalanceFree { empty_only: flag(self.empty_only) },
            Kind::AllocArea => Event::AllocArea {
                base: known,
                bits: bits(self.size),
                align_bits: bits(self.align),
                start: bits(self.off),
            },
            Kind::AllocAreaRet => Event::AllocAreaRet { off: self.off.map(Bytes) },
            Kind::FreeArea => Event::FreeArea { base: known, off: bytes(self.off) },
            Kind::Marker => Event::Marker { text: texts.marker.unwrap_or_default() },
            Kind::Lost => Event::Lost { count: self.nr_lost.unwrap_or(0) },
        }
    }
}

/// The texts of one event.
#[derive(Clone, Copy, Default)]
struct Texts<'a> {
    call_site: Option<&'a str>,
    gfp_flags: Option<&'a str>,
    marker: Option<&'a str>,
}

/// A column with gaps, being built.
struct Column<T> {
    values: Vec<T>,
    missing: Vec<bool>,
}

impl<T: Default + Element> Column<T> {
    fn new(values: impl Iterator<Item = Option<T>>) -> Self {
        let (values, missing) = values.map(|v| (v.is_none(), v)).map(|(m, v)| (v.unwrap_or_default(), m)).unzip();
        Self { values, missing }
    }

    fn put(self, py: Python<'_>, name: &str, columns: &Bound<'_, PyDict>, missing: &Bound<'_, PyDict>) -> PyResult<()> {
        columns.set_item(name, self.values.into_pyarray(py))?;
        if self.missing.contains(&true) {
            missing.set_item(name, self.missing.into_pyarray(py))?;
        }
        Ok(())
    }
}

/// A column given by Python.
struct Given<'py, T: Element> {
    values: PyReadonlyArray1<'py, T>,
    missing: Option<PyReadonlyArray1<'py, bool>>,
}

impl<'py, T: Element + Copy> Given<'py, T> {
    fn new(name: &str, columns: &Bound<'py, PyDict>, missing: &Bound<'py, PyDict>) -> PyResult<Self>
    where
        PyReadonlyArray1<'py, T>: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
    {
        let values = columns.as_any().get_item(name)?.extract()?;
        let missing = missing.get_item(name)?.map(|mask| mask.extract()).transpose()?;
        Ok(Self { values, missing })
    }

    fn get(&self, index: usize) -> Option<T> {
        let missing = self.missing.as_ref().is_some_and(|mask| mask.get(index).is_none_or(|m| *m));
        if missing {
            None
        } else {
            self.values.get(index).copied()
        }
    }
}

#[pymethods]
impl Trace {
    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn columns<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
        let trace = &self.inner;
        let rows: Vec<Row> = py.detach(|| trace.records().map(|record| Row::of(&record.event)).collect());
        let raw = trace.columns();
        let (columns, missing) = (PyDict::new(py), PyDict::new(py));
        let (c, m) = (&columns, &missing);
        c.set_item("kind", raw.kind.iter().map(|kind| *kind as u8).collect::<Vec<_>>().into_pyarray(py))?;
        c.set_item("time_ns", PyArray1::from_slice(py, raw.time))?;
        c.set_item("line", PyArray1::from_slice(py, raw.line))?;
        Column::new(raw.cpu.iter().map(|cpu| (*cpu != trace::NO_CPU).then_some(*cpu))).put(py, "cpu", c, m)?;
        Column::new(rows.iter().map(|r| r.reserved)).put(py, "reserved", c, m)?;
        Column::new(rows.iter().map(|r| r.atomic)).put(py, "atomic", c, m)?;
        Column::new(rows.iter().map(|r| r.size)).put(py, "size_bytes", c, m)?;
        Column::new(rows.iter().map(|r| r.align)).put(py, "align_bytes", c, m)?;
        Column::new(rows.iter().map(|r| r.base)).put(py, "base_addr", c, m)?;
        Column::new(rows.iter().map(|r| r.off)).put(py, "off_bytes", c, m)?;
        Column::new(rows.iter().map(|r| r.ptr)).put(py, "ptr", c, m)?;
        Column::new(rows.iter().map(|r| r.bytes_alloc)).put(py, "alloc_bytes", c, m)?;
        Column::new(rows.iter().map(|r| r.pages.map(|p| p.0))).put(py, "first_page", c, m)?;
        Column::new(rows.iter().map(|r| r.pages.map(|p| p.1))).put(py, "end_page", c, m)?;
        Column::new(rows.iter().map(|r| r.empty_only)).put(py, "empty_only", c, m)?;
        Column::new(rows.iter().map(|r| r.nr_lost)).put(py, "nr_lost", c, m)?;
        let is_alloc = |index: usize| raw.kind[index] == Kind::Alloc;
        let code = |index: usize, code: u32| (is_alloc(index) && code != trace::NONE).then_some(code);
        Column::new(raw.text.iter().enumerate().map(|(i, c)| code(i, *c))).put(py, "call_site", c, m)?;
        Column::new(raw.gfp.iter().enumerate().map(|(i, c)| code(i, *c))).put(py, "gfp_flags", c, m)?;
        Ok((columns, missing))
    }

    fn call_sites(&self) -> Vec<String> {
        self.inner.call_sites().to_vec()
    }

    fn gfp_flags(&self) -> Vec<String> {
        self.inner.gfp_flags().to_vec()
    }

    fn markers(&self) -> Vec<(usize, String)> {
        let of = |(index, event): (usize, Event<'_>)| match event {
            Event::Marker { text } => Some((index, text.to_owned())),
            _ => None,
        };
        self.inner.records().map(|record| (record.index, record.event)).filter_map(of).collect()
    }

    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let d = PyDict::new(py);
        d.set_item("clock", clock_name(self.inner.clock()))?;
        d.set_item("hashed", self.inner.hashed())?;
        d.set_item("skipped_lines", self.inner.skipped_lines())?;
        d.set_item("lost_events", self.inner.lost_events())?;
        Ok(d)
    }

    fn slice(&self, start: usize, stop: usize) -> Self {
        let stop = stop.min(self.inner.len());
        Self::new(self.inner.slice(start.min(stop)..stop))
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.inner == other.inner
    }

    #[staticmethod]
    #[expect(clippy::too_many_arguments, reason = "the arguments of the Python function")]
    fn from_columns<'py>(
        py: Python<'py>,
        columns: Bound<'py, PyDict>,
        missing: Bound<'py, PyDict>,
        call_sites: Vec<String>,
        gfp_flags: Vec<String>,
        markers: Vec<(usize, String)>,
        clock: &str,
        hashed: bool,
    ) -> PyResult<Self> {
        let (c, m) = (&columns, &missing);
        let kind = Given::<u8>::new("kind", c, m)?;
        let time = Given::<u64>::new("time_ns", c, m)?;
        let cpu = Given::<u16>::new("cpu", c, m)?;
        let flags =
            [Given::<bool>::new("reserved", c, m)?, Given::new("atomic", c, m)?, Given::new("empty_only", c, m)?];
        let numbers = ["size_bytes", "align_bytes", "base_addr", "off_bytes", "ptr", "alloc_bytes", "nr_lost"];
        let numbers: Vec<Given<'_, u64>> =
            numbers.iter().map(|name| Given::new(name, c, m)).collect::<PyResult<_>>()?;
        let codes = ["first_page", "end_page", "call_site", "gfp_flags"];
        let codes: Vec<Given<'_, u32>> = codes.iter().map(|name| Given::new(name, c, m)).collect::<PyResult<_>>()?;
        let clock =
            [Clock::Microseconds, Clock::Nanoseconds, Clock::Counter].into_iter().find(|c| clock_name(*c) == clock);
        let mut builder = TraceBuilder::new(clock.unwrap_or_default());
        if hashed {
            builder = builder.hashed_pointers();
        }
        let mut markers = markers.iter().peekable();
        for index in 0..columns.as_any().get_item("kind")?.len()? {
            let row = Row {
                reserved: flags[0].get(index),
                atomic: flags[1].get(index),
                empty_only: flags[2].get(index),
                size: numbers[0].get(index),
                align: numbers[1].get(index),
                base: numbers[2].get(index),
                off: numbers[3].get(index),
                ptr: numbers[4].get(index),
                bytes_alloc: numbers[5].get(index),
                nr_lost: numbers[6].get(index),
                pages: codes[0].get(index).zip(codes[1].get(index)),
            };
            let marker = markers.next_if(|(event, _)| *event == index);
            let texts = Texts {
                call_site: text(codes[2].get(index), &call_sites),
                gfp_flags: text(codes[3].get(index), &gfp_flags),
                marker: marker.map(|(_, text)| text.as_str()),
            };
            let bad = |message: String| errors::trace_error(py, &TraceError::new(format!("event {index}: {message}")));
            let code = kind.get(index).unwrap_or(u8::MAX);
            let kind = *Kind::ALL.get(usize::from(code)).ok_or_else(|| bad(format!("no kind {code}")))?;
            let time = time.get(index).unwrap_or(0);
            builder.push(time, cpu.get(index), &row.event(kind, texts)).map_err(|error| bad(error.message))?;
        }
        Ok(Self::new(builder.finish()))
    }
}

fn text(code: Option<u32>, texts: &[String]) -> Option<&str> {
    texts.get(code? as usize).map(String::as_str)
}

fn clock_name(clock: Clock) -> &'static str {
    match clock {
        Clock::Microseconds => "microseconds",
        Clock::Nanoseconds => "nanoseconds",
        Clock::Counter => "counter",
    }
}

#[pyfunction]
pub fn read_trace(py: Python<'_>, path: PathBuf) -> PyResult<Trace> {
    let file = File::open(path)?;
    let trace = py.detach(|| trace::read_trace_from(file, Limits::default()));
    Ok(Trace::new(trace.map_err(|error| errors::trace_error(py, &error))?))
}
