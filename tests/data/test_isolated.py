from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from nonlocalnet.data import isolated as module
from nonlocalnet.data.isolated import Lost, run_isolated


def test_errors_deaths_and_hanging_end_nothing():
    work = ["1 + 1", "1 / 0", "__import__('os').abort()", "__import__('time').sleep(99)"]
    items = [(code,) for code in [*work, "__import__('os')._exit(3)", *map(str, range(20))]]
    begin = time.monotonic()
    found = dict(run_isolated(eval, items, workers=2, time_limit=2))
    assert time.monotonic() - begin < 30
    assert sorted(found) == list(range(25))
    assert found[0] == 2
    assert found[1] == Lost("division by zero")
    assert found[2] == Lost("its process died (SIGABRT)")
    assert found[3] == Lost("took longer than 2 s")
    assert found[4] == Lost("its process died (exit code 3)")
    assert [found[i] for i in range(5, 25)] == list(range(20))


def test_leaving_early_leaves_no_process():
    results = run_isolated(eval, [("__import__('os').getpid()",)] * 9, workers=2, time_limit=9)
    _, pid = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(run_isolated(eval, [], workers=2, time_limit=9)) == []


def test_the_start_of_a_process_is_not_counted(monkeypatch):
    def slow(*arguments):
        time.sleep(1.5)
        work(*arguments)

    work = module._work
    monkeypatch.setattr(module, "_work", slow)
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(fork, "set_forkserver_preload", lambda names: None, raising=False)
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda kind: fork)
    assert list(run_isolated(eval, [("7",)], workers=1, time_limit=0.5)) == [(0, 7)]
