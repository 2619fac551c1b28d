import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.training.optim import learning_rate, make_optimizer, parameter_groups


def test_norms_are_not_decayed_and_everything_else_is():
    model = nl.create_model("c2d_tiny_nl2", num_classes=3, clip="4x1", crop=32)
    decayed, kept = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in kept["params"]} == {n for n in names.values() if "norm" in n}
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_a_step_is_the_papers_sgd():
    # Nesterov by hand: v = m v + (grad + wd w); w = w - lr (grad + wd w + m v)
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 2.0)
    optimizer = make_optimizer(layer, 0.1, momentum=0.9, weight_decay=0.01)
    w, v = 2.0, 0.0
    for grad in (1.0, -0.5, 0.25):
        layer.weight.grad = torch.tensor([[grad]], dtype=torch.float64)
        optimizer.step()
        step = grad + 0.01 * w
        v = 0.9 * v + step
        w -= 0.1 * (step + 0.9 * v)
        assert layer.weight.item() == pytest.approx(w, rel=1e-12)


def test_the_rate_of_the_official_400k_schedule():
    rate = [learning_rate(i, 0.01, (150_000, 300_000)) for i in (0, 149_999, 150_000, 300_000)]
    assert rate == pytest.approx([0.01, 0.01, 0.001, 0.0001])


def test_the_warm_up_is_linear_and_ends_at_the_base():
    rates = [learning_rate(i, 0.4, (), warmup=4) for i in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_half_a_cosine_after_a_warm_up():
    rates = [learning_rate(i, 0.4, (), warmup=2, cosine=10) for i in range(11)]
    assert rates[:2] == pytest.approx([0.2, 0.4])
    assert rates[5] == pytest.approx(0.2)
    assert rates[10] == pytest.approx(0.0)
    assert rates[2:] == sorted(rates[2:], reverse=True)
