//! Traces: files to columns, columns to numpy and back.

use std::borrow::Cow;
use std::sync::Arc;

use numpy::{Element, IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::allocator::Signals;
use super::errors;
use crate::error::TraceError;
use crate::trace::{self, flag, Alloc, Anonymise, Base, Clock, Event, Facts, Format, Kind, Limits, TraceBuilder};
use crate::units::{Bits, Bytes, Pages};

/// A bit of the map of every kernel that was recorded.
const GRANULE: u64 = 4;
/// Events between two looks for a Ctrl-C.
const SLICE: usize = 1 << 15;

/// A trace; never changed.
#[pyclass(frozen, module = "percpu._core")]
pub struct Trace {
    pub(super) inner: Arc<trace::Trace>,
}

impl Trace {
    pub(super) fn new(inner: trace::Trace) -> Self {
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

/// Makes a column with gaps.
fn put<T: Default + Element>(
    py: Python<'_>,
    trace: &trace::Trace,
    name: &str,
    columns: &Bound<'_, PyDict>,
    missing: &Bound<'_, PyDict>,
    value: impl Fn(usize) -> Option<T> + Sync,
) -> PyResult<()>
where
    Column<T>: Send,
{
    py.detach(|| Column::new((0..trace.len()).map(&value))).put(py, name, columns, missing)
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
        let (trace, columns, missing) = (&self.inner, PyDict::new(py), PyDict::new(py));
        let (c, m, raw) = (&columns, &missing, self.inner.columns());
        c.set_item("kind", raw.kind.iter().map(|kind| *kind as u8).collect::<Vec<_>>().into_pyarray(py))?;
        c.set_item("time_ns", PyArray1::from_slice(py, raw.time))?;
        c.set_item("line", PyArray1::from_slice(py, raw.line))?;
        let request = |kind| matches!(kind, Kind::Alloc | Kind::AllocFail);
        let pages = |kind| matches!(kind, Kind::Populated | Kind::Depopulated);
        let flag = |i: usize, flag: u8| raw.flags[i] & flag != 0;
        // Bytes of a request, and those of the recorder's probe, which counts bits.
        let bytes = |i: usize, value: u32| match raw.kind[i] {
            Kind::Alloc | Kind::AllocFail => Some(u64::from(value)),
            Kind::AllocArea => Some(u64::from(value) * GRANULE),
            _ => None,
        };
        let off = |i: usize| match raw.kind[i] {
            Kind::Alloc | Kind::Free | Kind::FreeArea | Kind::AllocAreaRet => u64::try_from(raw.off[i]).ok(),
            Kind::AllocArea => u64::try_from(raw.off[i]).ok().map(|start| start * GRANULE),
            _ => None,
        };
        let code = |i: usize, code: u32| (raw.kind[i] == Kind::Alloc && code != trace::NONE).then_some(code);
        put(py, trace, "cpu", c, m, |i| (raw.cpu[i] != trace::NO_CPU).then_some(raw.cpu[i]))?;
        put(py, trace, "reserved", c, m, |i| request(raw.kind[i]).then(|| flag(i, flag::RESERVED)))?;
        put(py, trace, "atomic", c, m, |i| request(raw.kind[i]).then(|| flag(i, flag::ATOMIC)))?;
        put(py, trace, "size_bytes", c, m, |i| bytes(i, raw.size[i]))?;
        put(py, trace, "align_bytes", c, m, |i| bytes(i, raw.align[i]))?;
        put(py, trace, "base_addr", c, m, |i| trace.bases().get(raw.base[i] as usize).copied())?;
        put(py, trace, "off_bytes", c, m, off)?;
        put(py, trace, "ptr", c, m, |i| flag(i, flag::PTR).then_some(raw.ptr[i]))?;
        put(py, trace, "alloc_bytes", c, m, |i| flag(i, flag::COUNT).then_some(raw.count[i]))?;
        put(py, trace, "first_page", c, m, |i| pages(raw.kind[i]).then_some(raw.off[i] as u32))?;
        put(py, trace, "end_page", c, m, |i| pages(raw.kind[i]).then_some(raw.size[i]))?;
        let empty_only = |i: usize| (raw.kind[i] == Kind::BalanceFree).then(|| flag(i, flag::EMPTY_ONLY));
        put(py, trace, "empty_only", c, m, empty_only)?;
        put(py, trace, "nr_lost", c, m, |i| (raw.kind[i] == Kind::Lost).then_some(raw.count[i]))?;
        put(py, trace, "call_site", c, m, |i| code(i, raw.text[i]))?;
        put(py, trace, "gfp_flags", c, m, |i| code(i, raw.gfp[i]))?;
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

    /// (event, text) of the events that have unknown fields.
    fn extra_fields(&self) -> Vec<(usize, String)> {
        self.inner.all_extra_fields().map(|(index, text)| (index, text.to_owned())).collect()
    }

    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let facts = self.inner.facts();
        let d = PyDict::new(py);
        d.set_item("format", facts.format.map(Format::name))?;
        d.set_item("clock", clock_name(self.inner.clock()))?;
        d.set_item("hashed", self.inner.hashed())?;
        d.set_item("skipped_lines", facts.skipped_lines)?;
        d.set_item("damaged_lines", facts.damaged_lines)?;
        d.set_item("first_damage", &facts.first_damage)?;
        d.set_item("lost_events", self.inner.lost_events())?;
        d.set_item("overwritten_events", facts.overwritten_events)?;
        Ok(d)
    }

    fn take(&self, py: Python<'_>, events: PyReadonlyArray1<'_, u32>) -> PyResult<Self> {
        let events = events.as_array();
        let events = events.as_slice().map_or_else(|| events.to_vec().into(), Cow::Borrowed);
        // Checked by the caller; a number out of range must not get through all the same.
        if let Some(event) = events.iter().find(|&&event| event as usize >= self.inner.len()) {
            return Err(PyIndexError::new_err(format!("event {event} of {}", self.inner.len())));
        }
        Ok(Self::new(py.detach(|| self.inner.take(&events))))
    }

    fn of_call_sites(&self, py: Python<'_>, wanted: Vec<bool>) -> Self {
        Self::new(py.detach(|| self.inner.of_call_sites(&wanted)))
    }

    fn within(&self, py: Python<'_>, first: u64, end: u64) -> Self {
        Self::new(py.detach(|| self.inner.within(first, end)))
    }

    /// By time if asked for, else one after the other.
    #[staticmethod]
    fn join(py: Python<'_>, traces: Vec<Bound<'_, Trace>>, by_time: bool) -> PyResult<Self> {
        let traces: Vec<Arc<trace::Trace>> = traces.iter().map(|trace| Arc::clone(&trace.get().inner)).collect();
        let join = if by_time { trace::merge_while } else { trace::concatenate_while };
        let mut signals = Signals::default();
        let traces: Vec<&trace::Trace> = traces.iter().map(Arc::as_ref).collect();
        let joined = py.detach(|| join(&traces, &mut || signals.go_on()));
        signals.raised().map_or(Ok(()), Err)?;
        Ok(Self::new(joined.map_err(|error| errors::trace_error(py, &error))?))
    }

    fn anonymise(
        &self,
        py: Python<'_>,
        seed: u64,
        call_sites: bool,
        times: bool,
        addresses: Vec<u64>,
        unit_size: Option<u64>,
    ) -> PyResult<(Self, Vec<u64>)> {
        let options = Anonymise { seed, call_sites, times, addresses: &addresses, unit_size };
        let mut signals = Signals::default();
        let result = py.detach(|| trace::anonymise_while(&self.inner, &options, &mut || signals.go_on()));
        signals.raised().map_or(Ok(()), Err)?;
        let (trace, moved) = result.map_err(|error| errors::trace_error(py, &error))?;
        Ok((Self::new(trace), moved))
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
        extra_fields: Vec<(usize, String)>,
        bases: Vec<u64>,
        info: Bound<'py, PyDict>,
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
        let line = Given::<u32>::new("line", c, m)?;
        let about = About::new(&info)?;
        let limits = Limits { events: u64::from(u32::MAX) };
        let mut builder = TraceBuilder::with_limits(about.clock, limits);
        if about.hashed {
            builder = builder.hashed_pointers();
        }
        let declared = builder.declare(&bases, &call_sites, &gfp_flags);
        declared.map_err(|error| errors::trace_error(py, &error))?;
        let mut markers = markers.iter().peekable();
        let mut extra_fields = extra_fields.iter().peekable();
        let mut signals = Signals::default();
        for index in 0..columns.as_any().get_item("kind")?.len()? {
            if index % SLICE == 0 && !signals.go_on() {
                break;
            }
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
            if let Some((_, text)) = extra_fields.next_if(|(event, _)| *event == index) {
                builder.with_extra_fields(text).map_err(|error| bad(error.message))?;
            }
            builder.at_line(line.get(index).unwrap_or(0));
            builder.push(time, cpu.get(index), &row.event(kind, texts)).map_err(|error| bad(error.message))?;
        }
        if let Some(raised) = signals.raised() {
            return Err(raised);
        }
        builder.set_facts(about.facts);
        Ok(Self::new(builder.finish()))
    }
}

/// What Python says of a whole trace.
struct About {
    clock: Clock,
    hashed: bool,
    facts: Facts,
}

impl About {
    fn new(info: &Bound<'_, PyDict>) -> PyResult<Self> {
        let item = |name: &str| info.as_any().get_item(name);
        let clock: String = item("clock")?.extract()?;
        let clocks = [Clock::Microseconds, Clock::Nanoseconds, Clock::Counter];
        let clock = clocks.into_iter().find(|known| clock_name(*known) == clock);
        let format: Option<String> = item("format")?.extract()?;
        let facts = Facts {
            format: format.and_then(|name| Format::ALL.into_iter().find(|format| format.name() == name)),
            skipped_lines: item("skipped_lines")?.extract()?,
            damaged_lines: item("damaged_lines")?.extract()?,
            first_damage: item("first_damage")?.extract()?,
            overwritten_events: item("overwritten_events")?.extract()?,
        };
        let clock = clock.ok_or_else(|| PyValueError::new_err("no such clock"))?;
        Ok(Self { clock, hashed: item("hashed")?.extract()?, facts })
    }
}

fn text(code: Option<u32>, texts: &[String]) -> Option<&str> {
    texts.get(code? as usize).map(String::as_str)
}

pub(super) fn clock_name(clock: Clock) -> &'static str {
    match clock {
        Clock::Microseconds => "microseconds",
        Clock::Nanoseconds => "nanoseconds",
        Clock::Counter => "counter",
    }
}
