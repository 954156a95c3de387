"""Why a launched training failed: the reason of the process that failed first reaches whoever launched it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import TORCHRUN
from test_launch import ACCELERATE, SRUN, config

from steer.errors import SteerError
from steer.iteration.launch import train_by
from steer.training.reasons import explained, reasons_of

LOWER = " Lower --micro-batch-tokens or start fewer processes if memory ran out."
LOST = "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4998. GLHF!"
NOTE = "steer: adapters on 14 layers (down_proj), 23,552 of 44,896 parameters of the model."
FRAMES = ["Traceback (most recent call last):", *['  File "run.py", line 1032, in <module>', "    main()"] * 15]


def table(*endings: str) -> list[str]:
    """What torchrun prints of processes that failed, the last one first."""
    head = [*FRAMES, "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ", "steer FAILED", "Failures:"]
    for rank, ending in enumerate(endings):
        root = ["Root Cause (first observed failure):"] if rank == len(endings) - 1 else []
        head += [*root, f"[{rank}]:", "  time      : 2026-11-30_06:29:27", "  host      : gpu07.cluster"]
        head += [f"  rank      : {rank} (local_rank: {rank})", f"  exitcode  : {ending[:3]} (pid: 2918)"]
        head += ["  error_file: <N/A>", f"  traceback : {ending[4:]}"]
    return [*head, "============================================================"]


ONE = "  1 To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
TERM, KILL = "-15 Signal 15 (SIGTERM) received by PID 2967", " -9 Signal 9 (SIGKILL) received by PID 2968"
CASES: dict[str, tuple[int, list[str], list[str], str]] = {  # exit code, reasons of processes, output, what is said
    "a sentence, and what follows from it": (
        1,
        ["steer: it is bad. Fix it.", LOST],
        table(TERM, ONE),
        "it is bad. Fix it.",
    ),
    "a sentence that was not the first": (1, [LOST, "steer: it is bad."], table(ONE, ONE), "it is bad."),
    "a bug": (1, ["KeyError: 'weights'", LOST], table(TERM, ONE), "KeyError: 'weights'."),
    "a bug, after which others had to be killed": (1, ["KeyError: 'w'"], table(KILL, ONE), "KeyError: 'w'."),
    "killed": (1, [LOST], [NOTE, LOST, *table(TERM, KILL)], f"A process was killed by SIGKILL.{LOWER}"),
    "killed for memory by SLURM": (
        137,
        [LOST],
        [NOTE, "slurmstepd: error: Detected 1 oom_kill event in StepId=1041.3.", "srun: error: gpu07: task 1: Killed"],
        f"A process was killed by SIGKILL.{LOWER}",
    ),
    "killed, and the others say more than srun": (143, [LOST], ["srun: error: gpu07: task 1: Terminated"], LOST),
    "killed, as a shell says it": (143, [], [NOTE], "A process was killed by SIGTERM."),
    "killed without a launcher": (-11, [], [NOTE], "A process was killed by SIGSEGV."),
    "a launcher that is killed": (-9, [LOST], [NOTE, LOST], f"A process was killed by SIGKILL.{LOWER}"),
    "another python": (1, [], ["python3: No module named steer", *table(ONE, ONE)], "python3: No module named steer."),
    "another steer": (1, [], ["1: steer: no setting 'x'.", *table(ONE, ONE)], "no setting 'x'."),
    "wrong words": (
        2,
        [],
        ["usage: torchrun", "torchrun: error: unrecognized arguments: --x"],
        "torchrun: error: unrecognized arguments: --x.",
    ),
    "no cluster": (
        1,
        [],
        [*FRAMES, "ConnectionError: Failed to connect to Ray."],
        "ConnectionError: Failed to connect to Ray.",
    ),
    "no program": (127, [], ["-m: line 1: nothere: command not found"], "-m: line 1: nothere: command not found."),
    "nothing is said": (3, [], ["so far so good"], ""),
}
LAUNCHER = f"""#!{sys.executable}
import json, pathlib, sys

code, reasons, lines = json.loads(pathlib.Path(__file__).with_name("case.json").read_text())
file = pathlib.Path(sys.argv[sys.argv.index("--output") + 1] + ".reasons")
with file.open("r+") as stream:
    stream.writelines(f"{{reason}}\\n" for reason in reasons)
print(*lines, sep="\\n")
sys.exit(code) if code >= 0 else __import__("os").kill(__import__("os").getpid(), -code)
"""


def test_a_launcher_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match=r"--launch: no-such-program cannot be started \(No such file"):
        train_by("no-such-program --n 2", config(tmp_path, tmp_path, tmp_path / "out"))
    assert not reasons_of(tmp_path / "out").exists()


def program(folder: Path, text: str) -> str:
    """Write a program; return its path."""
    (folder / "launcher").write_text(text)
    (folder / "launcher").chmod(0o755)
    return str(folder / "launcher")


@pytest.mark.parametrize("case", CASES)
def test_the_reason_is_that_of_the_process_that_failed_first(case: str, tmp_path: Path) -> None:
    *facts, reason = CASES[case]
    (tmp_path / "case.json").write_text(json.dumps(facts))
    with pytest.raises(SteerError) as failed:
        train_by(program(tmp_path, LAUNCHER), config(tmp_path, tmp_path, tmp_path / "policy"))
    said = f"--launch: the training in {tmp_path}/policy ended with exit code {facts[0]}. {reason}".strip()
    assert str(failed.value) == f"{said} What it wrote stays, and the same command goes on."
    assert not reasons_of(tmp_path / "policy").exists()


NOISY = f"""#!{sys.executable}
import subprocess, sys

subprocess.run([sys.executable, *sys.argv[1:]], stderr=subprocess.DEVNULL)
print("a frame of a traceback\\n" * 60)
sys.exit(1)
"""


def test_what_steer_train_says_reaches_who_launched_it(labels: Path, base: Path, tmp_path: Path) -> None:
    """Also where the launcher prints much after it, or keeps what its processes say in files."""
    long = config(labels, base, tmp_path / "out", max_length=1)
    with pytest.raises(SteerError, match=r"exit code 1\. all \d+ rows are longer .* such rows\. What it wrote stays"):
        train_by(program(tmp_path, NOISY), long)
    assert not (tmp_path / "out").exists()
    assert not reasons_of(tmp_path / "out").exists()


def test_errors_are_added_where_a_launcher_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "policy.reasons"

    def fail(error: BaseException) -> None:
        with pytest.raises(type(error)) as passed, explained(f"{tmp_path}/policy/"):
            raise error
        assert passed.value is error

    fail(SteerError("nobody waits."))
    assert not file.exists()
    file.touch()
    for error in (SteerError("it is bad.\nFix it."), KeyError("weights"), RuntimeError("two\n  lines")):
        fail(error)
    fail(KeyboardInterrupt())
    with explained(tmp_path / "policy"):
        pass
    assert file.read_text() == "steer: it is bad. Fix it.\nKeyError: 'weights'\nRuntimeError: two lines\n"
    for folder in ("", ".", "/", "s3://bucket/policy"):
        with pytest.raises(KeyError), explained(folder):
            raise KeyError(folder)

    def full(*_args: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    fail(SteerError("the file takes no line, and this passes all the same."))


BREAK = """
import os

if "RANK" in os.environ or "SLURM_PROCID" in os.environ:  # not in the launcher
    import torch

    def step(*args, **more):
        from steer.errors import SteerError

        if os.environ["RANK"] == "1":
            if {fault!r} == "killed":
                os.kill(os.getpid(), 9)
            raise SteerError("it is bad. Fix it.") if {fault!r} == "sentence" else KeyError("weights")

    torch.optim.AdamW.step = step
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "fault", "reason"),
    [
        ("torchrun", "sentence", "it is bad. Fix it."),
        ("torchrun", "bug", "KeyError: 'weights'."),
        ("torchrun", "killed", f"A process was killed by SIGKILL.{LOWER}"),
        ("accelerate", "sentence", "it is bad. Fix it."),
        ("accelerate", "killed", f"A process was killed by SIGKILL.{LOWER}"),
        ("srun", "sentence", "it is bad. Fix it."),
    ],
)
def test_one_of_two_processes_that_fails_gives_the_reason(
    launcher: str, fault: str, reason: str, labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAK.format(fault=fault))
    (tmp_path / "two.yaml").write_text(json.dumps(ACCELERATE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    words = {
        "torchrun": " ".join(TORCHRUN),
        "accelerate": f"{sys.executable} -m accelerate.commands.launch --config_file {tmp_path}/two.yaml",
        "srun": f"{program(tmp_path, SRUN)} --ntasks 2 --kill-on-bad-exit {sys.executable}",
    }[launcher]
    with pytest.raises(SteerError) as failed:
        train_by(words, config(labels, base, tmp_path / "policy"))
    assert f"ended with exit code 1. {reason} What it wrote stays" in str(failed.value)
