//! Between columns of the core and numpy arrays.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyInt;

use crate::block::Block;
use crate::cost::Costs;
use crate::variant::Generation;

/// An integer argument; what is not plainly one goes through the checks of the package, for its errors.
#[inline]
pub fn number(parameter: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    match plain_int(value) {
        Some(number) => Ok(number),
        None => checks(value)?.call_method1("integer", (parameter, value))?.extract(),
    }
}

/// A pointer argument, the same way.
#[inline]
pub fn pointer(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    match plain_int(value) {
        Some(number) => Ok(number),
        None => checks(value)?.call_method1("pointer", (value,))?.extract(),
    }
}

#[inline]
fn plain_int(value: &Bound<'_, PyAny>) -> Option<u64> {
    value.is_exact_instance_of::<PyInt>().then(|| value.extract().ok()).flatten()
}

fn checks<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyModule>> {
    value.py().import("percpu._checks")
}

/// The first `len` bits of a map, one bool each.
pub fn bits<'py>(py: Python<'py>, words: &[u64], len: usize) -> Bound<'py, PyArray1<bool>> {
    (0..len).map(|bit| words[bit / 64] >> (bit % 64) & 1 == 1).collect::<Vec<_>>().into_pyarray(py)
}

/// Names of the fields and one row of int32 a record, under the kernel's names.
pub type Records<'py> = (Vec<&'static str>, Bound<'py, PyArray2<i32>>);

fn rows<'py, const N: usize>(
    py: Python<'py>,
    names: [&'static str; N],
    blocks: &[Block],
    row: impl Fn(&Block) -> [i32; N],
) -> PyResult<Records<'py>> {
    let values: Vec<i32> = blocks.iter().flat_map(row).collect();
    Ok((names.to_vec(), values.into_pyarray(py).reshape([blocks.len(), N])?))
}

/// Block records.
pub fn blocks<'py>(py: Python<'py>, generation: Generation, blocks: &[Block]) -> PyResult<Records<'py>> {
    if matches!(generation, Generation::Linux414 | Generation::RfcV1) {
        let names = ["contig_hint", "contig_hint_start", "left_free", "right_free", "first_free"];
        return rows(py, names, blocks, |b| {
            [b.contig_hint, b.contig_hint_start, b.left_free, b.right_free, b.first_free]
        });
    }
    let names = [
        "scan_hint",
        "scan_hint_start",
        "contig_hint",
        "contig_hint_start",
        "left_free",
        "right_free",
        "first_free",
        "nr_bits",
    ];
    rows(py, names, blocks, |b| {
        [
            b.scan_hint,
            b.scan_hint_start,
            b.contig_hint,
            b.contig_hint_start,
            b.left_free,
            b.right_free,
            b.first_free,
            b.nr_bits,
        ]
    })
}

/// The chunk-wide record: before 5.2 it has only three fields.
pub fn hints<'py>(py: Python<'py>, generation: Generation, hints: &Block) -> PyResult<Records<'py>> {
    if generation == Generation::Linux414 {
        let names = ["contig_bits", "contig_bits_start", "first_bit"];
        return rows(py, names, &[*hints], |b| [b.contig_hint, b.contig_hint_start, b.first_free]);
    }
    blocks(py, generation, &[*hints])
}

/// A row of counters for each operation, in the order of [`crate::cost::TABLE`].
pub fn costs<'py>(py: Python<'py>, rows: &[Costs]) -> PyResult<Bound<'py, PyArray2<u64>>> {
    let flat: Vec<u64> = rows.iter().flat_map(|costs| costs.values()).collect();
    flat.into_pyarray(py).reshape([rows.len(), crate::cost::TABLE.len()])
}
