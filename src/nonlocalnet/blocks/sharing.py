"""Share out the frames of a clip over processes: every layer that sees several frames communicates.

A layer of torch becomes an object of a subclass, which exchanges frames or sums. The object, its
parameters, names, hooks and `isinstance` stay. Modules with code of their own over time
(`SharesFrames`: `NonLocalBlock`, `VideoResNet`, ...) communicate themselves.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nonlocalnet.blocks.cuts import SharesFrames, Window, over_cuts
from nonlocalnet.blocks.streaming import check_frames
from nonlocalnet.ops.precision import wide
from nonlocalnet.ops.sharing import Processes

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

POOLS = (nn.MaxPool1d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv3d)
MEANS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm3d)


def share_frames(
    network: nn.Module, group: ProcessGroup | None, *, example: Tensor | None = None
) -> tuple[str, ...]:
    """Let each process of a group compute its own frames of a clip, equal to one process.

    After that, each process calls the network with its own consecutive frames (B, C, T, H, W) of
    the same clips, for example `clip.tensor_split(processes, dim=2)[rank]`. Shares may be uneven.
    Temporal convolutions and poolings fetch the neighboring frames that they reach; non-local
    blocks communicate as `nl.non_local` does; batch norms in training use the statistics of all
    frames; the average over frames is that of all. Scores are thus the same in all processes.
    `features` gives the maps of the own frames.

    All processes must call forward and backward. The gradients are those of the sum of all
    processes' losses, and each process has the part that went through its own frames: their sum
    over the processes is the whole. Where all compute the same loss from the same scores, their
    mean is the gradient of this loss; `DistributedDataParallel` computes this mean.

    Args:
        network: a `VideoResNet` (C2D, I3D, Slow, TSM), a `NonLocalBlock`, or a network of torch's
            layers. It is changed in place; parameters and their names stay. What a network's own
            `forward` computes between its modules, such as a mean over time, is not seen; `example`
            finds it. 2-D layers take frames as samples.
        group: processes of torch.distributed that share out the frames, rank 0 with the first
            ones. None: frames are no longer shared out.
        example: (B, C, T, H, W), the same in all processes. If given, the network computes it
            before and after the change, in evaluation mode and without gradients.

    Returns:
        The paths of the modules that communicate, or that no longer do.

    Raises:
        ValueError: a module needs all frames in one process, nothing communicates, `group` is not
            a group of this process, or the results of the example differ.

    >>> import torch, nonlocalnet as nl
    >>> from torch import distributed as dist
    >>> network = nl.create_model("i3d_tiny_nl2", num_classes=5, clip="8x2").eval()
    >>> clip = torch.randn(1, 3, 8, 64, 64)
    >>> scores = network(clip)
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> paths = nl.share_frames(network, dist.group.WORLD)
    >>> frames = clip.tensor_split(dist.get_world_size(), dim=2)[dist.get_rank()]
    >>> torch.allclose(network(frames), scores, atol=1e-6)
    True
    >>> dist.destroy_process_group()
    """
    modules = dict(network.named_modules())
    if group is None:
        return _undo(modules)
    processes = Processes(group)
    change: dict[str, type | None] = {}
    for path, module in modules.items():
        try:
            if isinstance(module, SharesFrames):
                module.check_shared()
                change[path] = None
            elif (kind := _sharing(module, processes)) is not None:
                change[path] = kind
        except ValueError as error:
            kind = type(module).__name__
            name = f"{path} ({kind})" if path else f"this {kind}"
            raise ValueError(
                f"{name} cannot have its frames shared out, since it {error}"
            ) from None
    if not change:
        raise ValueError(
            f"no layer of this {type(network).__name__} sees several frames: call it with the own "
            "frames"
        )
    expected = None if example is None else _compute(network, example)
    for path, kind in change.items():
        module: Any = modules[path]
        module.__class__ = type(module) if kind is None else kind
        module.processes = processes
    if example is not None:
        frames = example.tensor_split(processes.count, dim=2)[processes.rank]
        difference = _difference(_compute(network, frames), expected, processes)
        if not difference < 1e-3:
            _undo(modules)
            raise ValueError(
                f"this {type(network).__name__} cannot have its frames shared out, since its own "
                f"code computes frames together: results of the example differ by {difference:.2g} "
                "of the largest"
            )
    return tuple(change)


@torch.no_grad()
def _compute(network: nn.Module, clip: Tensor) -> Tensor:
    modes = [(module, module.training) for module in network.modules()]
    try:
        return network.eval()(clip)
    finally:
        for module, mode in modes:
            module.training = mode


def _difference(y: Tensor, whole: Tensor | None, processes: Processes) -> float:
    """Compare the results of the processes, which are the same in all or of own frames."""
    assert whole is not None
    if y.ndim > 2:
        shares = processes.agree({"computes": "an example"}, y.shape[2], grad=False)
        if shares.total == whole.shape[2]:
            whole = whole[:, :, shares.spans[processes.rank].start :][:, :, : y.shape[2]]
    far = (y - whole).abs().max() if y.shape == whole.shape else y.new_tensor(torch.inf)
    row = torch.stack([far, whole.abs().max()])  # all raise, or none
    rows = processes.gather_rows(row, grad=False)
    return (rows[:, 0].max() / rows[:, 1].max()).item()


def _undo(modules: dict[str, nn.Module]) -> tuple[str, ...]:
    changed = {p: m for p, m in modules.items() if getattr(m, "processes", None) is not None}
    if not changed:
        raise ValueError(
            "group must be a process group, since no frames of this network are shared out; got "
            "None, which dist.group.WORLD is before dist.init_process_group()"
        )
    for path, module in changed.items():
        kind = type(module)
        if isinstance(module, _Shared) and "shared_from" not in vars(kind):
            raise ValueError(
                f"the class of {path} ({kind.__name__}) was changed after nl.share_frames, as "
                "fully_shard does: undo that first"
            )
    for module in changed.values():
        module.__class__ = getattr(type(module), "shared_from", type(module))
        del module.processes
    return tuple(changed)


class _Shared:
    """A layer of torch that communicates; `shared_from` is its class before."""

    processes: Processes

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        how, kind = type(self).__bases__
        return _empty, (how, kind), self.__getstate__()


def _sharing(module: nn.Module, processes: Processes) -> type | None:
    """Return the class with which a layer communicates, None where it sees one frame at a time."""
    if isinstance(module, _Shared):
        return type(module)
    if isinstance(module, nn.SyncBatchNorm):
        if module.process_group is not processes.group:
            raise ValueError("synchronizes another group: convert it with the group of the frames")
        return None
    if isinstance(module, BATCH_NORMS):
        return _subclass(_SharedNorm, type(module))
    if isinstance(module, INSTANCE_NORMS):
        raise ValueError("takes its statistics over all frames")
    training, module.training = module.training, False  # dropout works on frames by themselves
    try:
        check_frames(module)
        return None
    except ValueError:
        if isinstance(module, MEANS):
            size: Any = module.output_size
            if (size if isinstance(size, int) else size[0]) == 1:
                return _subclass(_SharedMean, type(module))
        if not isinstance(module, (*POOLS, *CONVOLUTIONS)):
            raise
    finally:
        module.training = training
    if getattr(module, "return_indices", False):
        raise ValueError("returns indices of frames")
    window = _window(module)
    if getattr(module, "padding_mode", "zeros") != "zeros" and window.before + window.after:
        raise ValueError(f"pads time by padding_mode={module.padding_mode!r}, not by zeros")
    return _subclass(_SharedWindows, type(module))


def _window(layer: Any) -> Window:
    """Tell the windows in time of a convolution or a pooling."""

    def first(name: str, default: Any) -> Any:
        value = getattr(layer, name, default)
        return value if isinstance(value, int | str) else value[0]

    size = first("dilation", 1) * (first("kernel_size", 1) - 1) + 1
    before = after = first("padding", 0)
    if before == "same":
        before, after = (size - 1) // 2, size // 2
    elif before == "valid":
        before = after = 0
    return Window(size, first("stride", 1), before, after, bool(getattr(layer, "ceil_mode", False)))


_subclasses: dict[tuple[type, type], type] = {}


def _subclass(how: type, kind: type) -> type:
    """Make a class that communicates, of the same name."""
    if (how, kind) not in _subclasses:
        body = {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "shared_from": kind,
        }
        _subclasses[how, kind] = types.new_class(
            kind.__name__, (how, kind), exec_body=lambda n: n.update(body)
        )
    return _subclasses[how, kind]


def _empty(how: type, kind: type) -> Any:
    """Make an object for a copy, whose state follows."""
    subclass: Any = _subclass(how, kind)
    return subclass.__new__(subclass)


class _SharedWindows(_Shared):
    """A convolution or a pooling over time."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, ...) -> (B, C', T', ...), all of own frames."""
        parent: Any = super()
        return over_cuts(parent.forward, input, _window(self), self.processes)


class _SharedMean(_Shared):
    """An adaptive average pooling to one frame."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, ...) -> (B, C, 1, ...), the mean over the frames of all processes."""
        parent: Any = super()
        frames = input.shape[2]
        spread = parent.forward(input).expand(-1, -1, frames, *[-1] * (input.ndim - 3))
        return self.processes.mean(spread, 2).unsqueeze(2)


class _SharedNorm(_Shared):
    """A batch norm, in training with the statistics of all processes.

    torch's SyncBatchNorm does not run on CPUs. On GPUs it may replace a batch norm before.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        norm: Any = self
        of_batch = norm.training or norm.running_mean is None
        if not of_batch or input.ndim == 2:  # (B, C) after the mean is the same in all processes
            parent: Any = super()
            return parent.forward(input)
        mean, variance, count = _statistics(input, self.processes)
        if norm.training and norm.track_running_stats:
            norm.num_batches_tracked.add_(1)
            factor = norm.momentum
            factor = 1 / float(norm.num_batches_tracked) if factor is None else factor
            with torch.no_grad():
                norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), factor)
                unbiased = (variance * (count / (count - 1))).to(norm.running_var.dtype)
                norm.running_var.lerp_(unbiased, factor)
        scale = (variance + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
        shape = (-1, *[1] * (input.ndim - 2))
        return torch.addcmul(shift.view(shape), input, scale.view(shape)).to(input.dtype)


def _statistics(x: Tensor, processes: Processes) -> tuple[Tensor, Tensor, Tensor]:
    """Compute mean (C,), variance (C,) and number of the values of each channel."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    variance, mean = torch.var_mean(x.to(wide(x.dtype)), axes, correction=0)
    count = mean.new_full((1,), x.numel() / x.shape[1])
    rows = torch.cat([mean, variance, count])
    rows = processes.gather_rows(rows, torch.is_grad_enabled())
    means, variances, counts = rows.split([len(mean), len(mean), 1], dim=1)
    share = counts / counts.sum()
    mean = (share * means).sum(dim=0)
    return mean, (share * (variances + (means - mean) ** 2)).sum(dim=0), counts.sum().detach()
