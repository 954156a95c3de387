"""Labelling and drawing by a Ray cluster of this machine: the same bytes, whatever of it is killed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from conftest import HANG, JSON, alive, family, until
from test_label import OWN, bytes_of, rows_of
from test_launch import GOLD, LAUNCH, STEPS, answers, assert_trains_alike, config, files, iterated, losses

from steer.cluster import Head
from steer.comparison.command import compare_command
from steer.config.comparison import CompareConfig
from steer.config.labelling import LabelConfig
from steer.errors import SteerError
from steer.iteration.command import iterate_command
from steer.iteration.launch import train_by
from steer.labelling.command import label_command
from steer.rows import read_rows, write_rows
from steer.run_folder import read_json, write_json

STEER = [sys.executable, "-m", "steer"]
RAY = ["--workers", "ray", "--num-proc", "2"]
LABEL = [*STEER, "label", "rows.jsonl", "--scorer", "own_scorers:Halting", "--shard-size", "20", "--min-support", "1"]
# Asks more of the cluster than it has, and of the same one what it can do.
BOTH = """
import steer.cluster
from steer.config.labelling import LabelConfig
from steer.errors import SteerError
from steer.labelling.command import label_command

many = {"scorer": "own_scorers:Halting", "min_support": 1, "workers": "ray", "overwrite": True}
try:
    label_command(LabelConfig("rows.jsonl", "ray", num_proc=99999, shard_size=1, **many))
except SteerError as error:
    print(error)
steer.cluster.LONG, steer.cluster.LOOK = 0, 0.01
label_command(LabelConfig("rows.jsonl", "ray", num_proc=2, shard_size=20, **many))
"""

# Every actor fails, and the command is slow to end.
FAILING = """
import sys
import time

from steer.cluster import by_actors
from steer.errors import SteerError


class Failing:
    def __init__(self, start):
        pass

    def do(self, part):
        raise SteerError("the folder " + "/long" * 100 + " holds no model that can be read.")


try:
    list(by_actors(Failing, None, iter(range(2)), 2, "fails"))
except SteerError as error:
    time.sleep(3)
    print(error, file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def _as_quick_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's processes would wait for whatever else runs on the machine: it starts them with the lowest priority."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # else Ray gives up where tests share few cores


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
    both = subprocess.run([sys.executable, "-c", BOTH], check=True, capture_output=True, text=True)
    assert "but the cluster has" in both.stdout
    assert both.stderr.count("no actor has begun to work. They wait while others hold the ") == 1
    assert bytes_of(own / "ray") == bytes_of(own / "one")
    assert len([*(own / "ray" / "parts").glob("*.npy")]) == 10, "--overwrite left nothing of the first call"


def test_without_ray_the_remedy_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    write_rows(rows_of(20, lambda i: "word " * (i % 9 + 1)), own / "rows.jsonl")
    with pytest.raises(SteerError, match=r'Ray is not installed. pip install "steer-lm\[ray\]"'):
        label_command(LabelConfig("rows.jsonl", "out", scorer="countable:words", workers="ray"))


def test_a_head_is_gone_when_it_has_not_answered_for_long_and_not_when_it_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = Head(f"127.0.0.1:{server.getsockname()[1]}")

        def gone(*later: float) -> list[bool]:
            found = []
            for seconds in later:
                now[0] += seconds
                found.append(head.gone())
            return found

        assert gone(0, 10_000, 10_000) == [False] * 3, "a part may take as long as it does"
        head.place, place = (*head.place[:1], closed_port()), head.place
        assert gone(10_000, 29, 2) == [False, False, True], "half of Ray's 60 seconds, from the first look in vain"
        head.silent = None
        assert gone(0, 29) == [False, False]
        head.place = place
        assert gone(29) == [False]
        head.place = (*head.place[:1], closed_port())
        assert gone(29, 29) == [False, False], "it answered in between"
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    assert Head("127.0.0.1:1").patience == 2.5


def closed_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_cluster_that_does_not_answer_is_not_waited_for(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    config = LabelConfig("rows.jsonl", "out", scorer="own_scorers:Halting", workers="ray", min_support=1)
    monkeypatch.syspath_prepend(own)
    monkeypatch.setenv("RAY_ADDRESS", address := f"127.0.0.1:{closed_port()}")
    with pytest.raises(SteerError, match=f"no Ray cluster answers at {address}. Start it, or unset RAY_ADDRESS."):
        label_command(config)
    monkeypatch.setenv("RAY_ADDRESS", f"ray://{address}")
    with pytest.raises(SteerError, match="on a machine of the cluster, with HOST:PORT of its head"):
        label_command(config)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_rows_of_a_store_are_labelled_by_ray_as_those_of_a_folder_are_here(
    scheme: str, own: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("ray")
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("STEER_CACHE", str(own / "cache"))
    store = request.getfixturevalue("s3") if scheme == "s3" else fsspec.filesystem("file", auto_mkdir=True)
    root = "s3://bucket" if scheme == "s3" else f"file://{own}/store"
    store.put_file("rows.jsonl", f"{root}/log.jsonl")
    shards = ["--output-shards", "2"]
    ran([*LABEL, *shards, "--output", "one"])
    source, target = f"{root}/log.jsonl", f"{root}/labels"
    ran([source if word == "rows.jsonl" else word for word in [*LABEL, *shards, *RAY, "--output", target]])
    for name in ("rows-00000-of-00002.jsonl", "rows-00001-of-00002.jsonl", "schema.json"):
        assert store.cat_file(f"{target}/{name}") == (own / "one" / name).read_bytes()
    assert len(store.find(target)) == 5, "with config.json and done.json, and no parts"


@pytest.mark.slow
def test_a_scorer_of_a_store_is_loaded_by_actors(own: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("STEER_CACHE", str(own / "cache"))
    rated = [{**row, "scores": {"words": float(len(row["response"].split()))}} for row in read_rows("rows.jsonl")]
    write_rows(rated, own / "rated.jsonl")
    ran([*STEER, "fit", "rated.jsonl", "--output", "scorer"])
    ran([*STEER, "fit", "rated.jsonl", "--output", "s3://bucket/scorer"])
    label = [*STEER, "label", "rated.jsonl", "--shard-size", "20", "--min-support", "1"]
    ran([*label, "--scorer", "scorer", "--output", "one"])
    ran([*label, "--scorer", "s3://bucket/scorer", "--output", "s3://bucket/labels", *RAY])
    for name in ("rows.jsonl", "schema.json"):
        assert s3.cat_file(f"bucket/labels/{name}") == (own / "one" / name).read_bytes()


@pytest.mark.slow
def test_why_an_actor_cannot_work_is_said_by_itself(trained: Path, labels: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    shutil.copytree(trained, tmp_path / "policy")
    (tmp_path / "policy" / "model" / "model.safetensors").unlink()
    words = [*STEER, "generate", str(tmp_path / "policy"), "--input", str(labels), *RAY]
    tried = subprocess.run([*words, "--output", str(tmp_path / "out")], check=False, capture_output=True, text=True)
    assert tried.returncode == 1
    assert "the folder holds no model that can be read" in tried.stderr.splitlines()[-1]


@pytest.mark.slow
def test_what_ray_says_of_the_other_actors_does_not_follow_our_sentence(own: Path) -> None:
    pytest.importorskip("ray")
    (own / "failing.py").write_text(FAILING)
    said = subprocess.run([sys.executable, "failing.py"], check=True, capture_output=True, text=True).stderr
    folder = "/long" * 100
    assert said == (
        f"--workers ray: the folder {folder} holds no model that can be read. Run the same command again to go on.\n"
    )


def killed(words: list[str], victim: str, parts: Path, count: int) -> str:
    """Start a command, kill a part of Ray or the command when there are so many parts; return what it said.

    `parts`: their folder; `*` in it stands for anything.
    """
    process = subprocess.Popen(words, env={**os.environ, "HALT": "100"}, stderr=subprocess.PIPE, text=True)
    until(lambda: len(glob(f"{parts}/[0-9]*")) >= count or process.poll() is not None)
    below = family(process.pid)
    with without(victim, process.pid):
        said = process.communicate(timeout=HANG)[1]
    assert process.returncode, "it was killed before it was done"
    until(lambda: not any(alive(pid) for pid, _ in below))  # nothing is left that could write
    return said


@contextmanager
def without(victim: str, command: int) -> Iterator[None]:
    """Kill a part of a command's Ray, or the command. With its head or machine actors stop, as if it is gone."""
    below = family(command)
    machine = victim in ("gcs_server", "raylet/raylet")  # else they could draw what is left before they notice
    actors = [pid for pid, words in below if "ray::_Worker" in words] if machine else []
    for pid in actors:
        os.kill(pid, signal.SIGSTOP)
    found = [pid for pid, words in below if victim in words.partition(" --")[0]]
    os.kill(found[0] if victim != "command" else command, signal.SIGKILL)
    yield
    for pid in filter(alive, actors):
        os.kill(pid, signal.SIGKILL)


GONE = "the Ray cluster is gone: its head at "
VICTIMS = {"ray::_Worker": "has died", "raylet/raylet": "has died", "gcs_server": GONE, "command": ""}


def assert_said(said: str, victim: str, done: str) -> None:
    """What Ray's end says is one sentence, and the last one."""
    last = said.splitlines()[-1] if victim != "command" else "steer: --workers ray: "
    assert last.startswith("steer: --workers ray: "), said[-2000:]
    assert VICTIMS[victim] in last
    assert (f"an actor that {done}" in last) == (VICTIMS[victim] == "has died")


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_labelling_by_ray_that_is_killed_goes_on_to_the_same_bytes(victim: str, own: Path) -> None:
    pytest.importorskip("ray")
    parts = own / "killed" / "parts"
    said = killed([*LABEL, *RAY, "--output", "killed"], victim, parts, 5)
    assert_said(said, victim, "scored")
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
    assert_said(said, victim, "drew")
    assert not (out / "done.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("parts/*.jsonl")}
    ran([*words, str(out), *RAY])
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "nothing is drawn twice"
    ran([*words, str(tmp_path / "one" / "run")])
    assert (out / "rows.jsonl").read_bytes() == (tmp_path / "one" / "run" / "rows.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["ray::_Worker", "gcs_server"])
def test_launched_rounds_whose_ray_is_killed_go_on_to_those_of_one_process(
    victim: str, labels: Path, base: Path, trained: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    how: dict[str, Any] = {"prompts_per_round": 40, "n": 8, "shard_size": 4}
    config = iterated(labels, base, trained, tmp_path, **how)
    iterate_command(config)
    out, one = tmp_path / "killed", tmp_path / "rounds"
    flags = {"policy": trained, "model": base, "scorer": GOLD, "train": config.train, "launch": LAUNCH, "rounds": 1}
    flags |= {"start-from": "last", "max-new-tokens": 60, "watch": 8, "guard": "off", "output": out}
    flags |= {name.replace("_", "-"): value for name, value in how.items()}
    words = [*STEER, "iterate", str(labels), *RAY, *(str(w) for name, x in flags.items() for w in (f"--{name}", x))]
    assert_said(killed(words, victim, out / "round-1-*" / "generated" / "parts", 3), victim, "drew")
    kept = files(out, "generated/parts/*.jsonl")
    assert 3 <= len(kept) < len(files(one, "generated/parts/*.jsonl")) == 80
    ran(words)
    for pattern in ("generated/parts/*.jsonl", "fresh.jsonl"):
        assert files(out, pattern) == files(one, pattern)
    assert answers(out) == answers(one)
    assert losses(out) == pytest.approx(losses(one), abs=1e-5)
    assert [read_json(p)["processes"] for p in out.glob("*/policy/done.json")] == [2]
    assert len(files(out, "scores/*.npy")) > 2, "scored by actors"


@pytest.mark.slow
def test_a_launched_comparison_whose_ray_is_killed_goes_on_to_that_of_one_process(
    labels: Path, trained: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    write_json(tmp_path / "train.json", {**STEPS, "learning_rate": 1e-3})
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 6, "grid": 8, "max_new_tokens": 60, "resamples": 20}
    how |= {"shard_size": 3, "train": str(tmp_path / "train.json")}
    methods = ("mle", "conditional", "raft:rounds=1,n=8,prompts_per_round=60")
    compare_command(CompareConfig(str(labels), str(trained / "model"), str(tmp_path / "one"), method=methods, **how))
    flags = {"model": trained / "model", "launch": LAUNCH, "output": tmp_path / "two", **how}
    words = [w for name, x in flags.items() for w in (f"--{name.replace('_', '-')}", str(x))]
    words = [*STEER, "compare", str(labels), *RAY, *words, *(w for m in methods for w in ("--method", m))]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    fresh = f"{tmp_path}/two/runs/raft*/**/generated/parts/[0-9]*"
    until(lambda: len(glob(fresh, recursive=True)) >= 3 or process.poll() is not None)
    with without("gcs_server", process.pid):
        said = process.communicate(timeout=HANG)[0]
    assert "1 run failed" in said, "it was killed before it was done, and only what was drawn then is lost"
    assert GONE in read_json(tmp_path / "two" / "report.json")["failures"][0]["error"]
    ran(words)
    one, two = (tmp_path / name for name in ("one", "two"))
    assert answers(two) == answers(one)
    assert files(two, "generated/parts/*.jsonl", "fresh.jsonl") == files(one, "generated/parts/*.jsonl", "fresh.jsonl")
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert read_json(two / "report.json")["failures"] == []


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The words before those of a job, for a Ray cluster of this machine that ends with the test."""
    pytest.importorskip("ray.dashboard.optional_deps", reason='Ray takes no jobs: pip install "ray[default]"')
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    port = closed_port()
    address = f"http://127.0.0.1:{port}"
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    start = [*ray, "start", "--head", "--block", "--disable-usage-stats", "--port=0", f"--dashboard-port={port}"]
    start += ["--dashboard-agent-listen-port=0", f"--ray-client-server-port={closed_port()}"]
    job = Request(f"{address}/api/jobs/", json.dumps({"entrypoint": "true"}).encode(), JSON)

    def taken() -> bool:
        with suppress(OSError):  # nobody listens, or says that nobody can run it yet
            return urlopen(job, timeout=HANG).status == 200
        return False

    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # a short path, for sockets
        with subprocess.Popen([*start, "--temp-dir", folder]) as head:
            try:
                until(lambda: taken() or head.poll() is not None)
                assert head.poll() is None, "Ray did not start"
                yield f"{shlex.join(ray)} job submit --address {address} --"
            finally:
                below = family(head.pid)
                head.terminate()
        until(lambda: not any(alive(pid) for pid, _ in below))


@pytest.mark.slow
def test_a_job_of_ray_trains_in_two_processes_what_one_trains(
    submit: str, labels: Path, base: Path, tmp_path: Path
) -> None:
    assert_trains_alike(f"{submit} {LAUNCH}", labels, base, tmp_path)
    long = config(labels, base, tmp_path / "out", max_length=1)
    with pytest.raises(SteerError, match=r"ended with exit code 1\. all 268 rows are longer.*goes on\."):
        train_by(f"{submit} {LAUNCH}", long)
