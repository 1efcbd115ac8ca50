"""One HTML file that holds everything it shows: data, drawing and style.

The script and the style in `web/` are our own, about 60 kB. Vega-Lite or plotly would make every page much larger,
and neither plays clips, lists 50,000 rows or draws skeletons, which is most of what is here; what is left are four
kinds of drawings in SVG. So there is no dependency, and no version of one to follow.

The content is JSON, compressed and written in base64: it holds no character that HTML would read, whatever the names
of classes and files are, and the script puts texts into the page as texts. A policy in the page's head forbids it
to load anything from elsewhere.
"""

import base64
import gzip
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unialign.cache.atomic import write_text
from unialign.types import Json

WEB = Path(__file__).resolve().parent / "web"
# In this order: each uses what those before it define.
SCRIPTS = ("dom.js", "charts.js", "player.js", "browser.js", "sections.js", "main.js")
KINDS = {"u1": "u8", "u2": "u16", "i2": "i16", "f4": "f32"}


@dataclass(frozen=True)
class Page:
    """A page that was written. what: the run, ablation or stores that it shows."""

    path: Path
    bytes: int
    what: str

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return {"path": str(self.path), "bytes": self.bytes, "what": self.what}


def packed(values: np.ndarray) -> Json:
    """An array as `dom.js: unpacked` reads it, flattened. Raises `KeyError` for other types than those of `KINDS`."""
    kind = KINDS[values.dtype.str[1:]]
    data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return {"kind": kind, "data": base64.b64encode(data).decode()}


def data_url(data: bytes, kind: str) -> str:
    """An image as a URL that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def write_page(path: Path, content: Mapping[str, Json], what: str) -> Page:
    """Write the page of a content, see `report.py` and `browse.py`; the same bytes for the same content."""
    text = page_text(content)
    write_text(path, text)
    return Page(path, len(text.encode()), what)


def page_text(content: Mapping[str, Json]) -> str:
    """The HTML of a page."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")
    # Without a time, so that the same content gives the same file.
    data = base64.b64encode(gzip.compress(body, 9, mtime=0)).decode()
    template = (WEB / "page.html").read_text(encoding="utf-8")
    parts = {
        "{title}": html.escape(str(content["title"])),
        "{style}": (WEB / "page.css").read_text(encoding="utf-8"),
        "{data}": data,
        "{script}": "\n".join((WEB / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    # In one pass: what is put in may contain these names.
    return re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], template)
