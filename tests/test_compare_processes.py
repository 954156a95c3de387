"""Runs in processes of their own end with the process that started them."""

import signal
import subprocess
import sys

from conftest import HANG, alive, until

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
