"""Drawings as SVG inside a page: in the page's colours, light or dark, and with text that can be searched."""

from html import escape

LINE, LETTER = 17, 7.4  # pixels: height of a line of text, and largest width of a letter


def number(value: float) -> str:
    """A number in a drawing: rounded to hundredths, with a real minus sign.

    >>> number(-0.75), number(3.0), number(1 / 3), number(-1e-17)
    ('−0.75', '3', '0.33', '0')
    """
    return f"{round(float(value), 2) + 0.0:g}".replace("-", "−")


def numbers(array) -> list[str]:
    """Rows of a matrix, with aligned columns.

    >>> import numpy as np
    >>> numbers(np.array([[1.0, -2.5], [0.0, 3.0]]))
    ['1 −2.5', '0    3']
    """
    rows = [[number(value) for value in row] for row in array]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [" ".join(text.rjust(width) for text, width in zip(row, wide, strict=True)) for row in rows]


class Box:
    """A place where lines begin and end: its middle and its size."""

    def __init__(self, x: float, y: float, width: float, height: float) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height

    def edge_to(self, x: float, y: float) -> tuple[float, float]:
        """The point of the border in the direction of another point."""
        dx, dy = x - self.x, y - self.y
        share = 1 / max(abs(dx) / (self.width / 2), abs(dy) / (self.height / 2), 1e-9)
        return self.x + share * dx, self.y + share * dy


class Drawing:
    """A drawing; ``str()`` gives its SVG.

    Classes of the parts are those of ``_static/tinyres.css``: `value`, `gradient`, `note`, `strong`, `soft`.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title, self.parts = width, height, title, []

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> None:
        """Write a line of text with its middle at this height; blanks are kept."""
        place = f'x="{x:.5g}" y="{y:.5g}" class="{kind}" text-anchor="{anchor}" xml:space="preserve"'
        self.parts.append(f"<text {place}>{escape(text)}</text>")

    def rect(self, x: float, y: float, width: float, height: float, kind: str = "") -> None:
        self.parts.append(
            f'<rect x="{x:.5g}" y="{y:.5g}" width="{width:.5g}" height="{height:.5g}" rx="3" class="{kind}"/>'
        )

    def box(self, x: float, y: float, lines: list[tuple[str, str]], kind: str = "") -> Box:
        """Draw lines of text, each with its class, in a frame of the size that they need."""
        width = max(LETTER * max(len(text) for _, text in lines) + 16, 44)
        box = Box(x, y, width, LINE * len(lines) + 12)
        self.rect(x - box.width / 2, y - box.height / 2, box.width, box.height, kind)
        for i, (of, text) in enumerate(lines):
            self.text(x, y + LINE * (i + 0.5 - len(lines) / 2), text, of)
        return box

    def arrow(self, start: Box, end: Box, label: str = "", kind: str = "gradient") -> None:
        """Draw an arrow from border to border, with a label in the middle."""
        (x0, y0), (x1, y1) = start.edge_to(end.x, end.y), end.edge_to(start.x, start.y)
        self.parts.append(f'<path d="M{x0:.5g} {y0:.5g} L{x1:.5g} {y1:.5g}" marker-end="url(#tip)"/>')
        if label:
            self.text((x0 + x1) / 2, (y0 + y1) / 2, label, f"on-line {kind}")

    def way_round(self, start: Box, end: Box, right: float, label: str = "", kind: str = "value") -> None:
        """Draw an arrow from one box's right side to another's, around by `right`, a place beside both."""
        x0, x1 = start.x + start.width / 2, end.x + end.width / 2
        self.parts.append(
            f'<path d="M{x0:.5g} {start.y:.5g} H{right:.5g} V{end.y:.5g} H{x1:.5g}" marker-end="url(#tip)"/>'
        )
        if label:
            self.text(right, (start.y + end.y) / 2, label, f"on-line {kind}")

    def __str__(self) -> str:
        tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        return "".join((
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" style="width: {self.width:g}px" role="img" ',
            f'aria-label="{escape(self.title)}" xmlns="http://www.w3.org/2000/svg">',
            f'<defs>{tip}<path d="M0 0 8 4 0 8z" class="tip"/></marker></defs>', *self.parts, "</svg>",
        ))  # fmt: skip
