"""Result: columns, masks, conversions."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from percpu import Result


@pytest.fixture
def result():
    return Result(
        {
            "size_bytes": np.array([4, 8, 12]),
            "ptr": np.array([2**63 + 1, 0, 5], np.uint64),
            "kind": np.array([0, 1, 0]),
        },
        mask={"ptr": [False, True, False]},
        categories={"kind": ["alloc", "free"]},
        attrs={"seed": 1},
    )


def test_rows(result):
    assert len(result) == 3
    assert list(result) == ["size_bytes", "ptr", "kind"]
    assert result.row(1) == {"size_bytes": 8, "ptr": None, "kind": "free"}
    assert result[-1] == {"size_bytes": 12, "ptr": 5, "kind": "alloc"}
    assert result[[0, 2]].size_bytes.tolist() == [4, 12]
    assert result[result.size_bytes > 4].row(0)["ptr"] is None
    with pytest.raises(IndexError):
        result.row(3)
    with pytest.raises(AttributeError):
        result.nothing
    with pytest.raises(ValueError, match="read-only"):
        result.size_bytes[0] = 1


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="length"):
        Result({"a": [1], "b": [1, 2]})


def test_pickle(result):
    assert pickle.loads(pickle.dumps(result)) == result
    assert result != result[:2]


def test_pandas(result):
    pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert str(frame["ptr"].dtype) == "UInt64"
    assert frame["ptr"][0] == 2**63 + 1
    assert frame["ptr"].isna().tolist() == [False, True, False]
    assert frame["kind"].tolist() == ["alloc", "free", "alloc"]


def test_arrow(result):
    pa = pytest.importorskip("pyarrow")
    table = pa.table(result)
    assert table.column("ptr").to_pylist() == [2**63 + 1, None, 5]
    assert table.column("kind").to_pylist() == ["alloc", "free", "alloc"]


def test_xarray():
    pytest.importorskip("xarray")
    grid = Result(
        {"block_size_bytes": [1024, 4096, 1024], "kernel": ["4.19", "4.19", "6.12"], "nr_chunks": [1, 2, 3]},
        dims=("block_size_bytes", "kernel"),
    )
    ds = grid.to_xarray()
    assert ds["nr_chunks"].dims == ("block_size_bytes", "kernel")
    assert float(ds["nr_chunks"].sel(block_size_bytes=1024, kernel="6.12")) == 3
    assert np.isnan(ds["nr_chunks"].sel(block_size_bytes=4096, kernel="6.12"))
    assert ds["block_size_bytes"].attrs["units"] == "bytes"


def test_html(result):
    html = result._repr_html_()
    assert "<th>ptr</th>" in html
    assert "3 rows" in html
    assert "…" in Result({"n": np.arange(1000)})._repr_html_()
