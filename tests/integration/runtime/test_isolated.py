from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nonlocalnet.runtime.isolated import Failure, IsolatedCall, run_isolated


def test_errors_deaths_and_hanging_end_nothing():
    work = ["1 + 1", "1 / 0", "__import__('os').abort()", "__import__('time').sleep(99)"]
    items = [(code,) for code in [*work, "__import__('os')._exit(3)", *map(str, range(20))]]
    begin = time.monotonic()
    found = dict(run_isolated(eval, items, workers=2, time_limit=2))
    assert time.monotonic() - begin < 30
    assert sorted(found) == list(range(25))
    assert found[0] == 2
    assert found[1] == Failure("division by zero")
    assert found[2] == Failure("its process died (SIGABRT)")
    assert found[3] == Failure("took longer than 2 s")
    assert found[4] == Failure("its process died (exit code 3)")
    assert [found[i] for i in range(5, 25)] == list(range(20))


def test_leaving_early_leaves_no_process():
    results = run_isolated(eval, [("__import__('os').getpid()",)] * 9, workers=2, time_limit=9)
    _, pid = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(run_isolated(eval, [], workers=2, time_limit=9)) == []


def test_the_start_of_a_process_is_not_counted(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(1.5)")
    monkeypatch.syspath_prepend(tmp_path)
    call = IsolatedCall(time_limit=0.5, modules=["slow_to_import"])
    assert call(abs, -7) == 7
    call.close()


def test_arguments_that_cannot_be_sent_are_an_error():
    with pytest.raises(Exception, match="pickle"):
        list(run_isolated(len, [(lambda: 1,), ("ab",)], workers=1, time_limit=9))


@pytest.fixture(scope="module")
def call():
    call = IsolatedCall(time_limit=60, memory_limit=1 << 28)
    assert call(divmod, 7, 2) == (3, 1)
    yield call
    call.close()


@pytest.fixture(scope="module")
def torch_call():
    """One that has torch, which takes seconds to import."""
    call = IsolatedCall(time_limit=60, memory_limit=1 << 28, modules=["torch"])
    yield call
    call.close()


def pid(call):
    return call(os.getpid)


def kill(call):
    os.kill(pid(call), signal.SIGKILL)
    call._process.join(5)


def test_a_process_is_kept_and_errors_leave_it(call):
    first = pid(call)
    assert first != os.getpid()
    assert call(eval, "1 / 0") == Failure("division by zero")
    assert call(eval, "[][1]").reason == "list index out of range"
    assert call(eval, "(x for x in ())").reason == "cannot pickle 'generator' object"
    assert call(eval, "bytes(1 << 24)") == bytes(1 << 24)  # more than a pipe holds
    assert pid(call) == first


def test_a_call_has_its_time(call, monkeypatch):
    first = pid(call)
    monkeypatch.setattr(call, "time_limit", 0.2)
    begin = time.monotonic()
    assert call(time.sleep, 99) == Failure("took longer than 0.2 s")
    assert time.monotonic() - begin < 2
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    monkeypatch.undo()
    assert pid(call) != first


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_a_call_has_its_memory(torch_call):
    first = pid(torch_call)
    for code in ("bytes(1 << 30)", "__import__('torch').ones(1 << 30)"):
        assert torch_call(eval, code) == Failure("it needs more memory than it may take")
    assert torch_call(eval, "len(bytes(1 << 26))") == 1 << 26
    assert pid(torch_call) == first


def test_tensors_come_by_value(torch_call):
    """Torch would give a file of the process, which may be gone when it is opened."""
    found = torch_call(eval, "__import__('torch').arange(9)")
    kill(torch_call)
    assert found.tolist() == list(range(9))


def test_a_process_that_dies_is_replaced(call):
    assert call(os.abort) == Failure("its process died (SIGABRT)")
    assert call(os._exit, 3) == Failure("its process died (exit code 3)")
    kill(call)
    assert call(divmod, 7, 2) == (3, 1)  # it died between calls, which is nobody's fault


def test_what_cannot_be_sent_is_the_callers_error(call):
    with pytest.raises(Exception, match="pickle"):
        call(lambda: 1)
    assert call(divmod, 7, 2) == (3, 1)


def test_an_interrupted_call_leaves_no_answer_to_the_next(call):
    def interrupted(timeout):
        raise KeyboardInterrupt

    assert call(divmod, 7, 2) == (3, 1)
    call._pipe = Pipe(call._pipe, interrupted)  # the next call replaces it
    with pytest.raises(KeyboardInterrupt):
        call(divmod, 9, 2)
    assert call(divmod, 7, 2) == (3, 1)


class Pipe:
    def __init__(self, pipe, poll):
        self.send, self.recv, self.close, self.poll = pipe.send, pipe.recv, pipe.close, poll


def test_one_call_at_a_time(call):
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: call(pow, i, 2), range(40))) == [i * i for i in range(40)]


def test_closing_ends_a_call_that_runs():
    call = IsolatedCall(time_limit=60, memory_limit=1 << 28)
    number = pid(call)
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(call, time.sleep, 50) for _ in range(3)]
        time.sleep(0.2)
        begin = time.monotonic()
        call.close()
        assert all(isinstance(one.result(), Failure) for one in running)
    assert time.monotonic() - begin < 10
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert call(divmod, 7, 2) == Failure("files are no longer read")
    call.close()


def test_a_killed_parent_leaves_no_process_that_hangs():
    code = (
        "import os, time; from nonlocalnet.runtime.isolated import IsolatedCall;"
        "call = IsolatedCall(time_limit=99, memory_limit=1 << 28);"
        "print(call(os.getpid), flush=True); call(time.sleep, 99)"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    deadline = time.monotonic() + 10
    while _lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
