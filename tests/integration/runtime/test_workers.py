import multiprocessing
import time

import pytest
import torch
from torch.utils.data import Dataset

from nonlocalnet.runtime.workers import read_items


class Slow(Dataset):
    """The first item comes at once, the others after half a minute."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(30 if index else 0)
        return torch.tensor(index)


def test_what_the_loop_raises_ends_the_workers_at_once():
    others, before = multiprocessing.active_children(), time.monotonic()
    with pytest.raises(KeyboardInterrupt), read_items(Slow(), workers=2) as items:  # noqa: PT012
        assert next(items) == 0
        raise KeyboardInterrupt
    del items
    assert time.monotonic() - before < 10
    assert set(multiprocessing.active_children()) <= set(others)
