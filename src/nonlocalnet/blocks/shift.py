"""Temporal shift: some channels see the next frame, some the previous one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def temporal_shift(x: Tensor, div: int) -> Tensor:
    """Move C // div channels one frame back in time, and as many one frame forth.

    (B, C, T, H, W) -> (B, C, T, H, W). With n = C // div, at frame t:

    - channels 0 to n - 1 are those of frame t + 1 (zero at the last frame);
    - channels n to 2n - 1 are those of frame t - 1 (zero at the first frame);
    - the others stay.

    Source: Lin et al., TSM, ICCV 2019, section 3; its code `ops/temporal_shift.py`.

    >>> x = torch.arange(1.0, 4).expand(1, 8, 3).reshape(1, 8, 3, 1, 1)
    >>> temporal_shift(x, 8).flatten(2)[0, :3].tolist()
    [[2.0, 3.0, 0.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]
    """
    n = x.shape[1] // div
    after, before, rest = x[:, :n, 1:], x[:, n : 2 * n, :-1], x[:, 2 * n :]
    return torch.cat(
        [F.pad(after, (0, 0, 0, 0, 0, 1)), F.pad(before, (0, 0, 0, 0, 1, 0)), rest], dim=1
    )
