"""Sphinx's settings for the pages that docs/build.py puts together: nothing is fetched, when built or when read."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent if (Path(__file__).resolve().parent.name == "docs") else Path.cwd()
sys.path.insert(0, str(PROJECT))

from adamix_lab import __version__  # noqa: E402

project, author, version, release = "AdaMix Lab", "The AdaMix Lab authors", __version__, __version__
copyright = "The AdaMix Lab authors, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = "AdaMix Lab"
html_copy_source = html_show_sphinx = False
html_show_search_summary = False  # it fetches pages, which browsers refuse for files on a disk
html_static_path = ["docs/static"]
html_css_files = ["site.css"]

nb_execution_mode = "off"  # the lessons are committed as they ran
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # else a page with a control asks a CDN for require.js
nb_merge_streams = True
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]

default_role = "code"  # docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False}
python_maximum_signature_line_length = 80
napoleon_use_rtype = False
napoleon_use_ivar = True
