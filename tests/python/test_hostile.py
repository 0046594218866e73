"""Damaged Parquet files: read, or refused with the error that names the file; the process lives on."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import percpu as pc

from .conftest import RECORDINGS

SCRIPT = """
import collections, resource, sys
from pathlib import Path
import numpy as np
import percpu as pc

resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
good, bad = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
rng = np.random.default_rng(int(sys.argv[4]))
said = collections.Counter()
for case in range(int(sys.argv[3])):
    data = bytearray(good)
    # The footer, which says what is where, as often as the data.
    low = 0 if rng.random() < 0.5 else max(0, len(data) - 6000)
    match int(rng.integers(5)):
        case 0:
            del data[int(rng.integers(low, len(data))) :]
        case 1:
            for at in rng.integers(low, len(data), 1 + int(rng.integers(20))):
                data[at] = int(rng.integers(256))
        case 2:
            for at in rng.integers(low, len(data), 1 + int(rng.integers(3))):
                data[at] ^= 1 << int(rng.integers(8))
        case 3:
            at, length = int(rng.integers(low, len(data))), int(rng.integers(1, 40))
            data[at : at + length] = rng.bytes(int(rng.integers(0, 40)))
        case 4:
            at, other = (int(x) for x in rng.integers(low, len(data), 2))
            data[at : at + 64] = data[other : other + 64]
    data[:4] = b"PAR1"
    bad.write_bytes(data)
    for read in (pc.read_trace, lambda path: [len(block) for block in pc.iter_trace(path, events=100)]):
        try:
            read(bad)
            said["read"] += 1
        except pc.TraceError as error:
            assert bad.name in str(error), error
            said["refused"] += 1
        except BaseException as error:
            bad.with_suffix(".kept").write_bytes(data)
            sys.exit(f"case {case}: {type(error).__name__}: {error}")
print(said["read"], said["refused"])
"""


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("hostile") / "good.parquet"
    recorded = next(file for file in sorted(RECORDINGS.rglob("trace*.txt.gz")))
    pc.read_trace(recorded)[:400].to_parquet(path)
    return path


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_parquet(parquet, seed):
    """`PERCPU_HOSTILE` says how many files."""
    cases = os.environ.get("PERCPU_HOSTILE", "60")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, parquet, parquet.with_name(f"bad-{seed}.parquet"), cases, str(seed)],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    # What a checksum does not cover is read: few of them.
    read, refused = map(int, run.stdout.split())
    assert read + refused == 2 * int(cases)
    assert refused > int(cases) / 2


@pytest.mark.parametrize("column", ["marker", "extra_fields", "call_site", "kind"])
def test_one_long_text_many_times(parquet, column, tmp_path):
    """A small file whose texts would fill the memory if each row had its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(parquet)
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), pa.array(["x" * (8 << 20)]))
    table = table.set_column(table.schema.get_field_index(column), column, long)
    bad = tmp_path / "long.parquet"
    facts = {b"percpu.trace": pq.read_metadata(parquet).metadata[b"percpu.trace"]}
    pq.write_table(table.replace_schema_metadata(facts), bad, compression="zstd")
    assert bad.stat().st_size < 1 << 20
    for read in (pc.read_trace, lambda path: list(pc.iter_trace(path, events=300))):
        with pytest.raises(pc.TraceError, match=f"long.parquet: column '{column}' has texts of .* bytes, the limit is"):
            read(bad)
