"""How Sphinx builds the site: `make docs`, with warnings as errors."""

import pathlib
import sys

import bcenet

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "bcenet"
author = "the bcenet authors"
copyright = "the bcenet authors, BSD-3-Clause"
version = release = bcenet.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "plain_docstrings",
    "mathml",
    "formula_links",
    "inline_svg",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True
default_role = "code"
smartquotes = False  # quotes in docstrings are those of code

myst_enable_extensions = ["amsmath", "attrs_inline", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
python_display_short_literal_types = True

# What `formula_links` looks for marks in, below the repository's root.
formula_sources = ["src_cython/*.p*", "bcenet/**/*.py"]

html_theme = "furo"
html_title = "bcenet"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "tango"
pygments_dark_style = "monokai"
