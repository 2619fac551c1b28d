"""The code of the documentation's pages runs, and prints what the pages show."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import nonlocalnet as nl
from documents import check_names, read_blocks, run_page
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.data.video.write import write_video

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [  # without those that have a test of their own
    page
    for page in sorted(DOCS.rglob("*.md"))
    if "```py" in page.read_text(encoding="utf-8")
    and page.name != "acceleration.md"
    and not {"_build", "tutorials"} & set(page.parts)
]
TUTORIALS = ("block", "videos", "weights", "attention", "accelerate", "long-videos")


def name_of(page):
    return str(page.relative_to(DOCS))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the files that pages name: videos, an image, and weights of a video network."""
    import torch
    from PIL import Image

    folder = tmp_path_factory.mktemp("pages")
    for seed, name in enumerate(("some", "other")):
        frames = np.random.default_rng(seed).integers(0, 256, (16, 12, 16, 3), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", frames.repeat(8, axis=1).repeat(8, axis=2))
    Image.new("RGB", (400, 300), "gray").save(folder / "some.jpg")
    torch.manual_seed(0)
    model = nl.create_model("c2d_small_nl2", num_classes=3, clip="8x1", crop=64)
    info = WeightsInfo(model.config, ["run", "jump", "walk"], short_side=64)
    save_weights(model, folder / "mine.safetensors", info)
    return folder


def test_blocks_are_read_with_their_notes():
    text = (
        "```python\nx = 1\n```\n\n<!-- test: 1 -> 2; 3 -> 4 -->\n```python\nprint(1, 3)\n```\n\n"
        "```text\n2 ...\n```\n<!-- test: skip why -->\n```bash\nrm\n```\n```py\n1 / 0\n```\n"
        "<!-- test: slow; 1 -> 3 -->\n\n```python\ny = 1\n```\n```console\nls\n```\n"
    )
    blocks = read_blocks(text)
    assert [block.line for block in blocks] == [2, 7, 15, 18, 23]
    assert [block.printed for block in blocks] == [None, "2 ...\n", None, None, None]
    assert blocks[1].fast() == "print(2, 4)\n"
    assert blocks[4].fast() == "y = 3\n"
    assert [block.skip for block in blocks] == ["", "", "why", "it", ""]
    assert [block.slow for block in blocks] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("nl.lok(model)", "nl.lok"),
        ("from nonlocalnet.data.sampling import clip_of", "clip_of"),
    ],
)
def test_names_that_do_not_exist_are_found(code, fault, tmp_path):
    (block,) = read_blocks(f"```py\n{code}\n```\n")
    with pytest.raises(AssertionError, match=fault):
        check_names(block, tmp_path / "page.md")


def test_other_output_than_the_page_shows_is_found(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:2 printed\n1"):
        run_page(page, capsys)


def run(page, files, tmp_path, monkeypatch, capsys, slow):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    guide = page.parent == DOCS  # guides show parts of programs
    given = {"nl": nl}
    if guide:
        given |= {"model": nl.load("mine.safetensors"), "paths": ["some.mp4", "other.mp4"]}
    run_page(page, capsys, given=given, slow=slow, commands=not guide)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page(page, files, tmp_path, monkeypatch, capsys):
    run(page, files, tmp_path, monkeypatch, capsys, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- test: slow" in page.read_text("utf-8")], ids=name_of
)
def test_slow_blocks(page, files, tmp_path, monkeypatch, capsys):
    run(page, files, tmp_path, monkeypatch, capsys, slow=True)


def test_tutorials_in_their_order_in_one_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in TUTORIALS:
        run_page(DOCS / "tutorials" / f"{name}.md", capsys)


def test_tutorials_are_in_the_table_of_contents():
    index = (DOCS / "tutorials" / "index.md").read_text(encoding="utf-8")
    named = re.search(r":hidden:\n\n(.*?)\n```", index, re.DOTALL)
    assert named
    assert named[1].split() == [*TUTORIALS, "cluster"]


def test_every_public_name_is_in_the_reference():
    pages = (DOCS / "reference").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    listed = re.findall(r"^\.\. auto\w+:: (\S+)", text, re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert {f"nonlocalnet.{name}" for name in nl.__all__} <= set(listed)
    for name in listed:
        module, _, thing = name.rpartition(".")
        assert hasattr(sys.modules.get(module) or __import__(module, fromlist=["x"]), thing), name


def test_every_command_is_in_the_reference():
    from nonlocalnet.cli import COMMANDS

    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)", text, re.MULTILINE) == list(COMMANDS)


def test_every_page_is_in_the_table_of_contents():
    pages = {page for page in DOCS.rglob("*.md") if "_build" not in page.parts}
    listed = {DOCS / "index.md"}
    for page in pages:
        for toctree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            names = [line for line in toctree.split("\n") if line and not line.startswith(":")]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    assert listed == pages


def test_diagrams_are_those_of_the_script(tmp_path):
    drawn = runpy.run_path(str(DOCS / "diagrams.py"))
    drawn["dot_product"].__globals__["IMAGES"] = tmp_path
    for name in ("dot_product", "concatenation", "softmax"):
        drawn[name]()
        file = f"{name}.svg"
        assert (tmp_path / file).read_bytes() == (DOCS / "images" / file).read_bytes()
