//! Messages in a text.

use pyo3::prelude::*;

use crate::answers::explain;

/// (line number, message, kind, values as JSON).
type Found = (u64, String, &'static str, String);

#[pyfunction]
pub fn find_messages(py: Python<'_>, text: &str) -> (Vec<Found>, Vec<(u64, String)>, u64) {
    let findings = py.detach(|| explain::find_messages(text));
    let found = findings.found.into_iter().map(|f| (f.line, f.text, f.kind, f.values.to_string())).collect();
    (found, findings.unknown, findings.nr_other)
}
