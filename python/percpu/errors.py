"""Exceptions of the package.

Every one derives from `PercpuError` and from the built-in exception that fits, so that
``except ValueError`` or ``except MemoryError`` work as well. All keep their values as attributes,
and pickle with them. After any of them the allocator is as it was before the call, but for `AllocError`: a request
that fails leaves behind what it does in the kernel, such as a scheduled worker or a new chunk.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AllocError",
    "CaptureError",
    "InvalidAddress",
    "InvalidFree",
    "InvalidRequest",
    "LayoutError",
    "NotKept",
    "PercpuError",
    "StaleChunk",
    "StateError",
    "TraceError",
    "VerifyError",
]


def _rebuild(cls: type[PercpuError], message: str, attributes: dict[str, Any]) -> PercpuError:
    return cls(message, **attributes)


class PercpuError(Exception):
    """Base of all exceptions of the package.

    Parameters
    ----------
    message : str
        The text.
    **attributes
        Values that belong to the error; each becomes an attribute.
    """

    def __init__(self, message: str = "", **attributes: Any) -> None:
        super().__init__(message)
        self.__dict__.update(attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), dict(self.__dict__))


class AllocError(PercpuError, MemoryError):
    """A request that the kernel would have answered with a null pointer.

    What it leaves behind is what it does in the kernel: ``docs/how-to/faults.md``, and ``O4-failure-unchanged`` of
    ``docs/design.md``.

    Parameters
    ----------
    message : str
        The kernel's own words, for example ``atomic alloc failed, no space left``.
    reason : str
        For programs: ``reserved_full``, ``no_space``, ``no_chunk``, ``no_page``, ``reserved_map``,
        ``map_extend``, ``no_room`` or ``killed``.
    size, align : int
        The request in bytes, as it was given.
    atomic : bool
        Whether the request was not allowed to sleep.

    Examples
    --------
    >>> import pickle
    >>> e = AllocError("atomic alloc failed, no space left", reason="no_space", size=64, align=8, atomic=True)
    >>> pickle.loads(pickle.dumps(e)).reason
    'no_space'
    """

    def __init__(
        self, message: str = "", *, reason: str = "", size: int = 0, align: int = 0, atomic: bool = False, **more: Any
    ) -> None:
        super().__init__(message, reason=reason, size=size, align=align, atomic=atomic, **more)


class CaptureError(PercpuError, RuntimeError):
    """A recording on this machine that the kernel does not allow, or that it cannot make.

    Parameters
    ----------
    message : str
        What was refused, the kernel's reason, and what to enable.
    step : str
        Where it failed.
    errno : int or None
        The kernel's error number, if there was one.
    """

    def __init__(self, message: str = "", *, step: str = "", errno: int | None = None, **more: Any) -> None:
        super().__init__(message, step=step, errno=errno, **more)


class InvalidRequest(PercpuError, ValueError):
    """An argument outside its range.

    That includes sizes and alignments which no kernel serves: 0, more than the limit, or not a power of two.

    Parameters
    ----------
    message : str
        The text; it names the parameter, what was given and the limit.
    parameter : str
        The argument that is wrong.
    index : int or None
        Its position, if the argument is an array.
    """

    def __init__(self, message: str = "", *, parameter: str = "", index: int | None = None, **more: Any) -> None:
        super().__init__(message, parameter=parameter, index=index, **more)


class InvalidFree(PercpuError, ValueError):
    """A free of something that is not the start of a live area.

    Parameters
    ----------
    message : str
        The text.
    ptr : int
        The pointer as it was given.
    index : int or None
        Its position in the array of `Allocator.free_many`.
    """

    def __init__(self, message: str = "", *, ptr: int = 0, index: int | None = None, **more: Any) -> None:
        super().__init__(message, ptr=ptr, index=index, **more)


class InvalidAddress(PercpuError, ValueError):
    """An address or a CPU for which there is no answer.

    Parameters
    ----------
    message : str
        The text.
    address : int
        The address as it was given.
    """

    def __init__(self, message: str = "", *, address: int = 0, **more: Any) -> None:
        super().__init__(message, address=address, **more)


class LayoutError(PercpuError, ValueError):
    """A first chunk that cannot be computed or set up, or that does not fit the allocator.

    Parameters
    ----------
    message : str
        The text.
    log : tuple of str
        What the kernel prints before it gives up.
    **more
        Of a boot log that shows too little ``missing``: what would be needed.
    """

    def __init__(self, message: str = "", *, log: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(message, log=tuple(log), **more)


class TraceError(PercpuError, ValueError):
    """A trace that cannot be read or replayed.

    Parameters
    ----------
    message : str
        The text.
    line : int or None
        Line in the file, counted from 1.
    text : str or None
        The line itself, shortened.
    path : str or None
        The file, if there is one.
    """

    def __init__(
        self,
        message: str = "",
        *,
        line: int | None = None,
        text: str | None = None,
        path: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message, line=line, text=text, path=path, **more)


class StateError(PercpuError, ValueError):
    """A state file or snapshot that cannot be used.

    Parameters
    ----------
    message : str
        The text.
    path : str
        Where in the state, for example ``chunks[3].alloc_map``.
    """

    def __init__(self, message: str = "", *, path: str = "", **more: Any) -> None:
        super().__init__(message, path=path, **more)


class NotKept(PercpuError, AttributeError):
    """A field of a `Chunk` that its engine does not keep.

    It is an `AttributeError`, so that ``hasattr(chunk, "blocks")`` tells whether the engine has blocks.

    Parameters
    ----------
    message : str
        The text.
    field : str
        The field, for example ``bound_map``.
    engine : str
        The engine that has none.
    """

    def __init__(self, message: str = "", *, field: str = "", engine: str = "", **more: Any) -> None:
        super().__init__(message, field=field, engine=engine, **more)


class StaleChunk(PercpuError, LookupError):
    """A handle of a chunk that was destroyed.

    Parameters
    ----------
    message : str
        The text.
    chunk : int
        The creation number of the chunk.
    """

    def __init__(self, message: str = "", *, chunk: int = 0, **more: Any) -> None:
        super().__init__(message, chunk=chunk, **more)


class VerifyError(PercpuError, AssertionError):
    """An invariant that does not hold: a bug of the package, a damaged state, or an illegal answer of an own engine.

    Parameters
    ----------
    message : str
        Where it is broken, and both values.
    invariant : str
        Its name, as listed in ``docs/design.md``, for example ``C1-free-bytes``; ``legal-answer`` of an engine in
        Python (`percpu.engines`).
    """

    def __init__(self, message: str = "", *, invariant: str = "", **more: Any) -> None:
        super().__init__(message, invariant=invariant, **more)
