"""Draw the diagrams of docs/explanation/operation.md, docs/images/*.svg.

python docs/diagrams.py
"""

from __future__ import annotations

from pathlib import Path

IMAGES = Path(__file__).parent / "images"
QUERY, KEY, VALUE, WEIGHT, RESULT = "#2a9d8f", "#e9a13b", "#7b6fd0", "#d65f5f", "#4c78a8"
N, M, D = 120, 96, 26  # sides of the drawn matrices, pixels; d = c


class Drawing:
    """Shapes and words on a white sheet."""

    def __init__(self, width: int, height: int) -> None:
        self.size, self.parts = (width, height), []

    def box(self, x: float, y: float, width: float, height: float, color: str, **more: str) -> None:
        style = {"fill": color, "fill-opacity": "0.25", "stroke": color, "rx": "3"} | more
        said = " ".join(f'{name}="{value}"' for name, value in style.items())
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" {said}/>')

    def text(self, x: float, y: float, words: str, size: int = 15, **more: str) -> None:
        style = {"text-anchor": "middle", "fill": "#333"} | more
        said = " ".join(f'{name}="{value}"' for name, value in style.items())
        self.parts.append(f'<text x="{x}" y="{y}" font-size="{size}" {said}>{words}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str = "#555") -> None:
        self.parts.append(f'<path d="M{x1} {y1}L{x2} {y2}" stroke="{color}" fill="none"/>')

    def matrix(
        self, x: float, middle: float, width: float, height: float, color: str, name: str, size: str
    ) -> float:
        """Draw a matrix with its name inside and its size below; return where it ends."""
        self.box(x, middle - height / 2, width, height, color)
        self.text(x + width / 2, middle + 5, name)
        self.text(x + width / 2, middle + height / 2 + 16, size, 11, fill="#777")
        return x + width

    def save(self, name: str, title: str) -> None:
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'font-family="Helvetica, Arial, sans-serif"><title>{title}</title>'
            f'<rect width="{width}" height="{height}" rx="8" fill="white"/>'
        )
        text = "\n".join([head, *self.parts, "</svg>", ""])
        (IMAGES / name).write_text(text, encoding="utf-8")


def dot_product() -> None:
    drawing = Drawing(640, 370)
    middle, x = 95, 30
    x = drawing.matrix(x, middle, D, N, QUERY, "θ", "N × d")
    drawing.text(x + 16, middle + 5, "·")
    x = drawing.matrix(x + 32, middle, M, D, KEY, "φᵀ", "d × M")
    drawing.text(x + 20, middle + 5, "=")
    x = drawing.matrix(x + 40, middle, M, N, WEIGHT, "θ φᵀ", "N × M")
    drawing.text(x + 16, middle + 5, "·")
    x = drawing.matrix(x + 32, middle, D, M, VALUE, "g", "M × c")
    drawing.text(x + 20, middle + 5, "=")
    drawing.matrix(x + 40, middle, D, N, RESULT, "y", "N × c")
    drawing.text(565, middle + 5, "N · M in memory", 13, fill=WEIGHT)
    drawing.line(30, 185, 610, 185, "#ddd")
    middle, x = 275, 30
    x = drawing.matrix(x, middle, M, D, KEY, "φᵀ", "d × M")
    drawing.text(x + 16, middle + 5, "·")
    x = drawing.matrix(x + 32, middle, D, M, VALUE, "g", "M × c")
    drawing.text(x + 20, middle + 5, "=")
    x = drawing.matrix(x + 40, middle, D + 4, D + 4, WEIGHT, "φᵀg", "d × c")
    x += 50
    x = drawing.matrix(x, middle, D, N, QUERY, "θ", "N × d")
    drawing.text(x + 16, middle + 5, "·")
    x = drawing.matrix(x + 32, middle, D + 4, D + 4, WEIGHT, "φᵀg", "d × c")
    drawing.text(x + 20, middle + 5, "=")
    drawing.matrix(x + 40, middle, D, N, RESULT, "y", "N × c")
    drawing.text(565, middle + 5, "d · c in memory", 13, fill=RESULT)
    drawing.save("dot_product.svg", "Two orders of the products of the dot-product form")


def concatenation() -> None:
    drawing = Drawing(560, 245)
    values = (-1.7, -1.2, -0.8, -0.3, 0.2, 0.5, 0.9, 1.3, 1.6, 2.0)
    left, step, base, place = 60, 44, 130, 4
    drawing.line(left - 20, base, left + 10 * step, base, "#999")
    for i, value in enumerate(values):
        kept = i >= place
        height = 34 * abs(value)
        top = base - height if value > 0 else base
        color = KEY if kept else "#bbbbbb"
        drawing.box(left + i * step, top, 28, height, color)
    drawing.text(left - 38, base + 5, "b", 15)
    x = left + place * step - 8
    drawing.parts.append(
        f'<path d="M{x} 40L{x} 205" stroke="{QUERY}" stroke-dasharray="5 4" fill="none"/>'
    )
    drawing.text(x, 30, "the place of −a, found by bisection", 13, fill=QUERY)
    drawing.text((left + x) / 2 - 10, 225, "ReLU is 0 here", 13, fill="#888")
    drawing.text(x + 135, 225, "a · (sum of g) + (sum of b g), from here to the end", 13)
    drawing.save("concatenation.svg", "The keys of the concatenation form, sorted by b")


def softmax() -> None:
    drawing = Drawing(640, 250)
    top, left, rows = 40, 150, 5
    height = 170 / rows
    drawing.box(40, top, D, 170, QUERY)
    drawing.text(40 + D / 2, top + 90, "θ")
    drawing.box(left, top - 30, 190, 20, KEY)
    drawing.text(left + 95, top - 15, "φᵀ", 13)
    for row in range(rows):
        now = row == 2
        more = {} if now else {"fill-opacity": "0.04", "stroke-dasharray": "4 4"}
        drawing.box(left, top + row * height, 190, height, WEIGHT, **more)
    drawing.text(left + 95, top + 2.5 * height + 5, "softmax of this chunk", 13)
    drawing.box(40, top + 2 * height, D, height, QUERY, **{"fill-opacity": "0.6"})
    drawing.text(left + 218, top + 90, "·")
    drawing.box(left + 235, top, D, 170, VALUE)
    drawing.text(left + 235 + D / 2, top + 90, "g")
    drawing.text(left + 290, top + 90, "=")
    drawing.box(left + 315, top, D, 170, RESULT)
    drawing.box(left + 315, top + 2 * height, D, height, RESULT, **{"fill-opacity": "0.6"})
    drawing.text(left + 315 + D / 2, top + 3 * height + 20, "y")
    drawing.text(565, top + 82, "one chunk of", 13, fill=WEIGHT)
    drawing.text(565, top + 100, "queries at a time", 13, fill=WEIGHT)
    drawing.save("softmax.svg", "The N x M matrix of the Gaussian forms, in chunks of queries")


if __name__ == "__main__":
    dot_product()
    concatenation()
    softmax()
