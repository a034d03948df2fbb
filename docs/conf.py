"""How the site is built: `make docs`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "csrc" / "typecheck"))
sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# torch_npu, where it is installed, would be loaded with torch and want its runtime
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

import moge_ops

project = "moge_ops"
author = "the moge_ops authors"
copyright = f"2026, {author}. Apache-2.0"
version = release = moge_ops.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "messages",
    "pictures",
    "reach",
    "sources",
    "tables",
]
exclude_patterns = ["_ext", "_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"moge_ops {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_logo = html_favicon = "_static/mark.svg"
# Furo's colours; ours are in site.css. `make docs-look` holds every text to a contrast of 4.5
html_theme_options = {
    "navigation_with_keys": False,  # arrow keys scroll the table or the code that has focus
    "light_css_variables": {
        "color-foreground-primary": "#1b1f24",
        "color-foreground-secondary": "#4a525c",
        "color-foreground-muted": "#5b636d",
        "color-background-secondary": "#f6f8fa",
        "color-background-hover": "#e9eef3",
        "color-background-border": "#dde2e8",
        "color-brand-primary": "#0a4b78",
        "color-brand-content": "#0a5a94",
        "color-brand-visited": "#5a4a9c",
        "color-link-underline": "#9db8cc",
        "color-link-underline--visited": "#b9b1d6",
        "color-code-background": "#f6f8fa",
    },
    "dark_css_variables": {
        "color-foreground-primary": "#dfe3e8",
        "color-foreground-secondary": "#aab2bb",
        "color-foreground-muted": "#98a1ab",
        "color-background-primary": "#121518",
        "color-background-secondary": "#191d21",
        "color-background-hover": "#232a31",
        "color-background-border": "#30373f",
        "color-brand-primary": "#8cc4f0",
        "color-brand-content": "#7dbcf0",
        "color-brand-visited": "#b9a8ee",
        "color-link-underline": "#3f6382",
        "color-link-underline--visited": "#5a5085",
        "color-code-background": "#191d21",
    },
}
pygments_style = "github-light-high-contrast"
pygments_dark_style = "github-dark-colorblind"

myst_enable_extensions = ["attrs_inline", "deflist", "dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 76
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
copybutton_exclude = ".linenos, .gp, .go"

# names of other projects: their own sites are not fetched, so that a build needs no network
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|transformers|collections|typing|pathlib|safetensors|numpy)\..*"),
    ("py:class", r"moge_ops\.distributed\.pangu\.Module"),  # a type variable
    ("py:class", r"moge_ops\._pooled\.Pool"),  # what moge_ops.offload gives to its layers
]
