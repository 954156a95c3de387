"""Trainings as commands of their own: what a launcher trains and several processes draw is what one process does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import HANG, TORCHRUN, alive, family, until

from steer.comparison.command import compare_command
from steer.config.comparison import CompareConfig
from steer.config.iteration import IterateConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.iteration.command import iterate_command
from steer.iteration.launch import train_by
from steer.rows import read_back
from steer.run_folder import read_json, write_json
from steer.training.processes import first_node, join_tasks

GOLD = "data_recipes.world_text:Gold"
LAUNCH = " ".join(TORCHRUN)
STEPS = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 3e-3, "batch_size": 16, "max_steps": 4, "logging_steps": 1}


def iterated(labels: Path, base: Path, trained: Path, folder: Path, **more: Any) -> IterateConfig:
    folder.mkdir(exist_ok=True)
    training = {**STEPS, "adapter": "none", "learning_rate": 1e-3, "save_steps": 1, **more.pop("train", {})}
    write_json(folder / "train.json", training)
    how = {
        "rounds": 1,
        "start_from": "last",
        "prompts_per_round": 12,
        "max_new_tokens": 60,
        "watch": 8,
        "guard": ("off",),
        "shard_size": 5,
    }
    rows = (str(labels), str(base), GOLD, str(folder / "rounds"), str(trained))
    return IterateConfig(*rows, train=str(folder / "train.json"), **how | more)


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The bytes of files, by their path in the folder."""
    paths = [path for pattern in patterns for path in folder.rglob(pattern)]
    return {name(path, folder): path.read_bytes() for path in paths}


def name(path: Path, folder: Path) -> str:
    """The path of a file in a folder; the end of a round's name follows from where its settings lie."""
    return re.sub(r"(round-\d)-\w+", r"\1", str(path.relative_to(folder)))


def losses(folder: Path, figure: str = "loss") -> list[float]:
    """The losses, or another figure of its steps, of every training below a folder."""
    lines = [json.loads(line) for path in sorted(folder.rglob("metrics.jsonl")) for line in path.open()]
    return [line[figure] for line in lines if figure in line]


def answers(folder: Path) -> dict[str, list[str]]:
    """The responses of every file of answers below a folder."""
    return {name(p, folder): [row["response"] for row in read_back(p)] for p in folder.rglob("answers.jsonl")}


def config(labels: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    return TrainConfig(str(labels), str(base), str(output), **STEPS | more)


def test_a_training_that_is_launched_writes_what_one_here_writes(labels: Path, base: Path, tmp_path: Path) -> None:
    here, launched = (config(labels, base, tmp_path / name / "policy", attribute=("warmth",)) for name in ("a", "b"))
    train_by("", here)
    summary = train_by(sys.executable, launched)
    one, two = Path(here.output), Path(launched.output)
    assert summary == read_json(two / "done.json")["summary"]
    for name in ("adapter_model.safetensors", "config.json", "steer.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert train_by("no-such-program", launched) == summary, "what is done is not launched"


SRUN = f"""#!{sys.executable}
import os, subprocess, sys

tasks, words = int(sys.argv[sys.argv.index("--ntasks") + 1]), sys.argv[sys.argv.index("--kill-on-bad-exit") + 1 :]
step = {{"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost"}}
step |= {{"SLURM_NODEID": "0", "SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_NNODES": "1"}}
own = ({{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "SLURM_TASK_PID": "0"}} for i in range(tasks))
started = [subprocess.Popen(words, env={{**os.environ, **step, **names}}) for names in own]
sys.exit(max(abs(process.wait()) for process in started))
"""
# On a machine without a GPU accelerate starts several processes for this kind only.
ACCELERATE = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "num_machines": 1}
ACCELERATE |= {"num_processes": 2, "machine_rank": 0, "mixed_precision": "no", "use_cpu": False}
ACCELERATE |= {"main_process_port": 0}  # a free one


def assert_trains_alike(words: str, labels: Path, base: Path, folder: Path) -> None:
    """What two processes train that the words launch is what one trains here."""
    here, there = (config(labels, base, folder / name / "policy", attribute=("warmth",)) for name in ("a", "b"))
    train_by("", here)
    assert train_by(words, there) == read_json(Path(there.output) / "done.json")["summary"]
    assert read_json(Path(there.output) / "done.json")["processes"] == 2
    assert losses(Path(there.output)) == pytest.approx(losses(Path(here.output)), abs=1e-5)


def test_a_launcher_that_does_not_wait_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.iteration.launch.PAUSE", 0.0)
    asked = config(tmp_path / "rows", tmp_path / "base", tmp_path / "policy")
    with pytest.raises(SteerError, match=r"^--launch: it ended without a done\.json in .*policy\. Use a launcher that"):
        train_by("true", asked)


def test_a_training_whose_end_is_seen_late_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS remembers for a while that a file was absent."""
    done = tmp_path / "policy" / "done.json"
    monkeypatch.setattr("steer.iteration.launch.time.sleep", lambda _: write_json(done, {"summary": "train: done."}))
    assert train_by("true", config(tmp_path / "rows", tmp_path / "base", done.parent)) == "train: done."


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "srun"])
def test_other_launchers_train_in_two_processes_what_one_trains(
    launcher: str, labels: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "two.yaml", ACCELERATE)  # which is YAML too
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    words = {
        "accelerate": f"{sys.executable} -m accelerate.commands.launch --config_file {tmp_path}/two.yaml",
        "srun": f"{tmp_path}/srun --ntasks 2 --kill-on-bad-exit {sys.executable}",
    }[launcher]
    assert_trains_alike(words, labels, base, tmp_path)
    assert ("srun started 2 tasks" in capsys.readouterr().err) == (launcher == "srun")


STEP = {"SLURM_JOB_ID": "1041", "SLURM_STEP_ID": "3", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
STEP |= {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[07-08,12]"}


@pytest.mark.parametrize(("gpus", "own"), [(0, "1"), (1, "0"), (4, "1")])
def test_tasks_of_srun_are_the_processes_of_one_training(gpus: int, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_has = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    env = {name: value for name, value in os.environ.items() if name not in torch_has}
    monkeypatch.setattr("steer.device.count", lambda: gpus)
    for more in ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, {**STEP, "WORLD_SIZE": "2"}, {"SLURM_NTASKS": "8"}):
        monkeypatch.setattr(os, "environ", {**env, **more})
        join_tasks()
        assert os.environ == {**env, **more}, "one task, another launcher, or no step: nothing is set"
    monkeypatch.setattr(os, "environ", {**env, **STEP})
    join_tasks()
    assert [os.environ[name] for name in torch_has] == ["8", "5", own, "gpu07", str(20_000 + 1041 * 7 + 3)]
    monkeypatch.setattr(os, "environ", {**env, **STEP, "MASTER_ADDR": "head", "MASTER_PORT": "9"})
    join_tasks()
    assert [os.environ[name] for name in torch_has[3:]] == ["head", "9"]


def test_the_first_node_of_a_list() -> None:
    nodes = ("gpu[07-09,12]", "a1,b2", "rack[3,5]-ib", "alone", "a[1-2],b3")
    assert [first_node(text) for text in nodes] == ["gpu07", "a1", "rack3-ib", "alone", "a1"]


@pytest.fixture(scope="module")
def whole(labels: Path, base: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rounds that a launcher trains and two processes draw, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    iterate_command(iterated(labels, base, trained, folder, rounds=2, launch=LAUNCH, num_proc=2))
    return folder / "rounds"


@pytest.mark.slow
def test_launched_rounds_are_those_of_one_process(
    labels: Path, base: Path, trained: Path, whole: Path, tmp_path: Path
) -> None:
    iterate_command(iterated(labels, base, trained, tmp_path, rounds=2))
    one = tmp_path / "rounds"
    assert files(whole, "generated/parts/*.jsonl", "fresh.jsonl") == files(
        one, "generated/parts/*.jsonl", "fresh.jsonl"
    )
    assert len(files(whole, "generated/parts/*.jsonl")) == 2 * 3, "parts for two processes"
    assert answers(whole) == answers(one)
    assert losses(whole) == pytest.approx(losses(one), abs=1e-5)
    assert [read_json(p)["processes"] for p in sorted(whole.glob("*/policy/done.json"))] == [2, 2]
    scored = [-(-len(read_back(path)) // 5) for path in whole.glob("*/fresh.jsonl")]
    assert len(files(whole, "scores/*.npy")) == sum(scored) > 2, "scored by processes"


def command(labels: Path, base: Path, trained: Path, folder: Path) -> list[str]:
    """The rounds of one launched training that the next tests kill, but for their folder."""
    how = iterated(labels, base, trained, folder, train={"max_steps": 30})
    flags = {"model": how.model, "scorer": GOLD, "policy": how.policy, "train": how.train, "launch": LAUNCH}
    flags |= {"rounds": "1", "prompts-per-round": "12", "max-new-tokens": "40", "watch": "8", "guard": "off"}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "steer", "iterate", how.rows, *words, "--start-from", "last", "--output"]


@pytest.fixture(scope="module")
def undisturbed(labels: Path, base: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([*command(labels, base, trained, folder), str(folder / "rounds")], check=True, capture_output=True)
    return folder / "rounds"


def kill(victim: str, command: int) -> list[tuple[int, str]]:
    """Kill a worker or the launcher of a command's training, or the command; return all processes below it."""
    below = family(command)
    launchers = [pid for pid, words in below if "torch.distributed.run" in words]
    workers = [pid for pid, words in below if "-m steer train" in words and pid not in launchers]
    assert (len(launchers), len(workers)) == (1, 2), below
    os.kill({"worker": workers[1], "launcher": launchers[0], "orchestrator": command}[victim], signal.SIGKILL)
    return below


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "launcher", "orchestrator"])
def test_killed_rounds_end_with_the_same_bytes(
    victim: str, labels: Path, base: Path, trained: Path, undisturbed: Path, tmp_path: Path
) -> None:
    steer, out = command(labels, base, trained, tmp_path), tmp_path / "killed"
    process = subprocess.Popen([*steer, str(out)], stderr=subprocess.PIPE, text=True)
    until(lambda: bool([*out.glob("round-1-*/policy/checkpoint-3")]) or process.poll() is not None)
    below = kill(victim, process.pid)
    said = process.communicate(timeout=HANG)[1]
    assert process.returncode
    until(lambda: not any(alive(pid) for pid, _ in below))  # nothing is left that could write
    assert ("steer: --launch: the training in" in said) == (victim != "orchestrator")
    assert not [*out.glob("round-1-*/policy/done.json")], "it was killed while it trained"
    subprocess.run([*steer, str(out)], check=True, capture_output=True)
    same = ("*.jsonl", "*.safetensors", "*.npy")
    ours, theirs = files(out, *same), files(undisturbed, *same)
    assert ours.keys() == theirs.keys()
    assert {n for n in ours if ours[n] != theirs[n]} <= {n for n in ours if n.endswith("metrics.jsonl")}, "seconds"
    assert losses(out)[-1] == losses(undisturbed)[-1]


@pytest.mark.slow
def test_a_launched_comparison_is_that_of_one_process(
    labels: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "train.json", {**STEPS, "learning_rate": 1e-3})
    methods = ("mle", "conditional", "raft:rounds=1,n=4,prompts_per_round=10", "dpo:after=mle", "steering")
    methods += ("conditional:after=mle",)
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 6, "grid": 8, "max_new_tokens": 60, "resamples": 20}
    how |= {"method": methods, "shard_size": 3, "train": str(tmp_path / "train.json")}
    one = CompareConfig(str(labels), str(trained / "model"), str(tmp_path / "one"), **how)
    compare_command(one)
    capsys.readouterr()
    two = replace(one, output=str(tmp_path / "two"), launch=LAUNCH, num_proc=2)
    compare_command(two)
    assert "systems without training answer in one process" in capsys.readouterr().err
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert len(answers(tmp_path / "two")) == len({*answers(tmp_path / "two")}) >= 8
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    done = [read_json(p) for p in (tmp_path / "two").glob("runs/**/policy/done.json")]
    assert [facts["processes"] for facts in done] == [2] * 5
    reports = [read_json(tmp_path / name / "report.json") for name in ("one", "two")]
    assert [s["name"] for s in reports[0]["systems"]] == [s["name"] for s in reports[1]["systems"]]
    assert reports[1]["failures"] == []


def comparison(labels: Path, trained: Path, folder: Path) -> list[str]:
    """The launched comparison that the next tests kill, but for its folder: a chain of trainings, and a round."""
    write_json(folder / "train.json", {**STEPS, "learning_rate": 1e-3, "max_steps": 30, "save_steps": 1})
    flags = {"model": trained / "model", "gold": GOLD, "train": folder / "train.json", "launch": LAUNCH}
    flags |= {"num-prompts": 6, "grid": 0, "max-new-tokens": 40, "resamples": 20, "method": "conditional:after=mle"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    words += ["--method", "raft:rounds=1,n=4,prompts_per_round=10", "--output"]
    return [sys.executable, "-m", "steer", "compare", str(labels), *words]


@pytest.fixture(scope="module")
def compared(labels: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the comparison writes that nobody kills."""
    folder = tmp_path_factory.mktemp("compared")
    subprocess.run([*comparison(labels, trained, folder), str(folder / "out")], check=True, capture_output=True)
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "place"),
    [
        ("worker", "conditional-*/policy"),  # behind a policy that was trained before
        ("launcher", "raft-*/round-1-*/policy"),
        ("orchestrator", "conditional-*/policy"),
    ],
)
def test_a_killed_comparison_loses_one_run_and_ends_with_the_same_bytes(
    victim: str, place: str, labels: Path, trained: Path, compared: Path, tmp_path: Path
) -> None:
    words, out = [*comparison(labels, trained, tmp_path), str(tmp_path / "out")], tmp_path / "out"
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, text=True, **both)
    until(lambda: bool([*out.glob(f"runs/{place}/checkpoint-3")]) or process.poll() is not None)
    below = kill(victim, process.pid)
    said = process.communicate(timeout=HANG)[0]
    until(lambda: not any(alive(pid) for pid, _ in below))
    assert not [*out.glob(f"runs/{place}/done.json")], "it was killed while it trained"
    assert not (out / "done.json").exists()
    if victim == "orchestrator":
        assert process.returncode
    else:
        assert "1 run failed; the report says why. The same command tries again." in said
        (failed,) = read_json(out / "report.json")["failures"]
        assert failed["error"].startswith("--launch: the training in")
        others = {n for n in answers(compared) if not n.startswith(f"runs/{place.partition('-')[0]}-")}
        assert others <= answers(out).keys(), "the other run went on"
    subprocess.run(words, check=True, capture_output=True)
    same = ("*.jsonl", "*.safetensors", "*.npy")
    ours, theirs = files(out, *same), files(compared, *same)
    assert ours.keys() == theirs.keys()
    assert {n for n in ours if ours[n] != theirs[n]} <= {n for n in ours if n.endswith("metrics.jsonl")}, "seconds"
    systems = [[(s["name"], s["gold"]) for s in read_json(at / "report.json")["systems"]] for at in (out, compared)]
    assert systems[0] == systems[1]
    assert read_json(out / "report.json")["failures"] == []


@pytest.mark.slow
def test_a_comparison_loses_one_run_to_a_drawing_process_that_is_killed_and_ends_with_the_same_bytes(
    labels: Path, trained: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / "train.json", {**STEPS, "learning_rate": 1e-3})
    flags: dict[str, Any] = {"gold": GOLD, "train": str(tmp_path / "train.json"), "num_prompts": 6, "grid": 0}
    flags |= {"max_new_tokens": 40, "resamples": 20, "shard_size": 1}
    how = flags | {"method": ("raft:rounds=1,n=4,prompts_per_round=10",)}
    one, out = (str(tmp_path / name) for name in ("one", "two"))
    compare_command(CompareConfig(str(labels), str(trained / "model"), one, **how))
    two = CompareConfig(str(labels), str(trained / "model"), out, launch=sys.executable, num_proc=2, **how)
    flags |= {"model": two.model, "output": out, "launch": two.launch, "num_proc": 2, "method": how["method"][0]}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "steer", "compare", two.rows, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    parts = "runs/raft-*/round-1-*/generated/parts/*.jsonl"
    until(lambda: len([*Path(out).glob(parts)]) >= 3 or process.poll() is not None)
    drawers = [pid for pid, called in family(process.pid) if "multiprocessing.spawn" in called]
    os.kill(drawers[-1], signal.SIGKILL)
    said = process.communicate(timeout=HANG)[0]
    assert "1 run failed; the report says why. The same command tries again." in said
    (failed,) = read_json(Path(out) / "report.json")["failures"]
    assert failed["error"].startswith("a process that drew has died. Lower --num-proc if memory ran out, and run the")
    assert {*answers(Path(out))} == {"runs/base-seed0/answers.jsonl"}, "the others go on"
    drawn = {path: path.stat().st_mtime_ns for path in Path(out).rglob("parts/*")}
    assert 3 <= len([*Path(out).glob(parts)]) < 40
    compare_command(two)
    assert drawn == {path: path.stat().st_mtime_ns for path in drawn}, "nothing is drawn twice"
    ours, theirs = (files(Path(at), "answers.jsonl", "fresh.jsonl", "*.safetensors", parts) for at in (out, one))
    assert ours == theirs
    assert len(ours) > 40
    assert read_json(Path(out) / "report.json")["failures"] == []


@pytest.mark.slow
def test_a_method_that_draws_while_it_trains_learns_the_same_from_two_processes(
    labels: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "train.json", {**STEPS, "max_steps": 2})
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 4, "max_new_tokens": 20, "train": str(tmp_path / "train.json")}
    for name, launch in (("one", ""), ("two", LAUNCH)):
        methods = {"method": ("rloo", "grpo", "ppo"), "launch": launch}
        compare_command(CompareConfig(str(labels), str(base), str(tmp_path / name), resamples=20, **methods, **how))
    assert "ppo whitens its advantages over the responses that a process draws" in capsys.readouterr().err
    for method, figure in (("rloo", "loss"), ("grpo", "grad_norm")):  # advantages of grpo add up to a loss of 0
        one, two = (tmp_path / name / "runs" / f"{method}-seed0" / "policy" for name in ("one", "two"))
        assert read_json(two / "done.json")["processes"] == 2
        assert losses(two, figure) == pytest.approx(losses(one, figure), rel=1e-3, abs=1e-5)
        assert any(losses(one, figure))


@pytest.mark.slow
def test_launched_trainings_tune_as_those_of_one_process_do(labels: Path, trained: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "train.json", {**STEPS, "max_steps": 2, "learning_rate": 1e-3})
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 4, "grid": 0, "max_new_tokens": 40, "resamples": 20}
    how |= {"method": ("filtered",), "tune": 2, "tune_prompts": 6, "train": str(tmp_path / "train.json")}
    one = CompareConfig(str(labels), str(trained / "model"), str(tmp_path / "one"), **how)
    compare_command(one)
    compare_command(replace(one, output=str(tmp_path / "two"), launch=LAUNCH))
    done = [read_json(path) for path in (tmp_path / "two").rglob("policy/done.json")]
    assert [facts["processes"] for facts in done] == [2] * 3
    tried = [read_json(tmp_path / name / "report.json")["tuning"]["entries"] for name in ("one", "two")]
    ours, theirs = ([(t["learning_rate"], t["chosen"]) for t in entries[0]["tries"]] for entries in tried)
    assert ours == theirs
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
