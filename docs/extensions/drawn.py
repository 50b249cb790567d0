"""``{drawn} graphs.scalar``: a drawing of ``figures/``, made as the page is read, over a caption."""

import importlib

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class Drawn(SphinxDirective):
    """The directive: a function's name, with its module's; the text is the caption."""

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
