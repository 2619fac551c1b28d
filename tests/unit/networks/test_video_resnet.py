import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nonlocalnet as nl
from nonlocalnet.blocks import NonLocalBlock


def network(name="i3d_tiny_nl2", crop=64, **options):
    """A network with nothing zero, in evaluation mode."""
    torch.manual_seed(0)
    model = nl.create_model(name, num_classes=5, clip="8x2", crop=crop, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    nn.init.normal_(model.fc.weight)
    return model.eval()


def test_forward_is_the_classifier_on_the_mean_of_the_last_map():
    model, x = network(), torch.randn(2, 3, 8, 64, 64)
    pooled = model.features(x).double().mean((2, 3, 4))
    expected = pooled @ model.fc.weight.double().mT + model.fc.bias.double()
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "crop"), [("i3d_tiny_nl2", 64), ("c2d_tiny", 80)])
def test_logits_map_at_the_training_crop_is_forward(name, crop):
    model, x = network(name, crop), torch.randn(2, 3, 8, crop, crop)
    logits = model.logits_map(x)
    assert logits.shape == (2, 5, 1, 1)
    torch.testing.assert_close(logits[:, :, 0, 0], model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("crop", [32, 34, 40, 56, 64, 72, 81, 112])
@pytest.mark.parametrize("padding", [0, 1])
def test_window_is_the_last_map_at_the_training_crop(crop, padding):
    with torch.device("meta"):
        model = nl.create_model("c2d_tiny", crop=crop, stem_padding=padding)
        last = model.features(torch.zeros(1, 3, 4, crop, crop))
    assert last.shape[3:] == (model.window, model.window)


def test_windows_of_the_paper():
    assert nl.create_model("c2d_small").window == 14  # three stages: a stride of 16
    with torch.device("meta"):
        assert nl.create_model("c2d_r50").window == 7


def test_logits_map_slides_the_window_over_larger_frames():
    model, x = network(crop=64), torch.randn(1, 3, 8, 80, 96)
    features = model.features(x)
    logits = model.logits_map(x)
    rows, columns = (side - model.window + 1 for side in features.shape[3:])
    assert logits.shape == (1, 5, rows, columns)
    assert min(rows, columns) > 1
    for i in range(rows):
        for j in range(columns):
            window = features[:, :, :, i : i + model.window, j : j + model.window]
            expected = model.fc(window.mean((2, 3, 4)))
            torch.testing.assert_close(logits[:, :, i, j], expected, rtol=1e-5, atol=1e-5)


def test_frames_smaller_than_the_training_crop_have_one_position():
    model = network(crop=64)
    x = torch.randn(1, 3, 8, 48, 48)
    torch.testing.assert_close(model.logits_map(x)[..., 0, 0], model(x), rtol=1e-5, atol=1e-5)


def test_probabilities_are_the_mean_of_softmax_not_the_softmax_of_the_mean():
    model, x = network(crop=32), torch.randn(2, 3, 8, 96, 96)
    logits = model.logits_map(x)
    p = model.probabilities(x)
    each = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(p, each.mean((2, 3)))
    torch.testing.assert_close(p.sum(1), torch.ones(2))
    assert (p - logits.mean((2, 3)).softmax(1)).abs().max() > 1e-3


def test_probabilities_of_many_labels_are_the_mean_of_sigmoid():
    model, x = network(crop=32), torch.randn(2, 3, 8, 96, 96)
    logits = model.logits_map(x)
    p = model.probabilities(x, multi_label=True)
    torch.testing.assert_close(p, (1 / (1 + (-logits).exp())).mean((2, 3)))


def test_features_name_every_intermediate_by_its_module_path():
    model, out, x = network(), {}, torch.randn(1, 3, 8, 64, 64)
    last = model.features(x, out)
    blocks = [n for n, _ in model.named_modules() if n.count(".") == 1 and n.startswith("res")]
    assert set(out) == {"conv1", "pool1", "pool2", "res2", "res3", "res4", *blocks}
    assert {"res2.block0", "res3.non_local0", "res3.non_local1"} <= set(out)
    assert out["res4"] is last
    assert torch.equal(last, model.features(x))


def test_kept_intermediates_are_what_the_modules_gave():
    model, out, x = network(), {}, torch.randn(1, 3, 8, 64, 64)
    model.features(x, out)
    assert torch.equal(out["conv1"], model.conv1(x))  # raw: no later layer wrote into it
    stem = F.relu(model.norm1(out["conv1"]))
    assert torch.equal(out["pool1"], F.max_pool3d(stem, (1, 3, 3), (1, 2, 2)))
    assert torch.equal(out["res2"], model.res2(out["pool1"]))
    assert torch.equal(out["pool2"], F.max_pool3d(out["res2"], (2, 1, 1)))
    assert torch.equal(out["res3.non_local0"], model.res3.non_local0(out["res3.block0"]))
    assert torch.equal(out["res3"], model.res3(out["pool2"]))
    assert torch.equal(out["res4"], model.res4(out["res3"]))


def test_input_is_left_alone():
    model, x = network(), torch.randn(1, 3, 8, 64, 64)
    given = x.clone()
    model(x)
    assert torch.equal(x, given)


def test_dropout_acts_in_training_only():
    model, x = network(norm="frozen", dropout=0.5), torch.randn(1, 3, 8, 64, 64)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_gradients_reach_every_parameter():
    model, x = network("i3d_small_nl2", pairwise="dot_product"), torch.randn(2, 3, 8, 64, 64)
    for module in model.modules():
        if isinstance(module, NonLocalBlock):
            for conv in (module.theta, module.phi, module.g):
                nn.init.normal_(conv.weight, std=0.3)
    model.train()(x).square().sum().backward()
    # a bias before a batch norm moves nothing
    silent = [n for n, _ in model.named_parameters() if n.endswith("w_z.bias")]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert name in silent or parameter.grad.abs().max() > 0, name


def test_channels_last_gives_the_same():
    model, x = network(), torch.randn(2, 3, 8, 64, 64)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last_3d)
    actual = model(x.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_compiles_as_one_graph():
    model, x = network(), torch.randn(1, 3, 8, 64, 64)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_blocks_without_bias_or_norm_as_the_official_switches_allow():
    def blocks(**options):
        model = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="4x1", crop=32, **options)
        return [m for m in model.modules() if isinstance(m, nl.NonLocalBlock)]

    for block in blocks(bias=False):
        assert [n for n, _ in block.named_parameters() if n.endswith("bias")] == ["norm.bias"]
    assert all(block.norm is None for block in blocks(block_norm=None))
    assert all(block.norm is not None for block in blocks())


def test_hooks_on_any_module_run_with_and_without_kept_intermediates():
    model, x = network(), torch.randn(1, 3, 8, 64, 64)
    ran = []
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    every = {name for name, _ in model.named_modules() if name}
    for out in (None, {}):
        ran.clear()
        model.features(x, out)
        assert set(ran) == every - {"dropout", "fc"}
        assert len(ran) == len(set(ran))
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    assert hooks == len(every)  # those that kept are gone


def test_a_wrapped_stage_is_called():
    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    model, x = network(), torch.randn(1, 3, 8, 64, 64)
    expected = 2 * model.features(x)
    model.res4 = Doubled(model.res4)
    assert torch.equal(model.features(x), expected)
