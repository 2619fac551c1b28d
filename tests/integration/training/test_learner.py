import dataclasses

import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.training.learner import Learner
from nonlocalnet.training.trainer import train


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("share", [0.25, 1.5])
def test_a_long_gradient_is_scaled_down_and_a_short_one_left(share, precision):
    torch.manual_seed(0)
    network = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="4x2", crop=32, dropout=0.0)
    clip = torch.randn(2, 3, 4, 32, 32)

    def gradients(learner):
        learner.backward(learner.forward(clip).square().sum())
        return [p.grad.clone() for p in learner.network.parameters()]

    options = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "precision": precision}
    given = gradients(Learner(network, torch.device("cpu"), **options))
    length = torch.cat([g.flatten() for g in given]).norm()
    network.zero_grad()
    before = [p.detach().clone() for p in network.parameters()]
    learner = Learner(network, torch.device("cpu"), max_grad_norm=share * length.item(), **options)
    gradients(learner)
    learner.step(0.1)
    for old, new, gradient in zip(before, network.parameters(), given, strict=True):
        torch.testing.assert_close(new, old - 0.1 * min(1, share) * gradient)


def test_a_bound_on_the_gradient_changes_a_run(config):
    free = dataclasses.replace(config, iterations=2, val=None)
    bound = dataclasses.replace(free, max_grad_norm=0.01, out=free.out.with_name("bound"))
    first, second = (nl.load(train(run).weights).state_dict() for run in (free, bound))
    assert not torch.equal(first["conv1.weight"], second["conv1.weight"])
