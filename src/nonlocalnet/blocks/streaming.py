"""A block or a network computes the frames of a video one after another, as they arrive."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnet.ops.streaming import Past

# torch's layers over (T) or (T, H, W); those over (H, W) take frames as samples
WINDOWS = (
    *(nn.Conv1d, nn.ConvTranspose1d, nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d),
    *(nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d, nn.AvgPool3d, nn.LPPool3d),
)
ALONE = {"kernel_size": 1, "stride": 1, "padding": 0, "output_padding": 0}  # of a frame by itself
TO_A_SIZE = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
    nn.FractionalMaxPool3d,
)
BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm3d),
)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
SEQUENCES = (nn.RNNBase, nn.MultiheadAttention)


class Stream:
    """Compute the frames of a video one after another, as the module computes them all at once.

    Each call takes the next frames of the video, one or more, and gives the module's result for
    them. What the frames before contribute is kept in the stream: of a frame-causal block with dot
    product the sums Σ_j φ_j g_jᵀ in constant memory, of other causal blocks the keys so far, of
    `VideoResNet` the average of the features that its classifier reads. Its `forward`,
    `logits_map` and `probabilities` are thus those of all frames so far, and the last call gives
    what the network gives for the whole video, to rounding. `features` gives the maps of the new
    frames.

    Every position must see only its own frame, or through causal blocks earlier ones. The
    constructor looks at all modules of the network; what a network's own `forward` computes between
    them, such as a mean over time, it cannot see: `difference` tells.

    Args:
        module: a `NonLocalBlock` of extent "causal" or "space", a C2D network with such blocks
            (`create_model("c2d_r50_nl5", extent="causal")`), or your own. It is not changed: one
            network may have many streams, and be called without them.
        window: the number of frames that a query of a causal block sees, its own and those before,
            and that the classifier averages. It bounds the memory of every form, and the result
            equals that for the whole video up to so many frames. After that, a block computes each
            frame as the last one of a clip of `window` frames. None is all frames.

    Raises:
        ValueError: a module computes frames together, or is in training mode.

    >>> import torch, nonlocalnet as nl
    >>> network = nl.create_model("c2d_tiny_nl2", num_classes=5, extent="causal").eval()
    >>> video = torch.randn(1, 3, 8, 64, 64)
    >>> stream = nl.Stream(network)
    >>> for frames in video.split(2, dim=2):
    ...     logits = stream(frames)
    >>> torch.allclose(logits, network(video), atol=1e-5)
    True

    Other methods of the network are called in a `with` statement, once for each frame:

    >>> stream.reset()
    >>> with stream:
    ...     probabilities = network.probabilities(video[:, :, :1])
    """

    def __init__(self, module: nn.Module, *, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 (frames); got {window}")
        self.module = module
        self._past: dict[str, Past] = {}
        for path, part in module.named_modules():
            try:
                if getattr(part, "processes", None) is not None:
                    raise ValueError("has its frames shared out: call nl.share_frames(it, None)")
                check_frames(part)
                # of the type: wrappers, such as compiled modules, give attributes of what is inside
                begin = getattr(type(part), "begin_stream", None)
                past = None if begin is None else begin(part, window)
            except ValueError as error:
                raise ValueError(f"{_name(path, part)} cannot stream, since it {error}") from None
            if past is not None:
                self._past[path] = past

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with the next frames; after an error, the stream is as before.

        Gradients are not computed.
        """
        before = self.state_dict()
        try:
            with self:
                result = self.module(*args, **kwargs)
            for path, past in self._past.items():
                if past.calls > 1:
                    raise ValueError(
                        f"{_name(path, self.module.get_submodule(path))} was called {past.calls} "
                        "times for the same frames, and a stream can keep only one past of it: use "
                        "a copy of the module in each place"
                    )
            return result
        except BaseException:
            self.load_state_dict(before)
            raise

    def difference(self, video: Tensor) -> float:
        """Compare the stream with the module: a number above rounding says that they differ.

        For a network with code of its own, which may compute frames together. The frames that the
        stream has seen stay as they are.

        Args:
            video: (B, C, T, H, W), which the module takes as its only argument, and of which it
                gives a result for all frames, such as (B, K), or for each, (B, K, T, ...).

        Returns:
            The largest difference between the results of the stream, frame by frame, and of the
            module at once, divided by the largest result.
        """
        before = self.state_dict()
        self.reset()
        try:
            online = [self(frame) for frame in video.split(1, dim=2)]
        finally:
            self.load_state_dict(before)
        with torch.no_grad():
            whole = self.module(video)
        found = online[-1] if whole.ndim < 3 else torch.cat(online, dim=2)
        return ((found - whole).abs().max() / whole.abs().max()).item()

    def reset(self) -> None:
        """Forget all frames: the next one is the first of another video."""
        for past in self._past.values():
            past.restore({"tensors": {}, "first": {}})

    def to(self, device: torch.device | str) -> Stream:
        """Move what the stream keeps to a device, after the network was moved."""
        for past in self._past.values():
            past.tensors = {name: x.to(device) for name, x in past.tensors.items()}
        return self

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return what the stream keeps, by module path; `torch.save` writes it.

        The dictionary stays as it is when the stream goes on.
        """
        return {path: past.state() for path, past in self._past.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from a state of this stream, or of another one of the same network.

        Raises:
            ValueError: the state is that of other modules, or of another window.
        """
        own, given = (
            {path: one["kind"] for path, one in both.items()} for both in (self.state_dict(), state)
        )
        if own != given:
            raise ValueError(f"the state must be of {own} for this stream; got one of {given}")
        for path, past in self._past.items():
            past.restore(state[path])

    def __enter__(self) -> Stream:
        parts = dict(self.module.named_modules())
        for path, part in parts.items():
            if part.training:
                try:
                    check_frames(part)
                except ValueError as error:
                    raise ValueError(f"{_name(path, part)} {error}") from None
            if path in self._past and part.past is not None:
                raise ValueError(f"another stream of {_name(path, part)} is active: leave it first")
        for path, past in self._past.items():
            parts[path].past, past.calls = past, 0
        self._no_grad = torch.no_grad()
        self._no_grad.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._no_grad.__exit__(kind, error, traceback)
        for path in self._past:
            del self.module.get_submodule(path).past


def check_frames(module: nn.Module) -> None:
    """Raise a ValueError if this module, one of torch's layers, computes frames together."""
    if isinstance(module, WINDOWS):
        for name, alone in ALONE.items():
            value: Any = getattr(module, name, alone)
            first = value if isinstance(value, int) else value[0]
            if first != alone and not isinstance(value, str):  # "same" and "valid" are 0 here
                raise ValueError(f"reads several frames: its {name} in time is {first}")
    elif isinstance(module, TO_A_SIZE):
        size: Any = module.output_size
        if not isinstance(size, tuple) or size[0] is not None:
            raise ValueError(f"pools over time: its output_size is {size}")
    elif isinstance(module, nn.GroupNorm):
        raise ValueError("takes its statistics over all frames")
    elif isinstance(module, BATCH_NORMS) and (module.training or module.running_mean is None):
        advice = ": call eval() on the network" if module.training else ""
        raise ValueError(f"takes its statistics over all frames{advice}")
    elif isinstance(module, DROPOUTS) and module.training and module.p > 0:
        raise ValueError("drops features in training mode: call eval() on the network")
    elif isinstance(module, SEQUENCES):
        raise ValueError("mixes the steps of a sequence")


def _name(path: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"{path} ({kind})" if path else f"this {kind}"
