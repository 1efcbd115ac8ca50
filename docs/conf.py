"""The documentation as a site: `make docs` writes docs/_build/html; a warning is an error."""

import re

from unialign import __version__

project = "unialign"
copyright = "the unialign authors, Apache-2.0"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "requirements.txt"]
# Links to headings, with the anchors that other Markdown viewers make.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Objects in the pages are shown with ... for what is left out.
suppress_warnings = ["misc.highlighting_failure"]
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "alphabetical"
html_theme = "pydata_sphinx_theme"
html_title = "unialign"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": True,
    # All pages stand in the sidebar, under the captions of index.md.
    "navbar_center": [],
    "primary_sidebar_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"**": ["globaltoc.html"]}
html_show_sourcelink = False
html_copy_source = False


def _parameters_as_fields(app, what, name, obj, options, lines):
    """Our docstrings say "name: what it is" within their text; here each of those is a field of its own."""
    del app, name, options
    if what == "module":
        lines[:] = []
        return
    lines[:] = [line.replace("**", r"\*\*") for line in lines]
    code = getattr(obj, "__wrapped__", obj)
    names = code.__code__.co_varnames if hasattr(code, "__code__") else tuple(getattr(obj, "__annotations__", ()))
    if not names:
        return
    start = re.compile(rf"(?:^|(?<=[.)] ))({'|'.join(map(re.escape, names))}): ")
    paragraphs = "\n".join(lines).split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        if paragraph.startswith(" ") or not start.search(paragraph):
            continue
        text = " ".join(paragraph.split())
        first = start.search(text)
        fields = start.split(text[first.start() :] if first else "")[1:]
        shown = [f":param {field}: {meaning.strip()}" for field, meaning in zip(fields[::2], fields[1::2], strict=True)]
        before = text[: first.start()].strip() if first else text
        paragraphs[number] = "\n\n".join(filter(None, [before, "\n".join(shown)]))
    lines[:] = "\n\n".join(paragraphs).split("\n")


def _figures_as_page(app, docname, source):
    """benchmarks/RESULTS.md lies outside docs/; the page benchmarks.md includes it."""
    del app, docname
    source[0] = re.sub(r"\]\((?:\.\./)+benchmarks/RESULTS\.md", "](/benchmarks.md", source[0])


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", _figures_as_page)
    app.connect("autodoc-process-docstring", _parameters_as_fields)
