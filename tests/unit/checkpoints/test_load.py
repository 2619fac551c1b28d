import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nonlocalnet as nl
from nonlocalnet.checkpoints.files import KEY
from nonlocalnet.checkpoints.load import load, load_weights, read_info
from nonlocalnet.checkpoints.metadata import WeightsInfo, kinetics_classes
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.networks.arguments import DEFAULTS, describe, resolve
from nonlocalnet.networks.options import read_classes

OPTIONS = {"num_classes": 3, "clip": "4x2", "crop": 32}


def network(name="c2d_tiny_nl2", seed=0, **options):
    torch.manual_seed(seed)
    model = nl.create_model(name, **(OPTIONS | options))
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.05, 0.1)  # small, so that no product overflows
    return model.eval()


def info_of(model, **fields) -> WeightsInfo:
    return WeightsInfo(config=model.config, classes=["run", "jump", "naïve"], **fields)


@pytest.fixture
def file(tmp_path) -> Path:
    model = network()
    save_weights(model, tmp_path / "a.safetensors", info_of(model))
    return tmp_path / "a.safetensors"


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "frozen", "clip": "8x2"},
        {"pairwise": "concatenation"},
        {"extent": "time", "crop": 64},
    ],
)
def test_round_trip_gives_the_same_network_and_description(tmp_path, options):
    model = network(**options)
    info = info_of(model, multi_label=True, short_side=40, facts={"top-1": 0.5, "data": "x"})
    path = tmp_path / "b.safetensors"
    save_weights(model, path, info)
    again = load(path)
    x = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(again(x), model(x))
    assert same(state(again), state(model))
    assert read_info(path) == again.info == info
    assert not again.training
    assert again.config == model.config


def test_paths_may_be_words(file):
    assert same(state(load(str(file))), state(load(file)))


def test_saving_makes_channels_last_and_shared_memory_no_matter(tmp_path):
    model = network().to(memory_format=torch.channels_last_3d)
    save_weights(model, tmp_path / "c", info_of(model))
    assert same(state(load(tmp_path / "c")), state(model))


def test_class_name_falls_back_on_the_number():
    info = WeightsInfo(config={}, classes=["run"])
    assert [info.class_name(i) for i in (0, 1)] == ["run", "1"]


def test_report_names_what_was_loaded(file):
    model = network(seed=1)
    report = load_weights(model, file)
    assert set(report.loaded) == set(model.state_dict())
    assert (report.left, report.unused) == ([], [])
    assert str(report) == f"{len(model.state_dict())} loaded, 0 left, 0 unused"


def test_new_classifier_keeps_fc_and_loads_the_rest(file):
    model = network(seed=1, num_classes=7)
    before = state(model)
    report = load_weights(model, file, new_classifier=True)
    fc = {"fc.weight", "fc.bias"}
    assert set(report.left) == set(report.unused) == fc
    assert set(report.loaded) == set(before) - fc
    stored = load_file(file)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in fc else stored[key])


def change(file, edit):
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={KEY: json.dumps({"config": network().config})})


BROKEN = {
    "wrong shape": (
        lambda t: t.update({"fc.weight": torch.zeros(4, 64)}),
        ["fc.weight", "(4, 64)", "(3, 64)"],
    ),
    "same number of elements": (
        lambda t: t.update({"fc.weight": t["fc.weight"].mT.contiguous()}),
        ["fc.weight", "(64, 3)", "(3, 64)"],
    ),
    "missing": (lambda t: t.pop("conv1.weight"), ["conv1.weight is not in the file"]),
    "unknown": (lambda t: t.update(extra=torch.zeros(1)), ["extra is not in the network"]),
    "all": (lambda t: t.clear() or t.update(a=torch.zeros(1)), ["and", "more", "not in the file"]),
}


@pytest.mark.parametrize(
    ("case", "new_classifier"),
    [*((case, False) for case in BROKEN), *((case, True) for case in ("missing", "unknown"))],
)
def test_file_that_does_not_fit_is_refused_and_the_model_unchanged(file, case, new_classifier):
    edit, words = BROKEN[case]
    change(file, edit)
    model = network(seed=1)
    before = state(model)
    with pytest.raises(ValueError, match="does not fit the network") as error:
        load_weights(model, file, new_classifier=new_classifier)
    assert [word for word in [str(file), *words] if word not in str(error.value)] == []
    assert same(state(model), before)


def test_weights_of_another_network_are_refused(file):
    with pytest.raises(ValueError, match=r"res3\.non_local0\..* is not in the network"):
        load_weights(network("c2d_tiny"), file)


CORRUPT = {
    "text": (b"hello, I am no weights file\n", "no weights file"),
    "empty": (b"", "empty"),
    "pickle": (b"\x80\x02}q\x00.", "no arrays by name"),
    "huge header": ((2**62).to_bytes(8, "little") + b"{}", "no weights file"),
    "damaged header": ((2).to_bytes(8, "little") + b"{]" + b"0" * 9, "damaged safetensors file"),
}


@pytest.mark.parametrize("reader", [read_info, load, lambda p: load_weights(network(), p)])
@pytest.mark.parametrize("content", CORRUPT)
def test_what_is_no_weights_file_is_named(tmp_path, content, reader):
    path = tmp_path / "x.safetensors"
    data, words = CORRUPT[content]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"x\.safetensors: it .*{words}"):
        reader(path)


@pytest.mark.parametrize("reader", [read_info, load, lambda p: load_weights(network(), p)])
def test_truncated_file_is_named(file, reader):
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"a\.safetensors: it is a damaged safetensors file"):
        reader(file)


@pytest.mark.parametrize("reader", [read_info, load, lambda p: load_weights(network(), p)])
def test_missing_file_is_named(tmp_path, reader):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no weights file at {path}"):
            reader(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_file_is_named(tmp_path, metadata):
    path = tmp_path / "timm.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="does not say which network it is for"):
        read_info(path)
    with pytest.raises(ValueError, match=r"its names \(a, \.\.\.\) are of no known format"):
        load(path)


@pytest.mark.parametrize("text", ["{", "{}", '{"config": {}, "new_field": 1}', "[1]", "null"])
def test_damaged_description_is_named(tmp_path, text):
    path = tmp_path / "d.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={KEY: text})
    with pytest.raises(ValueError, match="damaged description"):
        read_info(path)


def test_description_of_an_unknown_network_is_named(tmp_path):
    path = tmp_path / "e.safetensors"
    text = json.dumps({"config": {"name": "c2d_r99"}})
    save_file({"a": torch.zeros(1)}, path, metadata={KEY: text})
    with pytest.raises(ValueError, match="'c2d_r99'"):
        load(path)


def test_class_names_are_read_one_a_line(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("run\n\n  jump high \n", encoding="utf-8")
    assert read_classes(path) == ["run", "jump high"]
    path.write_text("\n \n")
    with pytest.raises(ValueError, match="has no class names"):
        read_classes(path)


@pytest.mark.parametrize(
    "change",
    [
        {"widths": [8, 32, 1 << 30]},
        {"num_classes": 1 << 40},
        {"conv1_channels": 1 << 40},
        {"depths": [1, 1 << 30, 1]},
        {"conv1_kernel": [1 << 20, 3]},
        {"kernels_a": [[1 << 30], [1, 1], [1]]},
    ],
)
def test_a_description_of_more_than_the_file_holds_is_refused(file, change):
    config = network().config | change
    save_file(load_file(file), file, metadata={KEY: json.dumps({"config": config})})
    with pytest.raises(ValueError, match=r"larger network|does not fit|makes no sense"):
        load(file)


@pytest.mark.parametrize(
    "change",
    [
        {"stem_padding": "one"},
        {"widths": 3},
        {"non_local": [1]},
        {"name": 3},
        {"clip": 8},
        {"num_classes": -3},
        {"widths": [8, 32, -16]},
        {"depths": [1, 2]},
        {"depths": [0, 2, 1]},
    ],
)
def test_a_description_that_builds_nothing_is_refused(file, change):
    config = network().config | change
    save_file(load_file(file), file, metadata={KEY: json.dumps({"config": config})})
    with pytest.raises(ValueError, match=r"a\.safetensors: "):
        load(file)


@pytest.mark.parametrize(
    "field",
    [
        {"classes": 5},
        {"classes": "abc"},
        {"classes": [1, 2]},
        {"short_side": "a"},
        {"short_side": 0},
        {"mean": "abc"},
        {"mean": [0.5]},
        {"std": [0.1, 0, 0.1]},
        {"std": [0.1, float("nan"), 0.1]},
        {"multi_label": "no"},
        {"facts": [1]},
    ],
)
def test_a_description_of_the_wrong_kind_is_refused(file, field):
    text = json.dumps({"config": network().config, **field})
    save_file(load_file(file), file, metadata={KEY: text})
    with pytest.raises(ValueError, match=r"a\.safetensors has a damaged description"):
        load(file)


WRONG_KINDS = {
    "kernels_a": [{}, [[True], [1, 1], [1]], [[1.0], [1, 1], [1]], "1"],
    "crop": [True, 0, 1e3, 1 << 40],
    "clip": ["8x" + "9" * 100_000, [8, 8], None],
    "num_classes": [True, 3.0, "3"],
    "scale": [float("nan"), float("inf"), True, "x" * 100_000, {}],
    "dropout": [2, -1, True, None, "0.5"],
    "bias": [1, None, "yes"],
    "subsample": [[1, 2], [True, 2, 2], [1, 1 << 40, 1], [1, -2, 2], 2, {"res3": [1, 2]}],
    "non_local": [{"res3": [0, True]}, {"res3": {}}, {"res3": [-1]}, [1], "res3"],
    "pairwise": [["dot_product"], None, 1],
    "norm": [None, True, {}],
    "block_norm": [True, 0],
    "window": [0, True, [2]],
    "temporal_group": [-1, 1.5, {"res3": 0}, {"res3": [4]}, {"res3": {}}],
    "strides": [2, [1, 0, 1], [1, 1 << 40, 1], [True, 2, 2]],
    "dilations": ["1", [1.0, 1, 1]],
    "alpha": [0, True, None, 1 << 40],
    "fast_conv1_kernel": [[5], 5, None],
    "temporal_stride": [0, True],
    "stem_padding": [-1, 1.0, False],
    "depths": [[1, 2.0, 1], {"res2": 1}, 4],
    "conv1_kernel": [[1], [1, 3, 3], [1, True]],
    "name": [3, None, "x\x1b" * 50_000],
    "x\x1b" * 1000: [1],
}


@pytest.fixture(scope="module")
def tensors():
    return {key: value.contiguous() for key, value in network().state_dict().items()}


def described(tensors, path, text=None, config=(), **info) -> Path:
    config = network().config | dict(config)
    save_file(tensors, path, metadata={KEY: text or json.dumps({"config": config, **info})})
    return path


@pytest.mark.parametrize("field", WRONG_KINDS)
def test_a_field_of_another_kind_is_one_short_sentence(tensors, tmp_path, field):
    for value in WRONG_KINDS[field]:
        path = described(tensors, tmp_path / "d", config={field: value})
        for reader in (load, lambda path: load_weights(network(), path)):
            with pytest.raises(ValueError, match=r"d: (\w+) must be ") as error:
                reader(path)
            said = str(error.value)
            assert said.isprintable()
            assert len(said) - len(str(path)) < 600


def test_a_clip_of_more_than_memory_is_refused_unless_it_is_told(tensors, tmp_path):
    path = described(tensors, tmp_path / "d", config={"clip": "99999x1"})
    with pytest.raises(ValueError, match=r"99,999 x 256 x 256 is more than .* pass clip="):
        load(path)
    assert load(path, clip="4x2").config["clip"] == "4x2"
    assert load(path, clip="99999x1").config["clip"] == "99999x1"
    for large in ({"short_side": 100_000}, {"config": {"crop": 100_000}}):
        with pytest.raises(ValueError, match="more than 67,108,864 pixels"):
            load(described(tensors, tmp_path / "d", **large))
    assert load(described(tensors, tmp_path / "d", config={"clip": "1024x1"})) is not None


def test_a_clip_in_another_code_bases_configuration_is_bounded_too(tmp_path):
    from nonlocalnet.checkpoints.save import export_weights

    narrow = {"widths": (4, 8, 16, 32), "conv1_channels": 4, "num_classes": 3}
    model = nl.create_model("c2d_r50", clip="99999x1", temporal_stride=1, stem_padding=1, **narrow)
    export_weights(model, tmp_path / "x.pyth", "pyslowfast")
    with pytest.raises(ValueError, match=r"99,999 x 256 x 256 is more than"):
        load(tmp_path / "x.pyth")


def test_names_of_classes_are_as_many_as_classes_and_fit_for_a_terminal(tensors, tmp_path):
    path = described(tensors, tmp_path / "d", classes=["a"] * 1_000_000)
    with pytest.raises(ValueError, match="damaged description: 1,000,000 names for 3 classes"):
        load(path)
    names = ["\x1b[31mred\r\n", "b" * 100_000, "naïve 日本"]
    info = load(described(tensors, path, classes=names)).info
    assert info.class_name(0) == r"\x1b[31mred\r\n"
    assert len(info.class_name(1)) == 200
    assert info.class_name(2) == names[2]


def test_a_results_file_of_an_earlier_version_loads(tmp_path):
    """As written before the rooms were arranged: no checksum, every field by its name."""
    torch.manual_seed(0)
    network = nl.create_model("c2d_tiny", num_classes=2, clip="4x2", crop=32)
    text = (
        '{"config": {"name": "c2d_tiny", "num_classes": 2, "clip": "4x2", "crop": 32}, '
        '"classes": ["run", "jump"], "multi_label": false, "short_side": 36, '
        '"mean": [0.45, 0.45, 0.45], "std": [0.225, 0.225, 0.225], '
        '"facts": {"iterations": 10, "top-1": 50.0}}'
    )
    path = tmp_path / "model.safetensors"
    save_file(network.state_dict(), path, metadata={"nonlocalnet": text})
    again = load(path)
    assert torch.equal(again.fc.weight, network.fc.weight)
    assert (again.info.class_name(1), again.info.short_side) == ("jump", 36)
    assert again.info.facts == {"iterations": 10, "top-1": 50.0}


def test_a_description_never_downloads(tensors, tmp_path):
    config = {"name": "torchvision/r3d_18", "num_classes": 3, "weights": "DEFAULT"}
    save_file(tensors, tmp_path / "d", metadata={KEY: json.dumps({"config": config})})
    with pytest.raises(ValueError, match="weights must be None"):
        load(tmp_path / "d")


def test_a_trained_network_of_torchvision_loads(tmp_path):
    network = nl.create_model("torchvision/r3d_18", num_classes=3, clip="4x2", crop=32)
    save_weights(network, tmp_path / "v", WeightsInfo(network.config))
    again = load(tmp_path / "v")
    assert torch.equal(again.fc.weight, network.fc.weight)
    inserted = nl.create_model("c2d_tiny", num_classes=2, clip="4x2", crop=32, insert=["res3.*"])
    save_weights(inserted, tmp_path / "i", WeightsInfo(inserted.config))
    assert same(state(load(tmp_path / "i")), state(inserted))


def test_nothing_is_described_twice(tensors, tmp_path):
    text = json.dumps({"config": network().config})
    for twice in (text[:-1] + ', "config": {}}', text.replace('"clip"', '"crop": 1, "clip"')):
        with pytest.raises(ValueError, match="damaged description: it says something twice"):
            load(described(tensors, tmp_path / "d", text=twice))


def test_a_deep_description_is_refused(file):
    text = '{"config": ' + "[" * 100_000 + "]" * 100_000 + "}"
    save_file(load_file(file), file, metadata={KEY: text})
    with pytest.raises(ValueError, match="damaged description"):
        load(file)


def test_any_length_of_header_is_safetensors(tmp_path):
    data = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    data += b" " * (60 - len(data))  # the length's first byte is "<", as a web page's
    (tmp_path / "x").write_bytes(len(data).to_bytes(8, "little") + data + b"\0\0\x80?")
    with pytest.raises(ValueError, match="of no known format"):
        load(tmp_path / "x")


def test_normalization_is_kept(tmp_path):
    model = network()
    info = info_of(model, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    save_weights(model, tmp_path / "n", info)
    assert load(tmp_path / "n").info == info


def test_classes_of_kinetics_are_those_of_others(shared):
    given = (shared / "data" / "labels" / "kinetics_label_map_k400.txt").read_text().splitlines()
    assert kinetics_classes() == given


@pytest.mark.parametrize("name", nl.list_models("[ci][23]d*"))
def test_every_row_is_found_again_by_its_arguments(name):
    arguments = DEFAULTS | resolve(name, clip="32x2")
    found = describe(arguments, clip="32x2", crop=224)
    assert found == {"name": name, "clip": "32x2", "crop": 224, "num_classes": 400}


def test_what_a_row_lacks_becomes_an_option():
    arguments = DEFAULTS | resolve("i3d_r101_nl5", clip="8x8", norm="frozen")
    changed = arguments | {"non_local": {"res3": (0,)}, "scale": None, "block_norm": "frozen"}
    found = describe(changed, clip="8x8", crop=224)
    assert found["name"] in ("i3d_r101", "i3d_r101_nl5")
    options = {k: v for k, v in found.items() if k not in ("name", "num_classes", "clip", "crop")}
    assert options == {
        "non_local": {"res3": [0]},
        "scale": None,
        "block_norm": "frozen",
        "norm": "frozen",
    }


def test_our_tensors_without_their_description_are_no_network(tmp_path):
    torch.save(nl.create_model("c2d_tiny", num_classes=2).state_dict(), tmp_path / "bare.pt")
    with pytest.raises(ValueError, match=r"bare\.pt: it has our names but no description"):
        nl.load(tmp_path / "bare.pt")
