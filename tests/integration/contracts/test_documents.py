"""The documents are true: the files that they name exist, and CONTRIBUTING's examples work."""

import re
from pathlib import Path

import pytest

from nonlocalnet.data import formats
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.evaluation import metrics

ROOT = Path(__file__).parents[3]
HOUSE = ROOT / "src" / "nonlocalnet"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [page for page in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in page.parts]
DOCUMENTS = [ROOT / "README.md", CONTRIBUTING, *PAGES]
NEW = {"data/formats/birdsong.py"}  # which a reader of CONTRIBUTING writes
CODE = re.compile(r"`([\w./-]+/[\w.-]*\.(?:py|js|md|toml|json)|[\w/]+/)`")
DOTTED = re.compile(r"`(?:nonlocalnet\.)?((?:data|detection|evaluation|checkpoints|runtime|training"
                    r"|inspection|networks|ops|blocks)(?:\.\w+)+)`")  # fmt: skip
LINK = re.compile(r"\]\(([^)\s:]*?)(?:#([^)\s]*))?\)")


def anchors(file: Path) -> set[str]:
    """Anchors of headings as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        file = (document.parent / target).resolve() if target else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def test_no_table_is_still_to_be_filled_in():
    for page in [*DOCUMENTS, *ROOT.glob("docs/*/*.md")]:
        left = re.findall(
            r"^[A-Z][A-Z_]{4,}$|\b(?:TODO|FIXME|TBD)\b", page.read_text(), re.MULTILINE
        )
        assert left == [], page.name


def test_files_and_names_in_documents_exist():
    named = [(d, n) for d in DOCUMENTS[1:] for n in CODE.findall(d.read_text(encoding="utf-8"))]
    ours = [(d, n) for d, n in named if (HOUSE / n.split("/")[0]).exists() or d.name in SPEAKING]
    assert len(ours) > 30
    missing = {
        f"{document.name}: {name}"
        for document, name in ours
        if name not in NEW and not any((base / name).exists() for base in (HOUSE, ROOT))
    }
    assert missing == set()
    for document in DOCUMENTS:
        for name in DOTTED.findall(document.read_text(encoding="utf-8")):
            *folders, last = name.split(".")
            module = HOUSE.joinpath(*folders)
            text = module.with_suffix(".py")
            found = (module / last).with_suffix(".py").exists() or (
                text.exists()
                and re.search(rf"(def|class) {last}\b|^{last}\b", text.read_text(), re.M)
            )
            assert found, f"{document.name}: {name}"


SPEAKING = {"architecture.md", "CONTRIBUTING.md"}  # about the repository alone


def example(containing: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    return block


def test_the_new_format_of_contributing_works(tmp_path, monkeypatch):
    (tmp_path / "birdsong_format.py").write_text(example("birds.tsv"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import birdsong_format

    monkeypatch.setattr(formats, "FORMATS", [birdsong_format, *formats.FORMATS])
    data = tmp_path / "data"
    data.mkdir()
    for name in ("x1", "x2", "x3"):
        (data / f"{name}.mp4").write_bytes(b"0")
    (data / "birds.tsv").write_text("x1\towl\nx2\ttit\nx3\ttit\n")
    found = read_dataset(data)
    assert found.classes == ["owl", "tit"]
    assert [(r.name, r.labels) for r in found.train] == [("x1", (0,)), ("x3", (1,))]
    assert [(r.name, r.labels) for r in found.val or []] == [("x2", (1,))]
    (data / "birds.tsv").write_text("x1\towl\nx2 tit\n")
    with pytest.raises(ValueError, match=r"birds.tsv:2: expected ID, tab and BIRD; got 'x2 tit'"):
        read_dataset(data)


def test_the_new_metric_of_contributing_works(monkeypatch):
    import torch

    namespace = {"Tensor": torch.Tensor}
    exec(example("worst_class_accuracy"), namespace)
    row = metrics.Metric("worst_class", "worst class accuracy", namespace["worst_class_accuracy"])
    assert f'Metric("{row.name}", "{row.label}", {row.name}_accuracy)' in CONTRIBUTING.read_text()
    monkeypatch.setitem(metrics.METRICS, row.name, row)
    probabilities, target = torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 0, 1, 2])
    scores = metrics.compute_metrics(probabilities, target, multi_label=False)
    assert scores["worst_class"] == 50
