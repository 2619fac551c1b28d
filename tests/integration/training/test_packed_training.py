"""Training from packed data is training from files, bit for bit, also resumed."""

import dataclasses

import pytest
import torch
from safetensors import safe_open

from nonlocalnet.data.datasets import read_entries
from nonlocalnet.data.packs.write import pack_dataset
from nonlocalnet.training.checkpoints import Checkpoints
from nonlocalnet.training.trainer import train


@pytest.fixture
def packed(config, tmp_path):
    """The same data, and the same run, from tar files of two videos."""
    found = read_entries(config.data, val=config.val)
    pack_dataset(config.data, found, tmp_path / "packed", shard_size=20_480)
    assert len(list((tmp_path / "packed").glob("train-*.tar"))) == 6
    return dataclasses.replace(
        config, data=tmp_path / "packed", val=None, out=tmp_path / "packed_run"
    )


def weights(folder, name="model.safetensors"):
    with safe_open(folder / name, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def lose_the_end(run):
    """As if it had been killed after 3 of 4 updates."""
    Checkpoints(run.out / "checkpoints", 3).files()[0].unlink()
    (run.out / "model.safetensors").unlink()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_weights_are_the_same_bits(config, packed):
    shorter = {"iterations": 4, "eval_every": 4, "checkpoint_every": 1}
    config, packed = (dataclasses.replace(run, **shorter) for run in (config, packed))
    train(config)
    train(packed)
    lose_the_end(packed)
    train(dataclasses.replace(packed, resume=True))
    expected, about = weights(config.out)
    found, also = weights(packed.out)
    assert same(found, expected)
    assert same(
        weights(packed.out, "best.safetensors")[0], weights(config.out, "best.safetensors")[0]
    )
    del about["checksum"], also["checksum"]  # which depends on the order of the metadata
    assert about == also
    # a run of files continues from packed data, too
    lose_the_end(config)
    train(dataclasses.replace(config, data=packed.data, val=None, resume=True))
    assert same(weights(config.out)[0], expected)
