import copy
import dataclasses

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.training.checkpoints import Checkpoints
from nonlocalnet.training.parallel import parallelize, recompute_blocks
from nonlocalnet.training.trainer import train


def make_model(**options):
    torch.manual_seed(0)
    return nl.create_model("i3d_tiny_nl2", num_classes=3, clip="8x1", crop=32, **options).double()


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_recomputed_blocks_give_the_same_gradients_and_statistics(norm):
    model = make_model(norm=norm)
    other = copy.deepcopy(model)
    recompute_blocks(other)
    clips = torch.randn(2, 3, 8, 32, 32).double()
    for network in (model, other):
        torch.manual_seed(1)  # of dropout
        network.train()(clips).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    for (name, b), c in zip(model.named_buffers(), other.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(b, c, msg=name)


def test_recomputed_blocks_keep_less():
    def kept(model):
        bytes_ = 0

        def pack(x):
            nonlocal bytes_
            bytes_ += x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model.train()(torch.randn(2, 3, 8, 32, 32).double())
        return bytes_

    model = make_model()
    plain = kept(model)
    recompute_blocks(model)
    assert kept(model) < plain / 2


def test_synchronized_norms_need_a_gpu():
    with pytest.raises(ValueError, match="sync_norm needs GPUs"):
        parallelize(make_model(), torch.device("cpu"), parallel="ddp", sync_norm=True)


def test_the_average_of_the_weights_by_hand(config):
    run = dataclasses.replace(
        config, ema=0.8, iterations=3, checkpoint_every=1, precise_norm=0, val=None
    )
    weights = train(run).weights
    states = [
        torch.load(file, weights_only=True)
        for file in reversed(Checkpoints(run.out / "checkpoints", 3).files())
    ]
    # e_n = 0.8 e_(n-1) + 0.2 w_n
    for name in states[0]["ema"]:
        expected = 0.8 * states[1]["ema"][name] + 0.2 * states[2]["model"][name]
        torch.testing.assert_close(states[2]["ema"][name], expected)
    saved = nl.load(weights).state_dict()
    for name, value in states[2]["ema"].items():
        assert torch.equal(saved[name], value)


@pytest.mark.slow
def test_compiled_networks_train(config):
    plain = dataclasses.replace(config, iterations=2, val=None, dropout=0.0, log_every=1)
    train(plain)
    compiled = dataclasses.replace(plain, compile=True, out=plain.out.with_name("compiled"))
    one = nl.load(train(compiled).weights).state_dict()
    other = nl.load(plain.out / "model.safetensors").state_dict()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4, msg=name)
