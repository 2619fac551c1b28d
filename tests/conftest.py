import os
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores, torch's threads must not
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of given data (videos, oracle), beside the repository."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("NONLOCALNET_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"given data absent: no folder {folder / 'data'}; set NONLOCALNET_SHARED")
    return folder


@pytest.fixture(scope="session")
def oracle(shared: Path) -> Path:
    """The numbers of the official networks."""
    folder = shared / "oracle"
    if not folder.is_dir():
        pytest.skip(f"oracle absent: no folder {folder}; set NONLOCALNET_SHARED")
    return folder
