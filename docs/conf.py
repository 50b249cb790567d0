"""How the site is built: ``make docs``, or ``sphinx-build -W --keep-going docs docs/_build``.

Needs no network, and neither do its readers: formulas become MathML while it is built. Notebooks are run each time:
what they show is what this version does, and one that fails ends the build.
"""

import re
import sys
from pathlib import Path

import latex2mathml.converter
from docutils import nodes
from PIL import Image
from sphinx.domains.python import PyTypedField

import tinyres

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # extensions/ and figures/

project = "tinyres"
version = release = tinyres.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
extensions += [f"extensions.{name}" for name in ("command_reference", "docstrings", "drawn", "papers", "stepped")]
extensions += ["sphinx_copybutton", "sphinx_design"]  # copies code at a click; answers that open
exclude_patterns = ["_build", "jupyter_execute", "figures", "extensions"]
copybutton_exclude = ".linenos, .gp, .go"  # of a session what was typed, not the prompt and not the answer
html_theme = "furo"
html_title = "tinyres"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["tinyres.css"]
html_search_scorer = str(HERE / "extensions" / "search_scorer.js")
html_show_copyright = html_show_sourcelink = False
html_copy_source = False
pygments_style, pygments_dark_style = "a11y-light", "a11y-dark"  # their contrast is 4.5 or more

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # of a cell, in seconds: the first compiles kernels, where that has not been done before
nb_merge_streams = True

default_role = "py:obj"  # `name` in a docstring is a link where there is such a name, and code where not
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "none"  # extensions/docstrings.py takes them from the source
viewcode_follow_imported_members = False  # extensions/docstrings.py finds them, and those that a class inherits
maximum_signature_line_length = 88  # longer ones have a line for each parameter
napoleon_google_docstring = False
napoleon_use_rtype = napoleon_use_param = False  # `height, width : int` is one entry, not the same text twice
napoleon_custom_sections = [("Attributes", "params_style")]


def mathml(self, node):
    """Write a formula as MathML, which browsers lay out themselves: no JavaScript, no network."""
    block = isinstance(node, nodes.math_block)
    formula = latex2mathml.converter.convert(node.astext(), display="block" if block else "inline")
    self.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def link_types(app, domain, objtype, content):
    """Make links of the names in a field's type, which napoleon has put in brackets: ``(*list of Module*)``."""
    for emphasis in list(content.findall(lambda node: type(node) is nodes.emphasis)):
        place = emphasis.parent.index(emphasis)
        if place and emphasis.parent[place - 1].astext().endswith("("):
            links = PyTypedField("type").make_xrefs("class", domain, emphasis.astext(), env=app.env)
            emphasis.parent[place : place + 1] = links


def open_large(app, doctree):
    """A picture that has a width becomes a link to the whole of it. The theme keeps it within the column."""
    for image in doctree.findall(nodes.image):
        image["width"] = "100%"
        if (path := HERE / image["uri"]).suffix == ".png" and path.exists():  # not what a notebook draws
            with Image.open(path) as picture:
                image["width"] = f"{picture.width * 96 // 150}px"  # plots have 150 dots an inch, pages 96


def leave_out_fields(app, what, name, obj, skip, options):
    """Python writes "Alias for field number 0" on a named tuple's fields; their comments are in the source."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def find_below_tinyres(app, env, node, contnode):
    """`ops.conv2d` and `tr.Tensor` mean what they do after ``import tinyres as tr``, in all docstrings."""
    python, name = env.get_domain("py"), "tinyres." + node["reftarget"].removeprefix("tr.")
    if name not in python.objects or python.objects[name].objtype == "module":  # `data` is an argument
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)


def without_links_back(app, pagename, templatename, context, doctree):
    """Take the links from source to API away: they name the module that defines a thing, not the one that offers it."""
    if pagename.startswith("_modules/"):
        context["body"] = re.sub('<a class="viewcode-back".*?</a>', "", context["body"])


def setup(app):
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("missing-reference", find_below_tinyres)
    app.connect("html-page-context", without_links_back)
    app.connect("doctree-read", open_large)
    app.connect("object-description-transform", link_types)
    app.connect("autodoc-skip-member", leave_out_fields)
