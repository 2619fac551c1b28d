"""A network in an ONNX file of `nl.export`, run by onnxruntime."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nonlocalnet.checkpoints.files import KEY
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.deployment.export import OUTPUT


class OnnxNetwork(nn.Module):
    """A video network that onnxruntime computes, for `nl.predict` and the like.

    Attributes:
        info: the description of the exported network. Its mean and std are 0 and 1, since the
            normalization is part of the program.
        config: arguments of `create_model`.

    Args:
        path: a file of `nl.export` or `nonlocalnet export`.

    Raises:
        ValueError: the file is not ONNX, or does not describe a video network of this library.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        import onnxruntime

        super().__init__()
        path = Path(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no class in common
            raise ValueError(f"{path}: not a readable ONNX file") from error
        metadata = self.session.get_modelmeta().custom_metadata_map
        try:
            info = WeightsInfo(**json.loads(metadata[KEY]))
            self.output = metadata[OUTPUT]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}: it does not say which network it is, as files of nonlocalnet export do"
            ) from None
        self.info = replace(info, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.config = info.config
        # code that asks a network for its device looks at its parameters
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (B, K) of clips (B, 3, T, H, W).

        Raises:
            ValueError: the file was exported with probabilities as its output.
        """
        return self.scores(x, "logits")

    def probabilities(self, x: Tensor, *, multi_label: bool = False) -> Tensor:
        """Compute class probabilities (B, K) of clips (B, 3, T, H, W)."""
        if self.output == "logits":
            logits = self.scores(x, "logits")
            return logits.sigmoid() if multi_label else logits.softmax(dim=-1)
        if multi_label != self.info.multi_label:
            raise ValueError(f"the file was exported with multi_label={self.info.multi_label}")
        return self.scores(x, "probabilities")

    def scores(self, x: Tensor, output: str) -> Tensor:
        """Compute the output of that name, (B, K), of clips (B, 3, T, H, W)."""
        if output != self.output:
            raise ValueError(
                f"the file gives {self.output}: export it again with output={output!r}"
            )
        (clips,) = self.session.get_inputs()
        wanted = clips.shape
        if any(
            type(size) is int and size != given for size, given in zip(wanted, x.shape, strict=True)
        ):
            _, _, frames, height, width = wanted
            raise ValueError(
                f"the file takes clips of {frames} frames of {height} x {width}; got {x.shape[2]} "
                f"of {x.shape[3]} x {x.shape[4]}: export it for any size, or give it views "
                "of this size"
            )
        (scores,) = self.session.run([output], {clips.name: x.float().cpu().numpy()})
        return torch.from_numpy(scores)
