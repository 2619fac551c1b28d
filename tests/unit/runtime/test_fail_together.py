"""What processes say together, with the answers of others made up."""

from __future__ import annotations

import pytest

from nonlocalnet.runtime import distributed


def test_a_failure_in_one_process_ends_all(monkeypatch):
    told = []

    def gather(value):
        told.append(value)
        return [value, "the disk is full", None]

    monkeypatch.setattr(distributed, "all_gather", gather)
    full = "process 1 of this run failed: the disk is full"
    with pytest.raises(RuntimeError, match=full), distributed.fail_together():
        pass
    with pytest.raises(ValueError, match="its own"), distributed.fail_together():
        raise ValueError("its own")
    assert told == [None, "its own"]  # the others hear of it in both cases


def test_a_process_alone_raises_its_own_errors():
    with distributed.fail_together():
        pass
    with pytest.raises(KeyError), distributed.fail_together():
        {}["x"]
