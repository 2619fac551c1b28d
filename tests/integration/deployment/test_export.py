import onnx
import pytest
import torch
from torch import nn

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.deployment import export as module
from nonlocalnet.deployment.export import export
from nonlocalnet.deployment.onnx_network import OnnxNetwork

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def network(clips):
    torch.manual_seed(0)
    options = {"num_classes": 3, "clip": "2x1", "crop": 24}
    model = nl.create_model("c2d_tiny_nl2", **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # no block is the identity
                nn.init.normal_(parameter, std=0.1)
        logits = model(normalized(clips))  # let them tell the clips apart
        model.fc.weight /= logits.std(dim=0)[:, None]
        model.fc.bias.copy_((model.fc.bias - logits.mean(dim=0)) / logits.std(dim=0))
    model.info = WeightsInfo(model.config, list("abc"), short_side=32, mean=MEAN, std=STD)
    return model


@pytest.fixture(scope="module")
def onnx_file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    export(network, path)
    return path


@pytest.fixture(scope="module")
def clips():
    noise = torch.rand(5, 3, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    return noise * torch.linspace(0.1, 1, 5).view(5, 1, 1, 1, 1)  # dark and bright clips


def normalized(clips):
    color = [torch.tensor(values, dtype=clips.dtype).view(3, 1, 1, 1) for values in (MEAN, STD)]
    return (clips - color[0]) / color[1]


def expected(network, clips):
    """What users compute in PyTorch, in float64."""
    with torch.no_grad():
        network = network.double()
        scores = network.probabilities(normalized(clips.double()))
        network.float()
    assert scores.std(dim=0).min() > 1e-3  # they tell clips apart
    return scores.float()


def test_onnxruntime_computes_what_the_network_computes(network, onnx_file, clips):
    read = OnnxNetwork(onnx_file)
    assert read.info.classes == list("abc")
    torch.testing.assert_close(read.probabilities(clips), expected(network, clips))
    operators = {node.op_type for node in onnx.load(onnx_file).graph.node}
    assert {"Conv", "Softmax"} <= operators  # and nothing of our own
    assert {node.domain for node in onnx.load(onnx_file).graph.node} == {""}
    assert "BatchNormalization" not in operators  # folded into the convolutions


def test_openvino_computes_what_the_network_computes(network, onnx_file, clips):
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(onnx_file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (found,) = compiled(clips.numpy()).values()
    torch.testing.assert_close(
        torch.from_numpy(found), expected(network, clips), rtol=1e-4, atol=1e-5
    )


def test_a_program_of_torch_computes_what_the_network_computes(network, clips, tmp_path):
    network.train()
    done = export(network, tmp_path / "network.pt2")
    assert network.training
    network.eval()
    assert [shape[0] for shape in done.inputs] == [2, 1, 3]
    program = torch.export.load(done.path).module()
    torch.testing.assert_close(program(clips), expected(network, clips))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("i3d_tiny_nl2", {"clip": "4x1"}),
        ("c2d_tiny_nl2", {"clip": "2x1", "pairwise": "concatenation"}),
        ("c2d_tiny_nl2", {"clip": "2x1", "pairwise": "dot_product"}),
        ("slowfast_4x16_r50_nl5", {"clip": "32x2"}),
        ("tsm_r50_nl5", {"clip": "8seg"}),
        ("torchvision/r3d_18", {}),
    ],
)
def test_networks_of_the_table_take_frames_of_any_size(name, options, suffix, tmp_path):
    torch.manual_seed(0)
    model = nl.create_model(name, num_classes=3, crop=32, **options).eval()
    model.info = WeightsInfo(model.config, list("abc"), short_side=48)
    done = export(model, tmp_path / f"network{suffix}", output="logits", any_size=True)
    assert len({shape[3:] for shape in done.inputs}) == 2


def test_any_network_with_a_block_is_exported(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nl.NonLocalBlock(4, dims=2))
    for parameter in network.parameters():  # the block is not the identity
        nn.init.normal_(parameter, std=0.3)
    images = torch.randn(1, 3, 9, 7)
    done = nl.export(network, tmp_path / "network.onnx", example=images, any_size=True)
    assert done.inputs == [(2, 3, 9, 7), (1, 3, 9, 7), (3, 3, 9, 7), (2, 3, 17, 23)]
    assert done.difference < 1e-5 < done.largest


def test_a_file_with_other_numbers_is_not_written(network, tmp_path, monkeypatch):
    def wrong(model, inputs, sizes, metadata):
        return b"", lambda *x: [model(*x) + 1e-3]

    monkeypatch.setattr(module, "_to_program", wrong)
    with pytest.raises(RuntimeError, match="was not written: its outputs differ"):
        export(network, tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())


def test_refusals_say_what_to_do(network, tmp_path):
    with pytest.raises(ValueError, match=r"ending of the file must be one of '.onnx', '.pt2'"):
        export(network, tmp_path / "network.tflite")
    with pytest.raises(ValueError, match=r"load it with nl\.load, or give example"):
        export(nl.create_model("c2d_tiny"), tmp_path / "network.onnx")
    with pytest.raises(ValueError, match="example must be a tensor or a tuple of tensors"):
        export(nn.ReLU(), tmp_path / "relu.pt2", example=[1, 2])
    (tmp_path / "bad.onnx").write_text("bad")
    with pytest.raises(ValueError, match="not a readable ONNX file"):
        OnnxNetwork(tmp_path / "bad.onnx")


def test_a_fixed_file_says_which_clips_it_takes(onnx_file):
    read = OnnxNetwork(onnx_file)
    with pytest.raises(ValueError, match="clips of 2 frames of 32 x 32; got 2 of 40 x 40"):
        read.probabilities(torch.rand(1, 3, 2, 40, 40))
    with pytest.raises(
        ValueError, match="gives probabilities: export it again with output='logits'"
    ):
        read(torch.rand(1, 3, 2, 32, 32))
