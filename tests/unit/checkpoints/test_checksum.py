"""Whichever bit of a file of ours changes, it is not taken."""

import random
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nonlocalnet as nl
from nonlocalnet.checkpoints import checksum
from nonlocalnet.checkpoints.files import KEY
from nonlocalnet.checkpoints.load import read_info
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.training.checkpoints import load_checkpoint, save_checkpoint


def flip(path, raw, bit):
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)


@pytest.fixture
def weights(tmp_path):
    network = nl.create_model("c2d_tiny", num_classes=2, clip="4x1", crop=32)
    file = tmp_path / "w.safetensors"
    # a class that is called as the mark itself
    save_weights(network, file, WeightsInfo(network.config, ['"checksum":"crc32:00000000"', "b"]))
    return file


def test_no_flipped_bit_of_a_state_is_taken(tmp_path):
    file = tmp_path / "state.pt"
    save_checkpoint(file, {"model": {"w": torch.randn(50)}, "best": 0.5, "iteration": 3})
    raw = file.read_bytes()
    everywhere = list(range(8 * len(raw)))
    # all of the last bytes, where the directory and the checksum are; places drawn of the others
    for bit in [*everywhere[-8 * 30 :], *random.Random(0).sample(everywhere, 500)]:
        flip(file, raw, bit)
        with pytest.raises(ValueError, match=r"state\.pt is not a"):
            load_checkpoint(file)
    file.write_bytes(raw)
    assert load_checkpoint(file)["iteration"] == 3


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-9], lambda raw: raw[:-1], lambda raw: raw + b"0"]
)
def test_states_that_are_cut_or_longer(tmp_path, damage):
    file = tmp_path / "state.pt"
    save_checkpoint(file, {"iteration": 3})
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"state\.pt is not a readable checkpoint"):
        load_checkpoint(file)


def test_a_state_is_what_torch_and_zip_readers_expect(tmp_path):
    save_checkpoint(tmp_path / "c.pt", {"w": torch.arange(9)})
    assert torch.equal(torch.load(tmp_path / "c.pt", weights_only=True)["w"], torch.arange(9))
    with zipfile.ZipFile(tmp_path / "c.pt") as archive:
        assert archive.testzip() is None


def test_a_state_of_before_is_checked_by_its_records(tmp_path):
    file = tmp_path / "c.pt"
    torch.save({"format": 1, "w": torch.ones(1000)}, file)
    assert load_checkpoint(file)["w"].sum() == 1000
    raw = file.read_bytes()
    flip(file, raw, 8 * raw.index(torch.ones(1000).numpy().tobytes()) + 3)
    with pytest.raises(ValueError, match=r"damaged.*have changed"):
        load_checkpoint(file)


def test_no_flipped_bit_of_weights_is_taken(weights):
    raw = weights.read_bytes()
    header = 8 * (8 + int.from_bytes(raw[:8], "little"))
    named = 8 * raw.index(f'"{checksum.KEY}":"crc32:'.encode())
    drawn = random.Random(0)
    bits = [*range(named, named + 8 * 26), *drawn.sample(range(header), 60)]
    for bit in [*bits, *drawn.sample(range(header, 8 * len(raw)), 60)]:
        flip(weights, raw, bit)
        with pytest.raises(ValueError, match=r"w\.safetensors"):
            nl.load(weights)
    weights.write_bytes(raw)
    assert nl.load(weights).fc.out_features == 2


def test_a_changed_description_is_found_too(weights):
    raw = weights.read_bytes()
    assert read_info(weights).config["clip"] == "4x1"
    weights.write_bytes(raw.replace(b"4x1", b"4x2"))
    with pytest.raises(ValueError, match="it is damaged: its bytes are not those"):
        read_info(weights)


def test_files_without_a_checksum_are_read_as_before(weights):
    with safe_open(weights, framework="pt") as file:
        text = file.metadata()[KEY]
    save_file(load_file(weights), weights, metadata={KEY: text})
    assert nl.load(weights).fc.out_features == 2
