from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def coco_dataset(coco: Path) -> Callable[..., Any]:
    """coco_dataset(name, ...): the given images of COCO with the annotations of that name."""
    from nonlocalnet.detection.dataset import CocoDataset

    return lambda name, *transform, **options: CocoDataset(
        coco / "images", coco / f"{name}.json", *transform, **options
    )


@pytest.fixture
def coco_content(coco: Path) -> Callable[[str], dict]:
    """coco_content(name): what those annotations say."""
    return lambda name: json.loads((coco / f"{name}.json").read_text())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A folder with 1.png, 64x48 pixels of noise."""
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    image.fromarray(noise).save(tmp_path / "1.png")
    return tmp_path
