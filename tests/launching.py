"""Commands in processes of their own, all forked from one that has imported torch."""

import atexit
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path

STREAMS = ("out", "err")


def start_fork_server():
    """Start the process that all others are forked from, those of `run_isolated` too.

    It imports torch while the first tests run; a process of its own would take seconds for it.
    """
    forkserver.set_forkserver_preload(["nonlocalnet.training.trainer", "nonlocalnet.data.check"])
    forkserver.ensure_running()


class Command:
    """`nonlocalnet WORDS` in a process, which leads a session; the methods are those of Popen.

    Args:
        words: of the command.
        processes: more than one run as torchrun starts them, without torchrun; the methods are
            those of the first.
    """

    def __init__(self, words, processes=1):
        self._folder = tempfile.TemporaryDirectory()
        place = {}
        if processes > 1:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = str(free.getsockname()[1])
            place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        context = multiprocessing.get_context("forkserver")
        self._all = []
        for rank in range(processes):
            own = place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if place else {}
            arguments = [str(word) for word in words], self._folder.name, own
            self._all.append(context.Process(target=_run, args=arguments))
            self._all[-1].start()
        self.pids = [process.pid for process in self._all]
        self.pid, self.terminate = self.pids[0], self._all[0].terminate

    def poll(self):
        return self._all[0].exitcode

    returncode = property(poll)

    @property
    def exitcodes(self):
        return [process.exitcode for process in self._all]

    def communicate(self, timeout=None):
        for process in self._all:
            process.join(timeout)
            if process.exitcode is None:
                raise subprocess.TimeoutExpired("nonlocalnet", timeout)
        return tuple(Path(self._folder.name, name).read_text() for name in STREAMS)


def _run(words, folder, environment):
    from nonlocalnet.cli import main

    multiprocessing.set_start_method(None, force=True)  # that of an ordinary interpreter
    os.setsid()
    os.environ.update(environment)
    for number, name in enumerate(STREAMS, start=1):
        file = os.open(Path(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
    code = main(words)
    atexit._run_exitfuncs()  # as at the end of an interpreter: torch ends its workers here
    sys.stdout.flush()
    os._exit(code)


def wait_for_lines(config, count, process):
    """Wait until a run has written that many lines of numbers."""
    log = config.out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def words_of(config, **options):
    """`train` with the options of a config and others."""
    options = {
        "data": config.data,
        "out": config.out,
        "model": config.model,
        "clip": config.clip,
        "crop": 32,
        "short-side": "32 36",
        "batch-size": config.batch_size,
        "lr": config.lr,
        "iterations": config.iterations,
        "log-every": 1,
        "device": "cpu",
    } | options
    return [
        "train",
        *(w for key, value in options.items() for w in (f"--{key}", *str(value).split())),
    ]


def start_training(config, processes=1, **options):
    """Begin `nonlocalnet train` with the options of a config and others."""
    return Command(words_of(config, **options), processes)


def run_python(*arguments, **options):
    """Begin `python -m ARGUMENTS`, which imports torch itself."""
    usual = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "start_new_session": True,
        "env": os.environ | {"OMP_NUM_THREADS": "1"},
    }
    return subprocess.Popen([sys.executable, "-m", *map(str, arguments)], **(usual | options))


def torchrun(words, processes):
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", processes)
    return run_python(*launcher, "-m", "nonlocalnet", *words)
