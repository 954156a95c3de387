"""The loop: exact sums, exact resume, honest counts, a clear stop."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HANG
from safetensors.torch import load_file
from torch import Tensor

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods import METHODS
from steer.methods.groups import pairs
from steer.models.log_probs import ResponseLogps
from steer.models.policy import load_policy
from steer.models.tokenization import Tokens
from steer.rows import read_rows
from steer.run_folder import read_json
from steer.training.command import train_command
from steer.training.loop import learning_rate

FAST: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 3e-3, "batch_size": 16, "max_steps": 6}


def config(labels: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    return TrainConfig(str(labels), str(base), str(output), **FAST | more)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def done(folder: Path) -> Any:
    return read_json(folder / "done.json")


def assert_close(a: Path, b: Path, atol: float) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=atol, rtol=0, msg=name)


@pytest.mark.parametrize("method", ["conditional", "rwr"])
def test_micro_batches_do_not_change_what_is_learned(labels: Path, base: Path, tmp_path: Path, method: str) -> None:
    whole = config(labels, base, tmp_path / "whole", method=method, micro_batch_tokens=100_000)
    for name, other in {
        "whole": whole,
        "single": replace(whole, micro_batch_tokens=1),
        "uneven": replace(whole, micro_batch_tokens=300, gradient_checkpointing=True),
    }.items():
        train_command(replace(other, output=str(tmp_path / name)))
        ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / name)
        apart = torch.cat([(ours[k] - theirs[k]).abs().flatten() for k in ours])
        # Adam turns the rounding error of a vanishing gradient into a step, so a few weights may differ by more.
        assert float(apart.quantile(0.99)) < 1e-6
        assert float(apart.max()) < 2e-4  # six steps at this rate move a weight by up to 2e-2
    assert all(w.abs().max() > 0 for w in weights(tmp_path / "whole").values())
    assert not any((tmp_path / "whole").glob("*checkpoint*"))


def test_rows_are_counted_once_in_however_many_pairs_they_stand(labels: Path, base: Path, tmp_path: Path) -> None:
    setup = config(labels, base, tmp_path / "run", method="contrastive", max_steps=1)
    summary = train_command(setup)
    paired = pairs([row for row in read_rows(labels) if row["split"] == "train"], "all")
    rows = {row["id"] for pair in paired for row in pair.rows}
    assert len(paired) != len(rows)
    assert f"trained on {len(rows)} rows in {len(paired)} groups" in summary
    found = done(tmp_path / "run")
    assert (found["rows"], found["samples"], found["groups"]) == (len(rows), len(paired), len(paired))


def test_long_rows_are_counted_and_left_out_not_cut(labels: Path, base: Path, tmp_path: Path) -> None:
    rows = [r for r in read_rows(labels) if r["split"] == "train"]
    tokens = Tokens(rows, load_policy(str(base)).tokenizer)
    lengths = sorted(tokens.length(r) for r in rows)
    most = lengths[len(rows) // 2]
    fit = [r for r in rows if tokens.length(r) <= most]
    setup = config(labels, base, tmp_path / "run", method="mle", max_steps=0, num_train_epochs=1.0, max_length=most)
    summary = train_command(setup)
    found = done(tmp_path / "run")
    assert (found["rows"], found["too_long"]) == (len(fit), len(rows) - len(fit))
    assert found["tokens"] == sum(tokens.length(r) for r in fit)  # one epoch: each of them once, whole
    assert f"trained on {len(fit)} rows" in summary
    assert f"{len(rows) - len(fit)} too long" in summary
    with pytest.raises(SteerError, match=rf"all {len(rows)} rows are longer than 3 tokens \(--max-length"):
        train_command(replace(setup, output=str(tmp_path / "none"), max_length=3))
    assert not (tmp_path / "none").exists()


def test_a_model_without_the_positions_lowers_the_maximum(labels: Path, base: Path, tmp_path: Path) -> None:
    model = tmp_path / "short"
    policy = load_policy(str(base))
    policy.model.config.max_position_embeddings = 40
    policy.model.save_pretrained(model)
    policy.tokenizer.save_pretrained(model)
    train_command(config(labels, model, tmp_path / "run", method="mle", max_steps=1))
    train_command(config(labels, base, tmp_path / "same", method="mle", max_steps=1, max_length=40))
    assert done(tmp_path / "run")["too_long"] == done(tmp_path / "same")["too_long"] > 0


def test_metrics_say_what_happened_in_every_logged_step(labels: Path, base: Path, tmp_path: Path) -> None:
    setup = config(labels, base, tmp_path, max_steps=7, logging_steps=3)
    train_command(setup)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [3, 6, 7]
    for line in lines:
        assert set(line) == {"step", "loss", "grad_norm", "learning_rate", "tokens", "seconds"}
        assert line["learning_rate"] == learning_rate(line["step"] - 1, 7, setup)
        assert line["loss"] > 0 < line["grad_norm"]
    assert lines[0]["tokens"] < lines[1]["tokens"] < lines[2]["tokens"] == done(tmp_path)["tokens"]
    assert lines[-1]["loss"] == done(tmp_path)["loss"]


def command(setup: TrainConfig) -> list[str]:
    usual = TrainConfig(setup.rows, "", "")
    told = [(x.name, getattr(setup, x.name)) for x in fields(setup) if getattr(setup, x.name) != getattr(usual, x.name)]
    each = ((name, one) for name, value in told for one in (value if isinstance(value, tuple) else (value,)))
    flags = ([f"--{name.replace('_', '-')}", str(value)] for name, value in each)
    return ["train", setup.rows, *chain(*flags)]


# Commands, one after the other; the first dies before its fifth step where that is wanted.
WORKER = """
import json, os, signal, sys, time
from accelerate.state import PartialState
from steer.cli import cli
from steer.training import checkpoint, loop

def step(self, module, optimizer, number, *rest, whole=loop.Loop._step):
    if number == 4 and "KILLED" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, module, optimizer, number, *rest)

def take_best(*given, whole=checkpoint.take_best):
    time.sleep(PartialState().process_index)  # the first is done by then
    whole(*given)

loop.Loop._step, checkpoint.take_best = step, take_best
for words in map(json.loads, sys.argv[1:]):
    cli(words, standalone_mode=False)
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[str]]]:
    """Run `steer train` for setups, one after the other, in processes of their own; return the lines they print.

    The last line is `ended` and the worst exit code. See forked.py.
    """
    folder, here = tmp_path_factory.mktemp("launched"), Path(__file__).parent
    (folder / "worker.py").write_text(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])}
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(here / "forked.py")], env=environment, **streams) as server:

        def launch(*setups: TrainConfig, count: int, **variables: str) -> list[str]:
            assert server.stdin
            assert server.stdout
            words = [json.dumps(command(setup)) for setup in setups]
            asked = {"script": str(folder / "worker.py"), "words": words, "variables": variables, "count": count}
            print(json.dumps(asked), file=server.stdin, flush=True)
            printed: list[str] = []
            while not printed or not printed[-1].startswith("ended "):
                line = server.stdout.readline()
                assert line, printed
                printed += [line.strip()] if line.strip() else []
            return printed

        yield launch


def test_a_killed_run_ends_bit_equal_to_a_whole_one(
    labels: Path, base: Path, launched: Callable[..., list[str]], tmp_path: Path
) -> None:
    more = {"max_steps": 9, "save_steps": 3, "logging_steps": 2, "lora_dropout": 0.1, "micro_batch_tokens": 500}
    setup = config(labels, base, tmp_path / "killed", **more)
    assert launched(setup, count=1, KILLED="1")[-1] == f"ended {signal.SIGKILL:d}"
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-3"]
    assert not (tmp_path / "killed" / "done.json").exists()
    train_command(setup)
    train_command(replace(setup, output=str(tmp_path / "whole")))
    assert_close(tmp_path / "killed", tmp_path / "whole", 0.0)
    resumed, whole = ([line | {"seconds": 0} for line in metrics(tmp_path / x)] for x in ("killed", "whole"))
    assert resumed == whole
    assert done(tmp_path / "killed")["tokens"] == done(tmp_path / "whole")["tokens"]
    assert not any((tmp_path / "killed").glob("*checkpoint*"))


def test_a_finished_run_is_not_run_again(labels: Path, base: Path, tmp_path: Path) -> None:
    setup = config(labels, base, tmp_path)
    summary = train_command(setup)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert train_command(setup) == summary
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    with pytest.raises(SteerError, match=r"other settings \(seed\)"):
        train_command(replace(setup, seed=1))


@pytest.fixture(scope="module")
def two(
    labels: Path, base: Path, launched: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    """Runs of two processes beside each other: two, killed (and taken up again), best, kto, bco. The first's setup."""
    folder = tmp_path_factory.mktemp("processes")
    setup = config(labels, base, folder / "two", save_steps=2, logging_steps=1, micro_batch_tokens=300)
    killed = replace(setup, output=str(folder / "killed"))
    more: dict[str, Any] = {"held_out": 0.2, "eval_steps": 1, "early_stopping": 2, "max_steps": 2}
    best = config(labels, base, folder / "best", **more)
    thumbs = [replace(setup, output=str(folder / name), method=name, set=("beta=1",)) for name in ("kto", "bco")]
    assert launched(killed, count=2, KILLED="1")[-1] == f"ended {signal.SIGKILL:d}"
    assert [path.name for path in (folder / "killed").glob("checkpoint-*")] == ["checkpoint-4"]
    *printed, ended = launched(setup, killed, best, *thumbs, count=2)
    assert ended == "ended 0"
    summaries = [done(folder / name)["summary"] for name in ("two", "killed", "best", "kto", "bco")]
    assert sorted(printed) == sorted("\n".join(summaries).splitlines())  # each once
    return setup


def test_two_processes_learn_what_one_learns(two: TrainConfig, tmp_path: Path) -> None:
    folder, one = Path(two.output), tmp_path / "one"
    train_command(replace(two, output=str(one)))
    assert_close(folder, one, 1e-5)
    facts = done(folder)
    assert (facts["processes"], facts["tokens"]) == (2, done(one)["tokens"])
    assert "2 processes" in facts["summary"]
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4, 5, 6]
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in one.iterdir())


@pytest.mark.parametrize("method", ["kto", "bco"])
def test_what_gains_are_compared_with_is_of_all_processes(two: TrainConfig, tmp_path: Path, method: str) -> None:
    """The mean gain of mismatched pairs of the step, and the moving means of good and bad ones."""
    folder = Path(two.output).parent / method
    one = replace(two, output=str(tmp_path / "one"), method=method, set=("beta=1",))
    train_command(one)
    assert_close(folder, tmp_path / "one", 1e-5)
    ours, theirs = ([line["loss"] for line in metrics(x)] for x in (folder, tmp_path / "one"))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert done(folder)["processes"] == 2


def test_two_killed_processes_end_bit_equal_to_two_whole_ones(two: TrainConfig) -> None:
    whole, killed = Path(two.output), Path(two.output).parent / "killed"
    assert_close(killed, whole, 0.0)
    one, other = ([x | {"seconds": 0} for x in metrics(y)] for y in (killed, whole))
    assert one == other


def test_every_process_takes_the_best_weights_before_they_are_cleared_away(two: TrainConfig) -> None:
    """Also the last one, which reads them a second after the others: otherwise that run had failed."""
    facts = done(Path(two.output).parent / "best")
    assert (facts["processes"], facts["steps"]) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_two_machines_learn_what_two_processes_learn(two: TrainConfig, shared: bool, tmp_path: Path) -> None:
    """Of one process each, which meet at an address; a folder that only one of them sees is refused."""
    held = socket.socket()  # bound but not listening, so nobody else is given the port before the first machine listens
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("", 0))
    port = held.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(port), "--node_rank"]
    running = []
    for rank in ("0", "1"):
        (place := tmp_path / ("both" if shared else rank)).mkdir(exist_ok=True)
        words = [*launch, rank, "-m", "steer", *command(replace(two, output="run"))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(words, cwd=place, env=environment, **streams))
    said = [process.communicate(timeout=HANG) for process in running]
    held.close()
    if shared:
        assert [process.returncode for process in running] == [0, 0], said
        assert_close(tmp_path / "both" / "run", Path(two.output), 0.0)
    else:
        assert running[1].returncode != 0
        assert "run: only the first machine sees it. Put --output where all of them do." in said[1][1]


def test_fewer_processes_than_asked_for_are_refused(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_command(config(labels, base, tmp_path / "one", max_steps=1))
    monkeypatch.setenv("WORLD_SIZE", "2")  # as a launcher leaves it that did not connect the processes
    with pytest.raises(SteerError, match=r"2 processes were asked for, 1 run together\. Start them with .*torchrun"):
        train_command(config(labels, base, tmp_path / "two"))
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, r"^FSDP was asked for, .* over several GPUs only: .* Leave --use_fsdp out"),
        ({"ACCELERATE_USE_DEEPSPEED": "True"}, r"^DeepSpeed was asked for.* (Leave --use_deepspeed out|pip install)"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, r"^PARALLELISM_CONFIG is not supported: .* Use FSDP2"),
        (
            {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"},
            r"one process on a CPU, .*torchrun --nproc_per_node",
        ),
    ],
)
def test_launchers_that_would_be_passed_over_in_silence_are_refused(
    environment: dict[str, str], wanted: str, labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `accelerate launch --use_fsdp`, and `--cpu --num_processes 2`, leave in the environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SteerError, match=wanted):
        train_command(config(labels, base, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        *[("batch_size", -1, "0 or more"), ("learning_rate", math.nan, "above 0"), ("learning_rate", -1.0, "above 0")],
        *[
            ("num_train_epochs", -1.0, "0 or more"),
            ("save_steps", 0, "1 or more"),
            ("attribute_dropout", 1.5, "from 0 to 1"),
        ],
        *[("max_steps", -1, "0 or more"), ("max_grad_norm", -1.0, "0 or more"), ("held_out", -0.1, "from 0 to 1")],
    ],
)
def test_numbers_that_cannot_be_are_refused(
    labels: Path, base: Path, tmp_path: Path, name: str, value: float, wanted: str
) -> None:
    with pytest.raises(SteerError, match=rf"^--{name.replace('_', '-')} {value}: wanted {wanted}\.$"):
        train_command(config(labels, base, tmp_path / "run", **{name: value}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "method",  # those that want more than logs have tests of their own
    [name for name in METHODS if not METHODS[name].importance and METHODS[name].rows != "logs and draws"],
)
def test_every_method_trains_on_logs_with_two_responses_a_prompt(
    method: str, labels: Path, base: Path, tmp_path: Path
) -> None:
    train_command(
        TrainConfig(str(labels), str(base), str(tmp_path), method, max_steps=2, logging_steps=1, max_new_tokens=12)
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
    card = load_policy(str(tmp_path)).card
    assert card is not None
    assert (card.method, bool(card.attributes)) == (method, METHODS[method].conditioned)


@pytest.mark.parametrize("method", ["dpo", "rrhf", "rloo"])
def test_one_prompt_for_all_candidates_teaches_the_same(method: str, labels: Path, base: Path, tmp_path: Path) -> None:
    for plain in (True, False):
        how: dict[str, Any] = {
            "max_steps": 3,
            "logging_steps": 1,
            "batch_size": 8,
            "plain_layout": plain,
            "max_new_tokens": 12,
        }
        train_command(config(labels, base, tmp_path / str(plain), method=method, **how))
    plain, shared = ([(m["loss"], m["grad_norm"]) for m in metrics(tmp_path / name)] for name in ("True", "False"))
    assert len(plain) == 3
    np.testing.assert_allclose(shared, plain, rtol=2e-4)


def test_a_model_that_cannot_share_prompts_says_so(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ResponseLogps, "shares_prompts", lambda self: False)
    train_command(config(labels, base, tmp_path / "run", method="dpo", max_steps=1))
    assert "LlamaForCausalLM takes no mask per candidate; each has its own prompt and row." in capsys.readouterr().err
