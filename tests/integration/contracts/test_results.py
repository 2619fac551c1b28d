"""docs/results.md says what the runs in benchmarks/results show."""

import json
import re
import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))
from ablation_tables import ORDERS, TABLES  # noqa: E402
from paired import sign_flip  # noqa: E402

RUNS = json.loads((ROOT / "benchmarks" / "results" / "ablations.json").read_text())["runs"]
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## Table 2 of the paper in miniature\n")[1].split("\n## ")[0]
CELLS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in SECTION.splitlines()]
NUMBER = r"([+−]\d+\.\d+) ± (\d+\.\d+)"


def differences(row, other="local"):
    """What a row is ahead of another, by seed."""
    seeds = [key.rpartition("/")[2] for key in RUNS if key.startswith(f"labels/{row}/")]
    scores = ([RUNS[f"labels/{of}/{seed}"]["score"] for seed in seeds] for of in (row, other))
    return [ahead - behind for ahead, behind in zip(*scores, strict=True)]


def check(values, shown, p):
    mean, error = re.fullmatch(NUMBER, shown).groups()
    assert float(mean.replace("−", "-")) == pytest.approx(statistics.mean(values), abs=0.0051)
    assert float(error) == pytest.approx(statistics.stdev(values) / len(values) ** 0.5, abs=0.0051)
    assert float(p) == pytest.approx(sign_flip(values), abs=0.00051)


def test_the_rows_of_table_2_are_those_of_the_runs():
    shown = [cells for cells in CELLS if cells and re.fullmatch("2[a-d]", cells[0])]
    rows = {title[:2]: rows for title, rows in TABLES.items()}
    assert [(table, name) for table, name, *_ in shown] == [
        (table, name) for table, names in rows.items() for name in names
    ]
    for table, name, _, difference, p, ahead in shown:
        values = differences(rows[table][name])
        check(values, difference, p)
        assert ahead == f"{sum(v > 0 for v in values)} of {len(values)}"


def test_the_orders_of_table_2_are_those_of_the_runs():
    start = next(
        i for i, cells in enumerate(CELLS) if cells[:2] == ["ahead in the paper", "behind"]
    )
    shown = CELLS[start + 2 : start + 2 + len(ORDERS)]
    for (ahead, behind), (*_, difference, p, here) in zip(ORDERS, shown, strict=True):
        values = differences(ahead, behind)
        check(values, difference, p)
        agree = "the same" if min(values) > 0 else "the opposite" if max(values) < 0 else None
        assert here == (agree or "cannot be told apart")


def test_signs_of_paired_differences():
    # all of 2^n signs: only the seen ones and their opposite are as far from 0
    assert sign_flip([1, 2, 3, 4, 5]) == 2 / 32
    # 1 + 2 - 3 = 0, so that every choice of signs is as far
    assert sign_flip([1, 2, -3]) == 1
    # sums of (3, 1, -1): 3 is seen, and 5, 3, 3, 1 and their opposites are there
    assert sign_flip([3, 1, -1]) == 6 / 8
