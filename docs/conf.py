"""Settings of the documentation site: `make docs` builds it into build/docs."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars are not part of a tutorial
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_ext")]

from embedspace import __version__  # noqa: E402

project = "embedspace"
author = "The authors of embedspace"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "repository_pages",
    "python_references",
    "reference_pages",
]
exclude_patterns = ["_ext", "_static"]
nitpicky = True
# Types in signatures are shown whether they have a page or not; what prose names has to exist.
nitpick_ignore_regex = [(r"py:(class|obj|data)", r"(?!embedspace\.).*")]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_merge_streams = True
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
toc_object_entries = False  # the navigation of every page would list every method
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
viewcode_line_numbers = True

html_theme = "furo"
html_title = "embedspace"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
