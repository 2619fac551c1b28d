import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# else a test that compiles starts processes that import torch, to compile in parallel
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores, torch's threads must not
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
    # a job in the background ignores these, and so would all processes that tests start and signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def seeds():
    """Each test draws the same numbers, whatever ran before it."""
    random.seed(0)
    torch.manual_seed(0)


GIVEN = Path(os.environ.get("NONLOCALNET_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_configure(config: pytest.Config) -> None:
    config.given = GIVEN  # for what is used where it is there, and made up where it is not


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of given data beside the repository."""
    if not (GIVEN / "data").is_dir():
        pytest.skip(f"given data absent: no folder {GIVEN / 'data'}; set NONLOCALNET_SHARED")
    return GIVEN


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images, and instances and person_keypoints of train and val: COCO's, or else made up."""
    if (GIVEN / "data/coco").is_dir():
        return GIVEN / "data/coco"
    pytest.importorskip("torchvision")
    from ellipses import write_ellipses

    return write_ellipses(tmp_path_factory.mktemp("coco") / "coco")


@pytest.fixture(scope="session")
def oracle() -> Path:
    """The numbers of other people's networks that are part of the repository."""
    return Path(__file__).parent / "golden" / "oracle"


@pytest.fixture(scope="session")
def oracle_with(oracle: Path, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """oracle_with(file): the oracle of the repository, or the whole one where only that has it."""

    def find(file: str) -> Path:
        if (oracle / file).exists():
            return oracle
        return request.getfixturevalue("shared") / "oracle"

    return find
