"""Turn the benchmarks' results into the tables and the plot of docs/operation.md.

python benchmarks/report.py
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
PLOT = Path(__file__).parents[1] / "docs" / "images" / "operation.png"
COLORS = {"dot_product": "#0072b2", "concatenation": "#d55e00", "embedded_gaussian": "#009e73"}


def ratio(row: dict, what: str, rival: str) -> str:
    """How many times faster ours is."""
    other, ours = row.get(f"{rival}_{what}_ms"), row[f"ours_{what}_ms"]
    return f"{ours:.3g}" if other is None else f"{other:.3g} / {ours:.3g} = **{other / ours:.2f}x**"


def memory(row: dict, rival: str) -> str:
    """Their peak and ours."""
    other, ours = row.get(f"{rival}_mib"), row["ours_mib"]
    return f"{ours:.0f}" if other is None else f"{other:.0f} / {ours:.0f}"


def operation(results: dict) -> str:
    """The table of benchmarks/operation.py."""
    lines = [
        "| form | dtype | d = c | N, M | forward ms | forward + backward ms | peak MiB "
        "| implementation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["cases"]:
        cells = [row["form"], row["dtype"], row["d"], f"{row['n']}, {row['m']}"]
        cells += [ratio(row, what, "textbook") for what in ("forward", "both")]
        cells += [memory(row, "textbook"), row["implementation"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def block(results: dict) -> str:
    """The table of benchmarks/block.py."""
    lines = [
        "| map | form | rival | training ms | inference ms | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["cases"]:
        cells = [f"{row['map']}, N = {row['n']}", row["pairwise"], row["rival"]]
        cells += [ratio(row, what, "rival") for what in ("train", "infer")]
        cells.append(memory(row, "rival"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: dict) -> None:
    """Draw speed and memory of float32, d = c = 256, against the number of positions."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    time, space = figure.subplots(1, 2)
    for form, color in COLORS.items():
        rows = [
            row
            for row in results["cases"]
            if (row["form"], row["dtype"], row["d"]) == (form, "float32", 256)
        ]
        n = [row["n"] for row in rows]
        for axes, key in ((time, "both_ms"), (space, "mib")):
            for who, style in (("textbook", "--"), ("ours", "-")):
                values = [row.get(f"{who}_{key}") or float("nan") for row in rows]
                label = form.replace("_", " ") if who == "ours" else None
                axes.plot(n, values, style, color=color, marker="o", ms=4, label=label)
    for axes, title in ((time, "forward + backward, ms"), (space, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="positions N (M = N / 4)", title=title)
        axes.set_xticks([784, 3136, 12544, 50176], ["784", "3136", "12544", "50176"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    time.plot([], [], "--", color="gray", label="textbook")
    time.legend(frameon=False)
    figure.savefig(PLOT, dpi=130)


if __name__ == "__main__":
    for name, table in (
        ("operation_cpu", operation),
        ("block_cpu", block),
        ("block_channels_last_cpu", block),
    ):
        results = json.loads((RESULTS / f"{name}.json").read_text())
        print(f"\n{results['machine']}\n\n{table(results)}")
        if name == "operation_cpu":
            plot(results)
