"""Write a report as a self-contained HTML file: text, tables and pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1c1c1e; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; } .wide img { min-width: 34rem; }  /* on a phone, only it scrolls */
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .35rem .9rem; text-align: left; border-bottom: 1px solid #d1d1d6; }
@media (max-width: 34rem) { th, td { padding: .35rem .4rem; font-size: .85rem; } }
td:not(:first-child), th:not(:first-child) { text-align: right; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #55555a; font-size: .9rem; }
@media (prefers-color-scheme: dark) {
  body { color: #f2f2f7; background: #1c1c1e; } figcaption { color: #aeaeb2; }
  img { background: #fff; } th, td { border-color: #48484a; }
}
"""


def paragraph(text: str) -> str:
    """Return a paragraph with escaped text."""
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    """Return the heading of a section, escaped."""
    return f"<h2>{html.escape(text)}</h2>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with escaped cells."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    rows = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table>{rows}</table></div>'


def picture(figure: Figure, caption: str) -> str:
    """Return a figure as embedded PNG; its caption is the alternative text too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption, quote=True)
    return (
        f'<figure><div class="wide"><img alt="{text}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def html_report(title: str, parts: Sequence[str]) -> str:
    """Join parts into a complete HTML file."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )
