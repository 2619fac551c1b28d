import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.training.precise_bn import set_precise_statistics


def test_the_statistics_are_those_of_all_batches_together():
    # equal batches: the mean of means is the mean, the mean of squares that of all
    torch.manual_seed(0)
    batches = [3 + 2 * torch.randn(4, 5, 2, 3, 3) for _ in range(6)]
    norm = nn.BatchNorm3d(5)
    norm.running_mean.fill_(99)
    set_precise_statistics(nn.Sequential(norm), [(x,) for x in batches])
    every = torch.cat(batches).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean.double(), every.mean(1), rtol=1e-6, atol=1e-6)
    variance = every.var(1, correction=0)  # biased, as the official code's
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)


def test_a_running_average_would_differ():
    torch.manual_seed(0)
    batches = [torch.randn(4, 5, 2, 3, 3) + i for i in range(6)]
    norm = nn.BatchNorm3d(5)
    for batch in batches:
        norm(batch)
    before = norm.running_mean.clone()
    set_precise_statistics(nn.Sequential(norm), [(x,) for x in batches])
    assert (norm.running_mean - before).abs().max() > 0.1
    torch.testing.assert_close(norm.running_mean, torch.full((5,), 2.5), rtol=0.1, atol=0.1)


def test_a_network_keeps_its_weights_and_mode_and_learns_its_own_statistics():
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="4x1", crop=32).eval()
    weights = {name: p.clone() for name, p in model.named_parameters()}
    clips = torch.randn(8, 3, 4, 32, 32)
    set_precise_statistics(model, [(clips,)])
    assert not model.training
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    # tested with the statistics of one batch, the batch gives what it gives in training
    with torch.no_grad():
        tested = model(clips)
        model.train()
        model.dropout.p = 0.0
        torch.testing.assert_close(tested, model(clips), rtol=1e-3, atol=1e-4)
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    assert sum(hooks) == 0


@pytest.mark.parametrize("batches", [[], iter(())])
def test_no_batch_changes_nothing(batches):
    norm = nn.BatchNorm3d(3)
    set_precise_statistics(norm, [(x,) for x in batches])
    assert torch.equal(norm.running_mean, torch.zeros(3))
