//! From errors of the core to exceptions of `percpu.errors`: the only place that names them.

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use crate::boot_log::message;
use crate::error::{ConfigError, LayoutError, RequestError, StateError, TraceError, Violation};
use crate::geometry::Geometry;
use crate::request::{Reason, Request, Sleep};
use crate::variant::Generation;

/// An exception of `percpu.errors` with attributes.
fn exception(class: &str, message: &str, attributes: PyResult<Bound<'_, PyDict>>) -> PyErr {
    Python::attach(|py| {
        let make = || -> PyResult<PyErr> {
            let class = py.import("percpu.errors")?.getattr(class)?;
            Ok(PyErr::from_value(class.call((message,), Some(&attributes?))?))
        };
        make().unwrap_or_else(|error| error)
    })
}

/// A bad argument.
pub fn invalid_request(py: Python<'_>, error: &ConfigError) -> PyErr {
    exception("InvalidRequest", &error.to_string(), [("parameter", error.parameter)].into_py_dict(py))
}

/// A first chunk that cannot be.
pub fn layout_error(py: Python<'_>, error: &LayoutError) -> PyErr {
    let log = match error {
        LayoutError::Input(_) => &[],
        LayoutError::Setup { log, .. } | LayoutError::Failed { log, .. } => log.as_slice(),
    };
    exception("LayoutError", &error.to_string(), [("log", log)].into_py_dict(py))
}

/// A pointer or address without an answer; `index` is its place in a batch.
pub fn request_error(py: Python<'_>, error: &RequestError, index: Option<usize>) -> PyErr {
    match error {
        RequestError::InvalidFree { ptr, .. } => {
            let attributes = [("ptr", *ptr)].into_py_dict(py).and_then(|d| d.set_item("index", index).map(|()| d));
            let text = index.map_or(String::new(), |index| format!("ptrs[{index}]: "));
            exception("InvalidFree", &(text + &error.to_string()), attributes)
        }
        RequestError::InvalidAddress { address, .. } => {
            exception("InvalidAddress", &error.to_string(), [("address", *address)].into_py_dict(py))
        }
        RequestError::Argument(config) => invalid_request(py, config),
    }
}

/// A pointer that cannot be freed, whatever the reason.
pub fn free_error(py: Python<'_>, error: RequestError, index: Option<usize>) -> PyErr {
    let error = match error {
        RequestError::InvalidAddress { address: ptr, reason } => RequestError::InvalidFree { ptr, reason },
        other => other,
    };
    request_error(py, &error, index)
}

/// A request that was not served.
pub fn alloc_error(py: Python<'_>, limits: &Geometry, request: &Request, reason: Reason) -> PyErr {
    let (size, align) = (request.size.0, request.align.0);
    if reason == Reason::Illegal {
        let (most, page) = (limits.max_request().0, limits.page_size().0);
        let parameter = if size == 0 || size > most { "size" } else { "align" };
        let limit = match parameter {
            "size" => format!("size must be from 1 to {most}"),
            _ => format!("align must be a power of two up to {page}"),
        };
        let message = message::illegal_size(size, align) + ": " + &limit;
        return exception("InvalidRequest", &message, [("parameter", parameter)].into_py_dict(py));
    }
    refused(py, request, reason.name(), reason.text())
}

/// A request whose task was killed while it waited.
pub fn killed(py: Python<'_>, request: &Request) -> PyErr {
    refused(py, request, "killed", "killed while waiting for the allocator")
}

fn refused(py: Python<'_>, request: &Request, reason: &str, text: &str) -> PyErr {
    let (size, align, atomic) = (request.size.0, request.align.0, request.sleep == Sleep::Never);
    let attributes = || {
        let d = PyDict::new(py);
        d.set_item("reason", reason)?;
        d.set_item("size", size)?;
        d.set_item("align", align)?;
        d.set_item("atomic", atomic)?;
        Ok(d)
    };
    exception("AllocError", text, attributes())
}

/// Areas for which there is no address space.
pub fn area_error(py: Python<'_>, reason: &str, text: &str, size: u64, align: u64) -> PyErr {
    let attributes = || {
        let d = PyDict::new(py);
        d.set_item("reason", reason)?;
        d.set_item("size", size)?;
        d.set_item("align", align)?;
        Ok(d)
    };
    exception("AllocError", text, attributes())
}

/// A trace that cannot be used.
pub fn trace_error(py: Python<'_>, error: &TraceError) -> PyErr {
    let attributes = [("line", error.line)].into_py_dict(py).and_then(|d| d.set_item("text", &error.text).map(|()| d));
    exception("TraceError", &error.to_string(), attributes)
}

/// A trace that cannot be read, and where it came from.
pub fn trace_error_in(py: Python<'_>, source: &str, error: &TraceError) -> PyErr {
    let attributes = || {
        let d = PyDict::new(py);
        d.set_item("line", error.line)?;
        d.set_item("text", &error.text)?;
        d.set_item("path", source)?;
        Ok(d)
    };
    exception("TraceError", &format!("{source}: {error}"), attributes())
}

/// A state that cannot be used.
pub fn state_error(py: Python<'_>, error: &StateError) -> PyErr {
    exception("StateError", &error.to_string(), [("path", &error.path)].into_py_dict(py))
}

/// A broken invariant.
pub fn verify_error(py: Python<'_>, violation: &Violation) -> PyErr {
    exception("VerifyError", &violation.to_string(), [("invariant", violation.invariant)].into_py_dict(py))
}

/// An engine in Python that did what no allocator may do.
pub fn illegal_answer(py: Python<'_>, text: &str) -> PyErr {
    exception("VerifyError", text, [("invariant", "legal-answer")].into_py_dict(py))
}

/// A field that a generation does not keep.
pub fn not_kept(py: Python<'_>, engine: Generation, field: &str) -> PyErr {
    let message = format!("engine {engine} keeps no {field}");
    exception("NotKept", &message, [("field", field), ("engine", engine.name())].into_py_dict(py))
}

/// A chunk that does not exist any more.
pub fn stale_chunk(py: Python<'_>, chunk: u32) -> PyErr {
    exception("StaleChunk", &format!("chunk {chunk} does not exist any more"), [("chunk", chunk)].into_py_dict(py))
}
