"""The kernel's table of symbols, as ``/proc/kallsyms`` and ``System.map`` print it."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from percpu import _core
from percpu.errors import TraceError

__all__ = ["Kallsyms", "read_kallsyms"]

_MAX_LINE = 4096
_MAX_LINES = 1 << 23
_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]+(\S)[ \t]+(\S+)(?:[ \t]+\[([^\]\s]+)\])?\s*")
_FUNCTIONS = frozenset(b"tTwWiI")


class Kallsyms:
    """Functions of a kernel and its modules; made by `read_kallsyms`.

    Attributes
    ----------
    nr_lines : int
        Lines of the file.
    """

    def __init__(self, *_: Any) -> None:
        raise TypeError("use read_kallsyms(path)")

    @classmethod
    def _wrap(cls, functions: list[tuple[int, str, str]], nr_lines: int) -> Kallsyms:
        self = cls.__new__(cls)
        self._core = _core.Symbols(functions)
        self.nr_lines = nr_lines
        return self

    _core: _core.Symbols
    nr_lines: int

    def __len__(self) -> int:
        """Return the number of functions, one for each address."""
        return len(self._core)

    def resolve(self, call_site: str) -> str:
        """Return a call site in the form of ftrace: ``mm_init+0x2bf/0x4d0``, with ``[module]`` behind it.

        Parameters
        ----------
        call_site : str
            An address in hexadecimal digits, or a name with an offset as perf prints it.

        Returns
        -------
        str
            As it was, if the table does not have it or has several of that name. The size is that up to the next
            function, as in the kernel's own texts.
        """
        if not isinstance(call_site, str):
            raise TypeError(f"call_site must be a str, not {type(call_site).__name__}")
        return self._core.resolve(call_site)

    def __repr__(self) -> str:
        return f"Kallsyms({len(self)} functions of {self.nr_lines} symbols)"


def read_kallsyms(source: str | os.PathLike[str]) -> Kallsyms:
    r"""Read a table of symbols.

    Parameters
    ----------
    source : path
        A copy of ``/proc/kallsyms``, made as root on the machine of the trace and in the same boot, or the file itself;
        or a ``System.map`` (which fits only without address randomisation). Plain or gzip. It is read line by line.

    Returns
    -------
    Kallsyms
        The symbols, ready to be asked.

    Raises
    ------
    TraceError
        With file, line number and text, if a line is not of this form, or with what to do, if the file hides addresses.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = pathlib.Path(directory, "kallsyms")
    ...     _ = path.write_text("ffffffff81000000 T mm_init\nffffffff810004d0 t mm_exit\n")
    ...     table = read_kallsyms(path)
    >>> table.resolve("ffffffff810002bf"), table.resolve("mm_init+0x2bf"), table.resolve("elsewhere+0x1")
    ('mm_init+0x2bf/0x4d0', 'mm_init+0x2bf/0x4d0', 'elsewhere+0x1')
    """
    path = Path(source)
    functions: list[tuple[int, str, str]] = []
    highest = number = 0
    with path.open("rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
        for number, line in _lines(unpacked if file.peek(2)[:2] == b"\x1f\x8b" else file, path):
            found = _LINE.fullmatch(line)
            if found is None:
                if not line.strip():
                    continue
                raise _error(path, number, "not an address, a type and a name", line)
            digits, kind, name, module = found.groups()
            address = int(digits, 16)
            highest = max(highest, address)
            if kind[0] in _FUNCTIONS and address:
                functions.append((address, name.decode("utf-8", "replace"), (module or b"").decode("utf-8", "replace")))
    if not highest:
        why = "all addresses are 0: copy it as root, with kernel.kptr_restrict below 2" if number else "it is empty"
        raise TraceError(f"{path}: {why}", path=os.fspath(path))
    if not functions:
        raise TraceError(f"{path}: none of {number} symbols is a function", path=os.fspath(path))
    return Kallsyms._wrap(functions, number)


def _lines(file: IO[bytes] | gzip.GzipFile, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while True:
        try:
            line = file.readline(_MAX_LINE + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(f"{path}: damaged gzip behind line {number}: {error}", path=os.fspath(path)) from error
        if not line:
            return
        number += 1
        if len(line) > _MAX_LINE:
            raise _error(path, number, f"a line longer than {_MAX_LINE} bytes", line)
        if number > _MAX_LINES:
            raise _error(path, number, f"more than {_MAX_LINES} lines", line)
        yield number, line


def _error(path: Path, number: int, message: str, line: bytes) -> TraceError:
    shown = line[:80].decode("utf-8", "replace").rstrip("\r\n")
    return TraceError(f"{path}: line {number}: {message}: {shown!r}", line=number, text=shown, path=os.fspath(path))
