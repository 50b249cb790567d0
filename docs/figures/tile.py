"""The register tile: what each vector register holds, with the sizes of the table of instruction sets."""

from figures.svg import Box, Drawing

from tinyres.kernels.isa import SETS, InstructionSet

LANE, ROW, HIGH = 9, 32, 26  # pixels: width of a lane, distance of rows, height of a register
VECTORS, AT_WORK = 2, 2  # vectors of the tile, and the row that is computed in the drawing


def _register(drawing: Drawing, x: float, y: float, lanes: int, text: str, kind: str = "") -> Box:
    """Draw a vector register, with marks between its lanes."""
    width = LANE * lanes
    drawing.rect(x, y, width, HIGH, kind)
    marks = " ".join(f"M{x + LANE * i:.5g} {y + HIGH - 4:.5g} v4" for i in range(1, lanes))
    drawing.parts.append(f'<path d="{marks}"/>')
    drawing.text(x + width / 2, y + 11, text)
    return Box(x + width / 2, y + HIGH / 2, width, HIGH)


def _held(used: InstructionSet) -> list[str]:
    """What each register holds: a sum, a vector of columns, a number of a row, or nothing."""
    held = [f"C{r}" for r in range(used.rows[VECTORS]) for _ in range(VECTORS)] + ["B"] * VECTORS + ["A"]
    assert len(held) <= used.registers
    return held + [""] * (used.registers - len(held))


def _tile(drawing: Drawing, top: float, used: InstructionSet) -> float:
    """Draw the tile of one instruction set, and all registers; return where it ends."""
    lanes, rows, held = used.width // 4, used.rows[VECTORS], _held(used)
    spread, sums = 74, 74 + LANE * lanes + 36  # where the spread number and the sums begin
    columns = [(sums + v * (LANE * lanes + 8), f"{v * lanes}:{(v + 1) * lanes}") for v in range(VECTORS)]
    drawing.text(1, top + 8, f"{used.name}: R = {rows}, V = {VECTORS}, {lanes} numbers in a vector", "strong", "start")
    top += 28
    for x, numbers in columns:
        _register(drawing, x, top, lanes, f"B[k, {numbers}]", "lit")
    top += ROW + 10
    for r in range(rows):
        y, kind = top + ROW * r, "lit" if r == AT_WORK else ""
        drawing.rect(1, y, 46, HIGH, kind)
        drawing.text(24, y + HIGH / 2, f"A[{r}, k]", "value")
        first, *_ = [_register(drawing, x, y, lanes, f"C[{r}, {numbers}]", kind) for x, numbers in columns]
        if r == AT_WORK:
            number = _register(drawing, spread, y, lanes, f"A[{r}, k]", "lit")
            drawing.arrow(Box(24, y + HIGH / 2, 46, HIGH), number)
            drawing.arrow(number, first, "×", "")
    x = columns[-1][0] + LANE * lanes + 30
    drawing.text(x, top - 24, f"{len([name for name in held if name])} of {used.registers} registers", "", "start")
    for i, name in enumerate(held):
        left, above = x + 27 * (i % 4), top + 27 * (i // 4)
        drawing.rect(left, above, 24, 24, "lit" if name in (f"C{AT_WORK}", "B", "A") else "")
        if name:
            drawing.text(left + 12, above + 12, name)
    return top + max(ROW * rows, 27 * len(held) / 4)


def registers() -> str:
    """The tiles of AVX-512 and AVX2, two vectors wide, in the middle of one step of k."""
    drawing = Drawing(690, 0, "Register tiles: rows by vectors of sums, the vectors of columns, and one number spread")
    top = 4.0
    for used in SETS[:2]:
        top = _tile(drawing, top, used) + 24
    drawing.height = top - 20
    return str(drawing)
