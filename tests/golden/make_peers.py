"""Make tests/golden/peers: numbers of the peers' own networks, of reduced width, run for real.

    pip install --target PEERS --no-deps mmaction2==1.2.0 mmcv-lite==2.1.0 mmengine==0.10.7 \
        pytorchvideo==0.1.5 addict yapf platformdirs termcolor pyyaml opencv-python-headless \
        einops scipy decord fvcore iopath yacs tabulate portalocker parameterized simplejson
    git clone https://github.com/facebookresearch/SlowFast && git -C SlowFast checkout 287ec00
    PYTHONPATH=PEERS:SlowFast python tests/golden/make_peers.py [NAME ...]

Parameters and clips come from the recipe of the oracle (`recipe.py`), times the gains
that each file records, so that attention is neither uniform nor one-hot. Nothing here is used by
the tests but the files that it writes.
"""

# ruff: noqa: C408 (settings as mmengine writes them)
import importlib.abc
import importlib.machinery
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import recipe
import torch
from torch import nn

OUT = Path(__file__).parent / "peers"
WIDTH, CLASSES = 16, 16
I3D = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))
I3D_101 = ((1, 1, 1), (1, 0, 1, 0), (1, 0) * 11 + (1,), (0, 1, 0))
FORMS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
PLACES = ((0, 0, 0), (0, 1, 0, 1), (0, 1, 0, 1, 0, 1), (0, 0, 0))
PLACES_101 = ((0, 0, 0), (0, 1, 0, 0), (0,) * 6 + (1,) + (0,) * 16, (0, 0, 0))
NORM = dict(type="BN3d", requires_grad=True)


def gains(keys: list[str], form: str) -> dict[str, float]:
    """Keep residual branches small, and θ too: the dot product is cubic in x, exponents square."""
    gain = 0.125 if form in ("gaussian", "dot_product") else 0.5
    result = {}
    for key in keys:
        ends = (".conv3.bn.", "norm_c.", ".conv_out.", ".c_bn.")
        branch = any(end in key for end in ends)
        if branch and key.endswith((".weight", ".bias")):
            result[key] = gain
        elif ".theta." in key:
            result[key] = 0.125 if form == "dot_product" else 0.25
        elif ".conv_theta." in key:
            result[key] = 0.03125
    return result


def mmaction2(**backbone) -> tuple[nn.Module, dict]:
    for name in ("mmaction", "mmaction.models", "mmaction.models.backbones"):
        if name not in sys.modules:  # its packages import everything there is
            module = types.ModuleType(name)
            module.__path__ = [f"{p}/{name.replace('.', '/')}" for p in sys.path]
            sys.modules[name] = module
    from mmaction.models.backbones.resnet3d import ResNet3d
    from mmengine.config import Config

    settings = (
        dict(
            depth=50,
            base_channels=WIDTH,
            conv1_kernel=(5, 7, 7),
            conv1_stride_t=2,
            pool1_stride_t=2,
            conv_cfg=dict(type="Conv3d"),
            norm_eval=False,
            inflate=I3D,
            zero_init_residual=False,
        )
        | backbone
    )

    class Recognizer(
        nn.Module
    ):  # as Recognizer3D and I3DHead compute; its own need all of mmaction
        def __init__(self) -> None:
            super().__init__()
            self.backbone = ResNet3d(pretrained=None, **settings)
            self.cls_head = nn.Module()
            self.cls_head.fc_cls = nn.Linear(32 * WIDTH, CLASSES)

        def forward(self, x):
            x = nn.functional.adaptive_avg_pool3d(self.backbone(x), 1)
            return self.cls_head.fc_cls(x.flatten(1))

    head = dict(type="I3DHead", num_classes=CLASSES, in_channels=32 * WIDTH, spatial_type="avg")
    preprocessor = dict(
        type="ActionDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape="NCTHW",
    )
    config = Config(
        dict(
            model=dict(
                type="Recognizer3D",
                backbone=dict(type="ResNet3d", **settings),
                cls_head=head,
                data_preprocessor=preprocessor,
                test_cfg=dict(average_clips="prob"),
            ),
            test_pipeline=[
                dict(
                    type="SampleFrames", clip_len=32, frame_interval=2, num_clips=10, test_mode=True
                ),
                dict(type="Resize", scale=(-1, 256)),
                dict(type="ThreeCrop", crop_size=256),
            ],
        )
    )
    return Recognizer(), {"cfg": config.pretty_text, "mmengine_version": "0.10.7"}


def pytorchvideo(name: str) -> tuple[nn.Module, dict]:
    from pytorchvideo.models.hub import resnet

    network = getattr(resnet, name)(
        pretrained=False,
        stem_dim_out=WIDTH,
        model_num_class=CLASSES,
        head_pool_kernel_size=(4, 2, 2),
    )
    return network, {}


def pyslowfast(yaml: str, **settings) -> tuple[nn.Module, dict]:
    """Build one of PySlowFast's networks; imports that its ResNets do not use are left empty."""

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path, target=None):
            if name.split(".")[0] in ("pytorchvideo", "detectron2", "psutil", "cv2", "fairscale"):
                return importlib.machinery.ModuleSpec(name, self, is_package=True)
            return None

        def create_module(self, spec):
            module = types.ModuleType(spec.name)
            module.__getattr__ = lambda name: type(name, (), {}) if name[:1] != "_" else MagicMock()
            return module

        def exec_module(self, module): ...

    sys.meta_path.insert(0, Finder())
    import slowfast

    root = Path(slowfast.__file__).parent
    if "slowfast.models" not in sys.modules:  # its package imports everything there is
        package = types.ModuleType("slowfast.models")
        package.__path__ = [str(root / "models")]
        sys.modules["slowfast.models"] = package
    from slowfast.config.defaults import get_cfg
    from slowfast.models import video_model_builder as builder

    cfg = get_cfg()
    cfg.merge_from_file(str(root.parent / "configs/Kinetics" / yaml))
    cfg.merge_from_list(["RESNET.WIDTH_PER_GROUP", WIDTH, "MODEL.NUM_CLASSES", CLASSES])
    cfg.merge_from_list([x for k, v in settings.items() for x in (k.replace("__", "."), v)])
    network = getattr(builder, cfg.MODEL.MODEL_NAME)(cfg)
    kept = ("BN", "DATA", "DETECTION", "MODEL", "NONLOCAL", "RESNET", "SLOWFAST")

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            frames = torch.linspace(0, x.shape[2] - 1, x.shape[2] // cfg.SLOWFAST.ALPHA).long()
            two = cfg.MODEL.MODEL_NAME == "SlowFast"
            seen = []  # the logits: the network gives probabilities
            hook = network.head.projection.register_forward_hook(lambda *a: seen.append(a[2]))
            network([x[:, :, frames], x] if two else [x])
            hook.remove()
            return seen[0].flatten(1)

        def state_dict(self, *a, **k):
            return network.state_dict(*a, **k)

        def load_state_dict(self, *a, **k):
            return network.load_state_dict(*a, **k)

    import yaml as yaml_

    every = yaml_.safe_load(cfg.dump())
    return Whole(), {"cfg": yaml_.safe_dump({k: every[k] for k in kept})}


DILATED = {
    "RESNET__SPATIAL_STRIDES": [[1], [2], [2], [1]],
    "RESNET__SPATIAL_DILATIONS": [[1], [1], [1], [2]],
    "DATA__TRAIN_CROP_SIZE": 128,  # the head's window is a 32nd of it, here the whole map
}


def both(settings: dict) -> dict:
    """Say settings of one pathway for two."""
    return {k: [v * 2 for v in of] if isinstance(of, list) else of for k, of in settings.items()}


def block(mode: str, *, sub_sample=True, use_scale=False, norm=True) -> dict:
    return dict(
        non_local=PLACES,
        non_local_cfg=dict(
            sub_sample=sub_sample, use_scale=use_scale, mode=mode, norm_cfg=NORM if norm else None
        ),
    )


CASES: dict[str, Callable[[], tuple[nn.Module, dict]]] = {
    "mmaction2_i3d_r50": mmaction2,
    "mmaction2_i3d_r50_nl_dot_product": lambda: mmaction2(**block("dot_product")),
    "mmaction2_i3d_r50_nl_gaussian": lambda: mmaction2(**block("gaussian")),
    "mmaction2_i3d_r50_nl_embedded_gaussian": lambda: mmaction2(**block("embedded_gaussian")),
    "mmaction2_i3d_r50_nl_embedded_gaussian_scaled": lambda: mmaction2(
        **block("embedded_gaussian", use_scale=True)
    ),
    "mmaction2_i3d_r50_nl_concatenation": lambda: mmaction2(**block("concatenation")),
    "mmaction2_i3d_r50_nl_dot_product_all_keys": lambda: mmaction2(
        **block("dot_product", sub_sample=False)
    ),
    "mmaction2_i3d_r50_nl_gaussian_no_norm": lambda: mmaction2(**block("gaussian", norm=False)),
    "mmaction2_i3d_r50_heavy": lambda: mmaction2(
        inflate=(1, 1, 1, 1), conv1_stride_t=1, pool1_stride_t=1
    ),
    "mmaction2_i3d_r50_no_pool2": lambda: mmaction2(
        conv1_stride_t=1, pool1_stride_t=1, with_pool2=False
    ),
    "mmaction2_i3d_r101_nl_dot_product": lambda: mmaction2(
        depth=101, inflate=I3D_101, **(block("dot_product") | {"non_local": PLACES_101})
    ),
    "pytorchvideo_c2d_r50": lambda: pytorchvideo("c2d_r50"),
    "pytorchvideo_i3d_r50": lambda: pytorchvideo("i3d_r50"),
    "pyslowfast_slow_r50_nl_groups": lambda: pyslowfast(
        "SLOW_NLN_8x8_R50.yaml",
        DATA__TRAIN_CROP_SIZE=64,
        NONLOCAL__GROUP=[[1], [2], [4], [1]],
        NONLOCAL__POOL=[[[1, 2, 2]], [[2, 2, 2]], [[1, 2, 2]], [[1, 2, 2]]],
    ),
    "pyslowfast_slowfast_r50_nl_dilated": lambda: pyslowfast(
        "SLOWFAST_NLN_4x16_R50.yaml",
        **both(DILATED),
        NONLOCAL__LOCATION=[[[], []], [[1], [2]], [[1, 3, 5], []], [[], []]],
        NONLOCAL__GROUP=[[1, 1], [2, 4], [1, 1], [1, 1]],
        NONLOCAL__POOL=[[[2, 2, 2]] * 2] * 4,
        NONLOCAL__INSTANTIATION="softmax",
        RESNET__NUM_BLOCK_TEMP_KERNEL=[[3, 3], [4, 4], [4, 2], [3, 3]],
    ),
    # the network of the long-term feature banks, in PySlowFast's words
    "pyslowfast_i3d_r50_nl_lfb": lambda: pyslowfast(
        "I3D_NLN_8x8_R50.yaml",
        **DILATED,
        DATA__NUM_FRAMES=32,
        DATA__SAMPLING_RATE=2,
        NONLOCAL__GROUP=[[1], [4], [1], [1]],
        MODEL__NUM_CLASSES=400,
    ),
}


@torch.no_grad()
def main() -> None:
    for name in sys.argv[1:] or CASES:
        network, meta = CASES[name]()
        keys = {key: list(value.shape) for key, value in network.state_dict().items()}
        form = next((f for f in FORMS if f in name), "")
        gain = gains(list(keys), form)
        state = {k: torch.as_tensor(recipe.fill(k, s, gain.get(k, 1.0))) for k, s in keys.items()}
        network.load_state_dict(state)
        network.eval()
        frames = 32 if name.endswith(("_lfb", "_dilated")) else 16
        frames = 8 if name.startswith(("pytorchvideo", "pyslowfast_slow_")) else frames
        shape = (1, 3, frames, 64, 64)
        clip = torch.from_numpy(recipe.clip(shape))
        logits = network(clip)
        exact = network.double()(clip.double())
        print(name, f"std {logits.std():.3g}, fp32 error {(logits - exact).abs().max():.1e}")
        content = {
            "peer": name.split("_")[0],
            "torch": torch.__version__.split("+")[0],
            "params": [[key, shape, gain.get(key, 1.0)] for key, shape in keys.items()],
            "meta": meta,
            "clip": shape,
            "logits": [round(float(v), 6) for v in exact[0]],
        }
        (OUT / f"{name}.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
