from __future__ import annotations

import os
import time

import pytest

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
