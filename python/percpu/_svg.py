"""Small pictures by hand: SVG with an embedded PNG, for notebooks and reports. Needs numpy only.

Nothing refers to anything outside: images are data URIs. Cells of maps go into one PNG, so that the size of a picture
is bounded by its number of cells whatever it shows.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from percpu.plot import _style

__all__ = ["Svg", "facts", "page", "png", "table"]

FONT = "font-family='DejaVu Sans, Segoe UI, Helvetica, Arial, sans-serif'"


def png(pixels: np.ndarray) -> bytes:
    r"""Encode colours as PNG.

    Parameters
    ----------
    pixels : (height, width, 3) array
        From 0 to 1 if of floats, else from 0 to 255.

    Returns
    -------
    bytes

    Examples
    --------
    >>> png(np.zeros((2, 3, 3)))[:4]
    b'\x89PNG'
    """
    pixels = np.asarray(pixels)
    if pixels.dtype.kind == "f":
        pixels = np.rint(np.clip(pixels, 0, 1) * 255)
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), dtype=np.uint8), pixels.reshape(height, -1)], axis=1)

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", head)
        + part(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + part(b"IEND", b"")
    )


def number(value: float) -> str:
    """Write a coordinate in as few digits as a screen can show."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


class Svg:
    """A picture that grows shape by shape. Coordinates are pixels; texts are escaped.

    Parameters
    ----------
    width, height : float
        Pixels.

    Examples
    --------
    >>> s = Svg(20, 10)
    >>> s.rect(0, 0, 5, 5, "#0072B2")
    >>> s.text(1, 9, "<b>")
    >>> "&lt;b&gt;" in str(s)
    True
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._shapes: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str = "none", *, stroke: str = "", tip: str = ""
    ) -> None:
        """Add a rectangle; `tip` is shown where the mouse rests."""
        line = f" stroke='{stroke}'" if stroke else ""
        inner = f"<title>{html.escape(tip)}</title>" if tip else ""
        box = f"x='{number(x)}' y='{number(y)}' width='{number(width)}' height='{number(height)}'"
        self._shapes.append(
            f"<rect {box} fill='{fill}'{line}>{inner}</rect>" if inner else f"<rect {box} fill='{fill}'{line}/>"
        )

    def boxes(self, places: Iterable[tuple[float, float, float, float]], fill: str) -> None:
        """Add many rectangles (x, y, width, height) of one colour."""
        data = "".join(f"M{number(x)} {number(y)}h{number(w)}v{number(h)}h-{number(w)}z" for x, y, w, h in places)
        if data:
            self._shapes.append(f"<path d='{data}' fill='{fill}'/>")

    def lines(self, ends: Iterable[tuple[float, float, float, float]], stroke: str) -> None:
        """Add many thin lines (x, y to x, y) of one colour."""
        data = "".join(f"M{number(a)} {number(b)}L{number(c)} {number(d)}" for a, b, c, d in ends)
        if data:
            self._shapes.append(f"<path d='{data}' stroke='{stroke}' stroke-width='0.6' shape-rendering='auto'/>")

    def path(
        self, points: Iterable[tuple[float, float]], stroke: str, *, width: float = 1.5, fill: str = "none"
    ) -> None:
        """Add a line through points, or with `fill` a surface."""
        data = "L".join(f"{number(x)} {number(y)}" for x, y in points)
        if data:
            line = f"stroke='{stroke}' stroke-width='{number(width)}' shape-rendering='auto'"
            self._shapes.append(f"<path d='M{data}' fill='{fill}' {line}/>")

    def text(
        self,
        x: float,
        y: float,
        text: Any,
        *,
        size: float = 11,
        anchor: str = "start",
        fill: str = _style.TEXT,
        bold: bool = False,
    ) -> None:
        """Add a line of text whose base line is at y."""
        side = "" if anchor == "start" else f" text-anchor='{anchor}'"
        tint = "" if fill == _style.TEXT else f" fill='{fill}'"
        where = f"x='{number(x)}' y='{number(y)}' font-size='{number(size)}'{side}{tint}"
        weight = " font-weight='bold'" if bold else ""
        self._shapes.append(f"<text {where}{weight}>{html.escape(str(text))}</text>")

    def image(self, x: float, y: float, width: float, height: float, pixels: np.ndarray) -> None:
        """Add an image whose pixels are stretched to cells with sharp edges."""
        box = f"x='{number(x)}' y='{number(y)}' width='{number(width)}' height='{number(height)}'"
        data = base64.b64encode(png(pixels)).decode()
        style = "image-rendering:pixelated"
        self._shapes.append(
            f"<image {box} preserveAspectRatio='none' style='{style}' href='data:image/png;base64,{data}'/>"
        )

    def __str__(self) -> str:
        size = f"width='{number(self.width)}' height='{number(self.height)}'"
        view = f"viewBox='0 0 {number(self.width)} {number(self.height)}'"
        ground = f"<rect width='{number(self.width)}' height='{number(self.height)}' fill='white'/>"
        style = "style='max-width:100%;height:auto' shape-rendering='crispEdges'"
        ground += f"<g fill='{_style.TEXT}' {FONT}>"
        return f"<svg {size} {view} {style}>{ground}{''.join(self._shapes)}</g></svg>"


def cell(value: Any) -> str:
    """Write a value for a table: integers with separators, a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return f"{value:,.4g}"
    return html.escape(str(value))


def facts(rows: Sequence[tuple[str, Any]]) -> str:
    """Make a table of names and values."""
    body = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{cell(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table>{body}</table>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Make a table with a head."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)

    def shown(value: Any) -> str:
        side = "right" if isinstance(value, (int, float, np.number)) else "left"
        return f"<td style='text-align:{side}'>{cell(value)}</td>"

    body = "".join(f"<tr>{''.join(map(shown, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def page(title: str, body: str) -> str:
    """Make a whole page that loads nothing: a policy in its head forbids it."""
    style = (
        "body{font:14px/1.45 'DejaVu Sans','Segoe UI',Helvetica,Arial,sans-serif;color:#30343B;background:#fff;"
        "max-width:1000px;margin:24px auto;padding:0 20px}"
        "h1{font-size:22px}h2{font-size:17px;margin-top:34px;border-bottom:1px solid #C9CDD2;padding-bottom:4px}"
        "table{border-collapse:collapse;font-size:13px;margin:8px 0}th,td{padding:2px 10px 2px 0;vertical-align:top}"
        "thead th{text-align:left;border-bottom:1px solid #C9CDD2}p.note{color:#5B5F66;font-size:13px}"
        "details{margin:6px 0}summary{cursor:pointer}ul{margin:4px 0 8px;padding-left:20px}"
        "code{font-family:'DejaVu Sans Mono',Consolas,monospace;font-size:12.5px}"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<meta name='viewport' content='width=device-width'><link rel='icon' href='data:,'>"
        f"<style>{style}</style></head><body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )
