"""Files of MXNet: one that it wrote itself, and damaged ones."""

import contextlib
import random

import pytest
import torch

from nonlocalnet.checkpoints.files import read_checkpoint


@pytest.fixture
def written(oracle):
    return (oracle / "format/mxnet_1_9.params").read_bytes()


def test_arrays_are_mxnets(written, tmp_path):
    (tmp_path / "x.params").write_bytes(written)
    checkpoint = read_checkpoint(tmp_path / "x.params")
    assert checkpoint.container == "mxnet"
    expected = {
        "a.weight": torch.tensor([[0, 0.25, 0.5], [0.75, 1, 1.25]]),
        "b.running_mean": torch.tensor([1.5, -2], dtype=torch.float64),
        "c.d": torch.tensor([[[-2, -1]], [[0, 1]]]),
        "e": torch.tensor([0.5, 1], dtype=torch.float16),
    }
    assert checkpoint.tensors.keys() == expected.keys()
    for name, value in expected.items():
        entry = checkpoint.tensors[name]
        assert (entry.shape, entry.dtype) == (tuple(value.shape), value.dtype)
        assert torch.equal(entry.read(), value)


def test_a_file_that_is_cut_off_is_refused(written, tmp_path):
    for size in range(8, len(written)):
        (tmp_path / "x.params").write_bytes(written[:size])
        with pytest.raises(ValueError, match="cut off"):
            read_checkpoint(tmp_path / "x.params")


def test_changed_bytes_give_a_value_error_or_other_numbers(written, tmp_path):
    rng = random.Random(0)
    for _ in range(300):
        changed = bytearray(written)
        changed[rng.randrange(8, len(changed))] ^= 1 << rng.randrange(8)
        (tmp_path / "x.params").write_bytes(changed)
        with contextlib.suppress(ValueError):
            tensors = read_checkpoint(tmp_path / "x.params").tensors
            assert sum(entry.read().nbytes for entry in tensors.values()) <= len(written)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (16, 1 << 40, "arrays, more than any known network"),
        (24, 0xF993FAC8, "before 1.0"),
        (28, 1, "sparse or an empty array"),
        (32, 1 << 20, "sparse or an empty array"),
    ],
)
def test_what_weights_never_have_is_refused(written, tmp_path, place, value, words):
    size = 8 if place == 16 else 4
    changed = written[:place] + value.to_bytes(size, "little") + written[place + size :]
    (tmp_path / "x.params").write_bytes(changed)
    with pytest.raises(ValueError, match=words):
        read_checkpoint(tmp_path / "x.params")


def test_a_large_array_takes_no_memory(written, tmp_path):
    changed = written[:36] + (1 << 40).to_bytes(8, "little") + written[44:]
    (tmp_path / "x.params").write_bytes(changed)
    with pytest.raises(ValueError, match="cut off, or its arrays have other sizes"):
        read_checkpoint(tmp_path / "x.params")
