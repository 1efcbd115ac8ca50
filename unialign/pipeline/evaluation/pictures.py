"""A drawing in the formats of papers and screens: PNG, SVG and PDF, the same bytes for the same drawing."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unialign.cache.atomic import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Bytes by the ending of the file.
Pictures = Mapping[str, bytes]
# Without a date, the program's name and random ids. PDF holds whole fonts (type 42), as publishers ask for.
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
SETTINGS: Any = {"svg.hashsalt": "unialign", "pdf.fonttype": 42}


def pictures_of(figure: "Figure", *, dots: int = 120) -> Pictures:
    """The figure as PNG, SVG and PDF. dots: per inch, of what is not made of lines."""
    # Here, since every system names this module's types, and most commands draw nothing.
    import matplotlib as mpl

    found = {}
    with mpl.rc_context(SETTINGS):
        # Measured once: "tight" would lay the figure out again for each format.
        figure.draw_without_rendering()
        covered = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
        for kind, metadata in METADATA.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=dots, bbox_inches=covered, metadata=metadata)
            found[kind] = buffer.getvalue()
    return found


def write_pictures(stem: Path, pictures: Pictures | bytes) -> Path:
    """Write a drawing as `<stem>.png` and so on; returns the path of the PNG. Bytes are a PNG alone."""
    found = {"png": pictures} if isinstance(pictures, bytes) else pictures
    for kind, data in found.items():
        write_file(stem.with_name(f"{stem.name}.{kind}"), data)
    return stem.with_name(f"{stem.name}.png")
