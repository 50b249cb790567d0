"""``{drawn} graphs.scalar``: a drawing of ``figures/``, made when the page is read, with a caption below."""

import importlib

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class Drawn(SphinxDirective):
    """The directive: its argument is a function with its module, its text is the caption."""

    required_arguments, has_content = 1, True

    def run(self):
        module, name = self.arguments[0].split(".")
        self.env.note_dependency(f"figures/{module}.py")
        drawing = getattr(importlib.import_module(f"figures.{module}"), name)()
        figure = nodes.container(classes=["drawing"])
        figure += nodes.raw("", f'<div class="drawn">{drawing}</div>', format="html")
        self.state.nested_parse(self.content, self.content_offset, figure)
        return [figure]


def setup(app):
    app.add_directive("drawn", Drawn)
    return {"parallel_read_safe": True}
