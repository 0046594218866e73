"""Where a capture goes: plain text, gzip or zstd by the name's suffix, with a head that is filled in at the end.

The head is known in full only when the recording is over (events, losses), but has to stand at the front. So it has
a fixed length, and is written twice. In a compressed file it is a member (gzip) or frame (zstd) of its own that is
stored, not compressed; readers see one text.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from percpu.errors import InvalidRequest

__all__ = ["Sink"]

_MAGIC_ZSTD = b"\x28\xb5\x2f\xfd"


def _stored_zstd(data: bytes) -> bytes:
    """One zstd frame that holds the data as it is: a single segment, 4 bytes of length, one raw block."""
    block = (len(data) << 3 | 1).to_bytes(3, "little")
    return _MAGIC_ZSTD + b"\xa0" + len(data).to_bytes(4, "little") + block + data


def _zstd_compressor() -> tuple[Any, int]:
    """A streaming compressor, and the mode in which it brings a block to its end."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14

        return zstd.ZstdCompressor(level=3), zstd.ZstdCompressor.FLUSH_BLOCK
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError as error:
        raise ImportError("zstandard is needed for .zst: pip install 'percpu[cli]'; .gz needs nothing") from error
    return zstandard.ZstdCompressor(level=3).compressobj(), zstandard.COMPRESSOBJ_FLUSH_BLOCK


class Sink:
    """A file that is being written.

    Parameters
    ----------
    target : path or binary file
        A path; or an open file, which gets plain text, and the head once only.
    head : bytes
        What stands at the front for now.
    """

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, head: bytes) -> None:
        self._head_length = len(head)
        self._owned = isinstance(target, (str, os.PathLike))
        self._compressor: Any = None
        self._sync = 0
        self._stored = bytes
        if not isinstance(target, (str, os.PathLike)):
            self._file: BinaryIO = target
        else:
            path = Path(target)
            if path.suffix == ".gz":
                self._compressor, self._sync = zlib.compressobj(5, zlib.DEFLATED, 31), zlib.Z_SYNC_FLUSH
                self._stored = lambda data: gzip.compress(data, 0, mtime=0)
            elif path.suffix == ".zst":
                self._compressor, self._sync = _zstd_compressor()
                self._stored = _stored_zstd
            elif path.suffix in (".bz2", ".xz", ".parquet"):
                raise InvalidRequest(f"path={str(path)!r}: a capture is written as text, .gz or .zst", parameter="path")
            self._file = path.open("wb")
        self._file.write(self._stored(head))

    def write(self, data: bytes) -> None:
        """Add text."""
        self._file.write(data if self._compressor is None else self._compressor.compress(data))

    def flush(self) -> None:
        """Bring what was written so far to the file, where it can be read even if the process is killed."""
        if self._compressor is not None:
            self._file.write(self._compressor.flush(self._sync))
        self._file.flush()

    def close(self, head: bytes) -> None:
        """Put the final head, of the same length, in its place and close the file."""
        if len(head) != self._head_length:
            raise ValueError(f"the head has {len(head)} bytes in place of {self._head_length}")
        if self._compressor is not None:
            self._file.write(self._compressor.flush())
        if self._owned:
            # A pipe by name has no front to go back to.
            if self._file.seekable():
                self._file.seek(0)
                self._file.write(self._stored(head))
            self._file.close()
        else:
            self._file.flush()
