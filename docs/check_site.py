"""Checks the built site: ``python docs/check_site.py SITE``.

Every link to another page, to an anchor or to a file must lead somewhere. Addresses elsewhere are checked for their
form only, since a build needs no network: https, a host with a dot, nothing that has no place in a URL. Every notebook
must be there with the pictures that it draws.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"https://[\w-]+(\.[\w-]+)+(:\d+)?(/[\w./%~@:+,;=()!*'-]*)?(\?[^\s#<>]*)?(#\S*)?")


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif (name == "href" or (name == "src" and tag != "script")) and value:
                self.links.append(value)


def check(site: Path) -> list[str]:
    """Return what is wrong with a site, one line each."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    wrong = [
        f"{path.relative_to(site)}: a notebook without a picture"
        for path, page in pages.items()
        if path.parent.parent.name == "notebooks" and not any(link.startswith("data:image/") for link in page.links)
    ]
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute: it is shown at any depth
            continue
        for link in dict.fromkeys(page.links):
            where = f"{path.relative_to(site)}: {link}"
            parts = urlsplit(link)
            if parts.scheme in ("data", "mailto"):
                continue
            if parts.scheme or parts.netloc:
                if not _URL.fullmatch(link):
                    wrong.append(f"{where}: not the address of a page")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_relative_to(site.resolve()) or not target.exists():
                wrong.append(f"{where}: leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{where}: no such place on that page")
    return wrong


if __name__ == "__main__":
    found = check(Path(sys.argv[1]).resolve())
    print("\n".join(found), file=sys.stderr)
    sys.exit(1 if found else 0)
