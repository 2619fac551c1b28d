from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from nonlocalnet.data import isolated as module
from nonlocalnet.data.isolated import IsolatedCall, Lost, run_isolated


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


def take(n):
    return len(bytes(n))


@pytest.fixture(scope="module")
def call():
    call = IsolatedCall(time_limit=1.0, memory_limit=256 << 20, modules=["time"])
    yield call
    call.close()


def test_calls_go_to_one_process_while_it_lives(call):
    first = call(os.getpid)
    assert first != os.getpid()
    assert call(os.getpid) == first


def test_a_call_that_takes_too_long_is_ended(call):
    before = call(os.getpid)
    lost = call(time.sleep, 60)
    assert lost.reason == "took longer than 1 s"
    assert call(os.getpid) != before


def test_a_call_that_takes_too_much_memory_is_refused(call):
    if not Path("/proc/self/statm").exists():
        pytest.skip("a limit of Linux")
    assert call(take, 10 << 20) == 10 << 20
    assert call(take, 1 << 30).reason == "it needs more memory than it may take"
    assert call(take, 10 << 20) == 10 << 20


def test_a_process_that_dies_is_replaced(call):
    assert call(os._exit, 3).reason == "the process that read it died (exit code 3)"
    assert call(max, 1, 2) == 2
