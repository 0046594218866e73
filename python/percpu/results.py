"""Results: columns over numpy arrays, with units in their names.

Only numpy is needed; pandas, pyarrow and xarray are imported where a method asks for them.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["Result"]

_HTML_ROWS = 10
_UNITS = {"bytes": "bytes", "bits": "bits", "pages": "pages", "ns": "ns", "seconds": "s", "percent": "%"}


def _import(name: str, extra: str) -> Any:
    """Import an optional package, or say which extra brings it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed here: pip install 'percpu[{extra}]'") from error


def unit_of(name: str) -> str:
    """Unit of a column, read off its name.

    Parameters
    ----------
    name : str
        A column's name.

    Returns
    -------
    str
        ``bytes``, ``bits``, ``pages``, ``ns``, ``s``, ``%``, or ``1`` for counts and everything else.

    Examples
    --------
    >>> unit_of("live_bytes"), unit_of("waste_percent"), unit_of("nr_alloc")
    ('bytes', '%', '1')
    """
    return _UNITS.get(name.rpartition("_")[2], "1")


class Result:
    """Named columns of equal length.

    ``r["size_bytes"]`` and ``r.size_bytes`` are read-only numpy arrays, ``r[3]`` is a row, ``r[2:5]`` and ``r[mask]``
    are results with those rows. Like a data frame, ``len`` counts rows and iteration gives names. Integer columns in
    which values can be missing carry a mask; what is under the mask has no meaning.

    Parameters
    ----------
    columns : mapping of str to (n,) array
        The columns, in order. Numeric, boolean, or object/str for text.
    mask : mapping of str to (n,) bool array, optional
        True where a value is missing.
    categories : mapping of str to sequence of str, optional
        For an integer column: the names behind its codes.
    dims : sequence of str, optional
        The columns that are parameters; `to_xarray` makes them dimensions.
    attrs : mapping, optional
        Facts about the whole: seed, versions, machine.
    units : mapping of str to str, optional
        Units of columns whose names do not tell them.

    Examples
    --------
    >>> r = Result({"size_bytes": [4, 8], "ok": [True, False]})
    >>> len(r), list(r), r.size_bytes.sum()
    (2, ['size_bytes', 'ok'], np.int64(12))
    >>> r[1:]
    Result(1 row: size_bytes, ok)
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        *,
        mask: Mapping[str, Any] | None = None,
        categories: Mapping[str, Any] | None = None,
        dims: Any = (),
        attrs: Mapping[str, Any] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> None:
        self._columns: dict[str, np.ndarray] = {}
        for name, values in columns.items():
            array = np.asarray(values).view()
            if array.ndim != 1:
                raise ValueError(f"column {name!r} has {array.ndim} dimensions; it must have 1")
            array.flags.writeable = False
            self._columns[name] = array
        lengths = {len(array) for array in self._columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"columns differ in length: { {k: len(v) for k, v in self._columns.items()} }")
        self._mask = {name: np.asarray(flags, dtype=bool) for name, flags in (mask or {}).items()}
        self._categories = {name: tuple(names) for name, names in (categories or {}).items()}
        self.dims = tuple(dims)
        self.attrs = dict(attrs or {})
        self._units = dict(units or {})

    # -- columns ---------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self._columns.values()), ()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def keys(self) -> list[str]:
        """Names of the columns.

        Returns
        -------
        list of str
            Names, in order.
        """
        return list(self._columns)

    def items(self) -> list[tuple[str, np.ndarray]]:
        """Names and columns.

        Returns
        -------
        list of (str, (n,) array)
            Name and column, in order.
        """
        return list(self._columns.items())

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __getitem__(self, key: Any) -> Any:
        """Return a column by name, or the rows of a slice, an index array or a mask."""
        if isinstance(key, str):
            return self._columns[key]
        if isinstance(key, (int, np.integer)):
            return self.row(int(key))
        return type(self)._from_parts(
            {name: array[key] for name, array in self._columns.items()},
            {name: array[key] for name, array in self._mask.items()},
            self,
        )

    @classmethod
    def _from_parts(cls, columns: Any, mask: Any, like: Result) -> Result:
        new = cls.__new__(cls)
        Result.__init__(
            new, columns, mask=mask, categories=like._categories, dims=like.dims, attrs=like.attrs, units=like._units
        )
        return new

    def __getattr__(self, name: str) -> np.ndarray:
        columns = self.__dict__.get("_columns", {})
        if name in columns:
            return columns[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute or column {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._columns})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        return list(self) == list(other) and all(
            np.array_equal(self[name], other[name], equal_nan=self[name].dtype.kind == "f")
            and np.array_equal(self.missing(name), other.missing(name))
            for name in self
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        n = len(self)
        return f"{type(self).__name__}({n} row{'' if n == 1 else 's'}: {', '.join(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        columns = dict(self._columns)
        return _rebuild, (type(self), columns, self._mask, self._categories, self.dims, self.attrs, self._units)

    # -- rows ------------------------------------------------------------------------

    def missing(self, name: str) -> np.ndarray:
        """Where a column has no value.

        Parameters
        ----------
        name : str
            A column's name.

        Returns
        -------
        (n,) bool array
            True where the column has no value.
        """
        if name not in self._columns:
            raise KeyError(name)
        return self._mask.get(name, np.zeros(len(self), dtype=bool))

    def row(self, index: int) -> dict[str, Any]:
        """One row as Python values; None where a value is missing.

        Parameters
        ----------
        index : int
            Row number, negative from the end.

        Returns
        -------
        dict
            Value by name; None where there is none.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row: dict[str, Any] = {}
        for name, array in self._columns.items():
            value = array[index].item() if isinstance(array[index], np.generic) else array[index]
            if name in self._mask and self._mask[name][index]:
                value = None
            elif name in self._categories:
                value = self._categories[name][value]
            row[name] = value
        return row

    def rows(self) -> Iterator[dict[str, Any]]:
        """Iterate over the rows as dictionaries.

        Returns
        -------
        iterator of dict
            One mapping a row, as `row` gives it.
        """
        return (self.row(i) for i in range(len(self)))

    def unit(self, name: str) -> str:
        """Unit of a column.

        Parameters
        ----------
        name : str
            A column's name.

        Returns
        -------
        str
            As `unit_of`, unless the result says otherwise.
        """
        return self._units.get(name, unit_of(name))

    def digest(self) -> str:
        """Hash of what is the same in every run: all columns but times.

        Columns whose names end in ``_ns`` or ``_seconds`` are left out, and what stands where a value is missing.

        Returns
        -------
        str
            64 hexadecimal digits, equal on every machine.

        Examples
        --------
        >>> a, b = Result({"n": [1, 2], "run_ns": [5, 6]}), Result({"n": [1, 2], "run_ns": [7, 8]})
        >>> a.digest() == b.digest()
        True
        """
        import hashlib

        digest = hashlib.sha256()
        for name in self:
            if not name.endswith(("_ns", "_seconds")):
                digest.update(f"\0{name}\0{self._bytes(name)!r}".encode())
        return digest.hexdigest()

    def _bytes(self, name: str) -> bytes:
        """A column's values as bytes that depend on neither machine nor mask."""
        array, mask = self._columns[name], self.missing(name)
        if name in self._categories:
            array = np.array(self._categories[name], dtype=object)[array]
        if array.dtype.kind in "iufb":
            kept = np.where(mask, np.zeros(1, dtype=array.dtype), array)
            return kept.astype(kept.dtype.newbyteorder("<")).tobytes() + mask.tobytes()
        return repr([None if gap else str(value) for gap, value in zip(mask, array, strict=True)]).encode()

    # -- other libraries -------------------------------------------------------------

    def to_pandas(self) -> Any:
        """Convert to a pandas data frame.

        Integers with missing values become nullable integers, coded columns become categoricals. Pointers stay
        ``uint64``.

        Returns
        -------
        pandas.DataFrame
            One row a row of this, without an index of its own.
        """
        pd = _import("pandas", "analysis")
        data = {}
        for name, array in self._columns.items():
            mask = self._mask.get(name)
            if name in self._categories:
                codes = array.astype(np.int64)
                if mask is not None:
                    codes = np.where(mask, -1, codes)
                data[name] = pd.Categorical.from_codes(codes, categories=self._categories[name])
            elif mask is not None and array.dtype.kind in "iu":
                data[name] = pd.arrays.IntegerArray(array.copy(), mask.copy())
            elif mask is not None and array.dtype.kind == "b":
                data[name] = pd.arrays.BooleanArray(array.copy(), mask.copy())
            elif mask is not None and array.dtype.kind == "f":
                data[name] = np.where(mask, np.nan, array)
            elif mask is not None:
                data[name] = np.where(mask, None, array.astype(object))
            else:
                data[name] = array.copy()
        return pd.DataFrame(data)

    def to_arrow(self) -> Any:
        """Convert to an Arrow table.

        Returns
        -------
        pyarrow.Table
            The columns; missing values are null.
        """
        pa = _import("pyarrow", "analysis")
        arrays = []
        for name, array in self._columns.items():
            mask = self._mask.get(name)
            if name in self._categories:
                column = pa.DictionaryArray.from_arrays(
                    pa.array(array.astype(np.int32), mask=mask), pa.array(self._categories[name])
                )
            else:
                column = pa.array(array, mask=mask)
            arrays.append(column)
        return pa.Table.from_arrays(arrays, names=list(self))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Export to any library that reads the Arrow C stream interface (needs pyarrow)."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_xarray(self) -> Any:
        """Convert to an xarray dataset.

        The columns in `dims` become dimensions; without any there is one, called ``row``. Every variable has
        ``attrs["units"]``. Where a combination is absent the value is NaN.

        Returns
        -------
        xarray.Dataset
            A variable a column.
        """
        xr = _import("xarray", "analysis")
        if not self.dims:
            variables = {
                name: ("row", self._plain(name), {"units": self.unit(name)}) for name in self if name not in self.dims
            }
            return xr.Dataset(variables, coords={"row": np.arange(len(self))}, attrs=self.attrs)
        axes, places = [], []
        for dim in self.dims:
            values, place = np.unique(self._plain(dim), return_inverse=True)
            axes.append(values)
            places.append(place)
        shape = tuple(len(axis) for axis in axes)
        variables = {}
        for name in self:
            if name in self.dims:
                continue
            values = self._plain(name)
            if values.dtype.kind in "iufb":
                cube = np.full(shape, np.nan)
            else:
                cube = np.full(shape, None, dtype=object)
            cube[tuple(places)] = values
            if values.dtype.kind in "iub" and not np.isnan(cube).any():
                cube = cube.astype(values.dtype) if values.dtype.kind == "b" else _exact(shape, places, values)
            variables[name] = (self.dims, cube, {"units": self.unit(name)})
        coords = {dim: (dim, axis, {"units": self.unit(dim)}) for dim, axis in zip(self.dims, axes, strict=True)}
        return xr.Dataset(variables, coords=coords, attrs=self.attrs)

    def _plain(self, name: str) -> np.ndarray:
        """Return a column for xarray: names for codes, NaN for missing numbers."""
        array, mask = self._columns[name], self._mask.get(name)
        if name in self._categories:
            array = np.array(self._categories[name], dtype=object)[array]
        if mask is None or not mask.any():
            return array
        if array.dtype.kind in "iufb":
            return np.where(mask, np.nan, array.astype(float))
        return np.where(mask, None, array)

    def _repr_html_(self) -> str:
        n = len(self)
        shown = range(n) if n <= 2 * _HTML_ROWS else [*range(_HTML_ROWS), None, *range(n - _HTML_ROWS, n)]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self)
        body = []
        for i in shown:
            if i is None:
                cells = "<td>…</td>" * (len(self._columns) + 1)
            else:
                values = self.row(i).values()
                cells = f"<th>{i}</th>" + "".join(
                    f"<td>{'–' if v is None else html.escape(str(v))}</td>" for v in values
                )
            body.append(f"<tr>{cells}</tr>")
        return (
            f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
            f"<p>{n:,} rows × {len(self._columns)} columns</p>"
        )


def _exact(shape: tuple[int, ...], places: list[np.ndarray], values: np.ndarray) -> np.ndarray:
    cube = np.zeros(shape, dtype=values.dtype)
    cube[tuple(places)] = values
    return cube


def _rebuild(
    cls: type[Result], columns: Any, mask: Any, categories: Any, dims: Any, attrs: Any, units: Any = None
) -> Result:
    new = cls.__new__(cls)
    Result.__init__(new, columns, mask=mask, categories=categories, dims=dims, attrs=attrs, units=units)
    return new
