"""Processes that work: they end with the process that started them, and may be kept for other work."""

import os
import signal
import subprocess
import sys
from functools import partial

from conftest import HANG, alive, until

from steer.parts import FIRST, in_order, kept

START = f"""
import os, time
from steer.parts import processes
with processes(1) as workers:
    print(workers.submit(os.getpid).result(), flush=True)
    workers.submit(time.sleep, {HANG})
    time.sleep({HANG})
"""


def test_those_that_work_end_with_a_parent_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(signal.SIGKILL)
    until(lambda: not alive(worker))


def test_processes_that_are_kept_do_one_kind_of_work_after_the_other() -> None:
    work = partial(eval, "lambda *_: __import__('os').getpid()")
    own = os.getpid()

    def done() -> set[int]:
        return {*in_order(range(3 * FIRST), lambda _: own, work, 2, "worked")}

    with kept():
        first, then = done(), done()
    assert own in first
    assert own not in then, "they run already"
    assert 1 <= len((first | then) - {own}) <= 2
    assert not any(alive(pid) for pid in first | then if pid != own)
