"""Labelling and drawing by a Ray cluster of this machine: the same bytes, whatever of it is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANG, alive, family, until
from test_label import OWN, bytes_of, rows_of

from steer.config.labelling import LabelConfig
from steer.errors import SteerError
from steer.labelling.command import label_command
from steer.rows import write_rows

STEER = [sys.executable, "-m", "steer"]
RAY = ["--workers", "ray", "--num-proc", "2"]
LABEL = [*STEER, "label", "rows.jsonl", "--scorer", "own_scorers:Halting", "--shard-size", "20", "--min-support", "1"]
# Asks more of the cluster than it has, and of the same one what it can do.
BOTH = """
from steer.config.labelling import LabelConfig
from steer.errors import SteerError
from steer.labelling.command import label_command

many = {"scorer": "own_scorers:Halting", "min_support": 1, "workers": "ray", "overwrite": True}
try:
    label_command(LabelConfig("rows.jsonl", "ray", num_proc=99999, shard_size=1, **many))
except SteerError as error:
    print(error)
label_command(LabelConfig("rows.jsonl", "ray", num_proc=2, shard_size=20, **many))
"""


@pytest.fixture(autouse=True)
def _as_quick_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's processes would wait for whatever else runs on the machine: it starts them with the lowest priority."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with rows and a module of the user's that processes can import."""
    (tmp_path / "own_scorers.py").write_text(OWN)
    write_rows(rows_of(200, lambda i: f"{'word ' * (i % 9)}end."), tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("SCORED", str(tmp_path / "scored.txt"))
    return tmp_path


def ran(words: list[str]) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_ray_writes_the_same_bytes_and_is_not_asked_for_more_than_it_has(own: Path) -> None:
    pytest.importorskip("ray")
    ran([*LABEL, "--output", "one"])
    assert "but the cluster has" in ran([sys.executable, "-c", BOTH])
    assert bytes_of(own / "ray") == bytes_of(own / "one")
    assert len([*(own / "ray" / "parts").glob("*.npy")]) == 10, "--overwrite left nothing of the first call"


def test_without_ray_the_remedy_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    write_rows(rows_of(20, lambda i: "word " * (i % 9 + 1)), own / "rows.jsonl")
    with pytest.raises(SteerError, match=r'Ray is not installed. pip install "steer-lm\[ray\]"'):
        label_command(LabelConfig("rows.jsonl", "out", scorer="countable:words", workers="ray"))


@pytest.mark.slow
def test_why_an_actor_cannot_work_is_said_by_itself(trained: Path, labels: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    shutil.copytree(trained, tmp_path / "policy")
    (tmp_path / "policy" / "model" / "model.safetensors").unlink()
    words = [*STEER, "generate", str(tmp_path / "policy"), "--input", str(labels), *RAY]
    tried = subprocess.run([*words, "--output", str(tmp_path / "out")], check=False, capture_output=True, text=True)
    assert tried.returncode == 1
    assert "the folder holds no model that can be read" in tried.stderr.splitlines()[-1]


def killed(words: list[str], victim: str, parts: Path, count: int) -> str:
    """Start a command, kill a part of Ray or the command when there are so many parts; return what it said."""
    env = {**os.environ, "HALT": "100", "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)
    until(lambda: len([*parts.glob("[0-9]*")]) >= count or process.poll() is not None)
    below = family(process.pid)
    found = [pid for pid, command in below if victim in command.partition(" --")[0]]
    os.kill(found[0] if victim != "command" else process.pid, signal.SIGKILL)
    said = process.communicate(timeout=HANG)[1]
    assert process.returncode, "it was killed before it was done"
    until(lambda: not any(alive(pid) for pid, _ in below))  # nothing is left that could write
    return said


VICTIMS = {"ray::_Worker": "an actor that ", "raylet/raylet": "an actor that ", "gcs_server": "", "command": ""}


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_labelling_by_ray_that_is_killed_goes_on_to_the_same_bytes(victim: str, own: Path) -> None:
    pytest.importorskip("ray")
    parts = own / "killed" / "parts"
    said = killed([*LABEL, *RAY, "--output", "killed"], victim, parts, 5)
    assert (VICTIMS[victim] + "scored has died" in said) == bool(VICTIMS[victim])
    kept = {path.name for path in parts.glob("*.npy")}
    assert kept == {f"{i:05d}.npy" for i in range(5)}, "the others wait for a row that never comes"
    (own / "scored.txt").unlink()
    ran([*LABEL, *RAY, "--output", "killed"])
    assert sorted((own / "scored.txt").read_text().split()) == sorted(f"r{i}" for i in range(100, 200)), "none twice"
    ran([*LABEL, "--output", "one"])
    assert bytes_of(own / "killed") == bytes_of(own / "one")


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_drawing_by_ray_that_is_killed_goes_on_to_the_same_bytes(
    victim: str, trained: Path, labels: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    words = [*STEER, "generate", str(trained), "--input", str(labels), "--limit", "40", "--n", "8"]
    words += ["--shard-size", "4", "--max-new-tokens", "60", "--output"]
    out = tmp_path / "killed" / "run"
    said = killed([*words, str(out), *RAY], victim, out / "parts", 3)
    assert (VICTIMS[victim] + "drew has died" in said) == bool(VICTIMS[victim])
    assert not (out / "done.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("parts/*.jsonl")}
    ran([*words, str(out), *RAY])
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "nothing is drawn twice"
    ran([*words, str(tmp_path / "one" / "run")])
    assert (out / "rows.jsonl").read_bytes() == (tmp_path / "one" / "run" / "rows.jsonl").read_bytes()
