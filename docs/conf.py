"""The site: ``python -m sphinx -W docs site`` builds it into site/.

It has formulas and pictures, and needs no network.
"""

from __future__ import annotations

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
# Extensions; the packages of the checkout; what lessons import.
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE / "lessons")]

import tinyrwkv

project = "tinyrwkv"
author = "The tinyrwkv authors"
copyright = author
release = tinyrwkv.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["lesson_pages", "mathml", "page_classes"]  # of this folder
source_suffix = {".md": "markdown", ".py": "lesson"}
exclude_patterns = [
    "*.py",
    "lessons/*/**",
    "lessons/checkout.py",
    "lessons/copies.py",
    "lessons/head_clusters.py",
    "lessons/measure.py",
    "pictures/*",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
nitpicky = False

napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"

html_theme = "furo"
html_favicon = "static/icon.svg"
html_title = f"tinyrwkv {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
