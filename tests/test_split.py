"""Drawing in parts: by several processes, by shards, killed and run again; always the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import alive, until

from steer.config.generation import GenerateConfig
from steer.errors import SteerError
from steer.generation.command import generate_command
from steer.generation.generate import generate
from steer.generation.requests import Request, seeds
from steer.models.policy import Policy
from steer.parts import Parts, Task, Workers, fill
from steer.rows import Row, read_rows
from steer.run_folder import read_json, write_json


def ask(policy: Path, **more: Any) -> str:
    return generate_command(
        GenerateConfig(str(policy), **{"prompt": ("tell me about bees.",), "max_new_tokens": 12} | more)
    )


def test_any_split_of_the_drawing_gives_the_same_bytes(trained: Path, labels: Path, tmp_path: Path) -> None:
    def drawn(name: str, **more: Any) -> Path:
        asked = {"prompt": (), "input": str(labels), "limit": 5, "target": ("best", "none"), "n": 3, "shard_size": 7}
        ask(trained, **asked | {"output": str(tmp_path / name / "run")} | more)
        return tmp_path / name / "run"

    one = drawn("one")
    whole = (one / "rows.jsonl").read_bytes()
    two = drawn("two", num_proc=2)
    for i in (2, 1):
        drawn("shards", shard=f"{i}/2")
        facts = json.loads((tmp_path / "shards" / "run" / "parts" / f"done-{i}-of-2.json").read_text())
        assert facts == {"parts": {2: 2, 1: 3}[i], "of": 5}
        assert (tmp_path / "shards" / "run" / "done.json").is_file() == (i == 1), "the last one writes the rows"
    for other in (two, tmp_path / "shards" / "run"):
        assert (other / "rows.jsonl").read_bytes() == whole
        for path in one.glob("parts/*.jsonl"):
            assert (other / "parts" / path.name).read_bytes() == path.read_bytes()
    cut = drawn("cut", shard_size=4, output_shards=2)  # other batches: the same but for rounding
    assert b"".join(path.read_bytes() for path in sorted(cut.glob("rows-*.jsonl"))) == whole
    responses = [row["response"] for row in read_rows(one)]
    assert len(set(responses)) > len(responses) / 2, "seeds differ within a part and between parts"


def said(rows: list[Row]) -> dict[tuple[str, str], list[str]]:
    """The responses to each prompt at each target, in their order."""
    responses: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        responses.setdefault((row["prompt"][0]["content"], row.get("asked", "")), []).append(row["response"])
    return responses


def test_a_prompt_gets_the_same_draws_whatever_else_is_asked(policy: Policy, tmp_path: Path) -> None:
    how: dict[str, Any] = {"targets": ["none", "verbosity=0"], "n": 2, "max_new_tokens": 12, "temperature": 1.0}
    prompts = ["one?", "tell me about bees.", "what is honey?", "one?"]
    whole = said(generate(policy, prompts, **how))
    assert len({text for responses in whole.values() for text in responses}) > 9, "they differ"
    assert len(whole["one?", ""]) == 4
    assert whole["one?", ""][:2] != whole["one?", ""][2:], "the second time others are drawn"
    assert said(generate(policy, prompts[::-1], **how)) == whole
    assert said(generate(policy, prompts, **how, folder=tmp_path / "run", shard_size=3)) == whole
    few = said(generate(policy, prompts[1:3], **how, batch_size=1))
    assert few == {key: whole[key] for key in few}
    assert len(few) == 4
    more = said(generate(policy, prompts[1:], **{**how, "n": 3, "targets": ["none", "verbosity=0", "best"]}))
    assert {key: more[key][:2] for key in few} == few, "more samples and targets at the end are added"
    assert said(generate(policy, prompts, **how, seed=1)) != whole


def test_samples_of_a_prompt_have_seeds_of_their_own() -> None:
    rows = [{"id": str(i), "prompt": [{"role": "user", "content": text}]} for i, text in enumerate("aba")]
    aims: list[dict[str, float]] = [{"words": 1.0}, {}]
    requests = [Request(row, aim) for row in rows for aim in aims for _ in range(3)]
    found = list(seeds(requests, 7))
    assert len({*found}) == len(found) == 18
    assert list(seeds([Request(row, {}) for row in rows], 7)) == [found[0], found[6], found[1]], "the first target"
    assert list(seeds([requests[0]._replace(seed=5), requests[0]], 7)) == [5, found[0]], "its own is kept"


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["a process that draws", "the command"])
def test_drawing_that_is_killed_goes_on_to_the_same_bytes(
    killed: str, trained: Path, labels: Path, tmp_path: Path
) -> None:
    words = ["generate", str(trained), "--input", str(labels), "--limit", "40", "--n", "4", "--shard-size", "4"]
    words += ["--max-new-tokens", "60", "--num-proc", "2", "--output"]
    steer = [sys.executable, "-m", "steer", *words]
    out = tmp_path / "killed" / "run"
    process = subprocess.Popen([*steer, str(out)], stderr=subprocess.PIPE, text=True)
    until(lambda: len([*out.glob("parts/*.jsonl")]) >= 3)
    children = list(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0] if "process" in killed else process.pid, signal.SIGKILL)
    said = process.communicate()[1]
    assert ("a process that drew has died" in said) == ("process" in killed)
    until(lambda: not any(map(alive, children)))
    assert not (out / "done.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("parts/*.jsonl")}
    assert len(kept) < 40
    subprocess.run([*steer, str(out)], check=True, capture_output=True)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "nothing is drawn twice"
    one = {"prompt": (), "input": str(labels), "limit": 40, "n": 4, "shard_size": 4, "max_new_tokens": 60}
    ask(trained, **one, output=str(tmp_path / "whole" / "run"))
    assert (out / "rows.jsonl").read_bytes() == (tmp_path / "whole" / "run" / "rows.jsonl").read_bytes()


def test_no_more_processes_start_than_a_shard_has_parts_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(tmp_path, 4, 30, ".json", (1, 3))  # 8 parts, of which 1, 4 and 7 are of this shard
    task, four = Task("score", "scored"), Workers(4)
    assert (parts.busy(four, task).number, parts.busy(Workers(2), task).number) == (3, 2)
    assert "score: 3 of 4 processes have work, for --shard-size, what one does at a time, is 4 rows." in (
        capsys.readouterr().err
    )
    for index in (0, 2, 3, 4):
        write_json(parts.path(index), [])
    assert parts.busy(four, task).number == 2, "those of other shards do not count"
    fill(parts, range(30), lambda: lambda index, part: [index, part], parts.busy(Workers(1), task), write_json, task)
    assert read_json(parts.path(7)) == [7, [28, 29]]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"{i:05d}.json" for i in (0, 1, 2, 3, 4, 7)]
    monkeypatch.setattr("steer.parts.results", None)  # whatever would work
    fill(parts, range(30), lambda: None, parts.busy(four, task), write_json, task)  # type: ignore[arg-type,return-value]


def test_what_several_processes_need_is_said(trained: Path, policy: Policy, base: Path, tmp_path: Path) -> None:
    for more in ({"num_proc": 2}, {"shard": "1/2"}, {"workers": "ray"}):
        with pytest.raises(SteerError, match="need an --output folder for what they draw"):
            ask(trained, **more)
    with pytest.raises(SteerError, match="Start one for each GPU instead of --num-proc"):
        ask(trained, num_proc=2, engine="vllm", output=str(tmp_path / "out"))
    with pytest.raises(SteerError, match="wanted i/n with i from 1 to n"):
        ask(trained, shard="3/2", output=str(tmp_path / "out"))
    with pytest.raises(SteerError, match=r"other processes load the policy\. Give its name or folder"):
        generate(policy, ["one?"], num_proc=2, folder=tmp_path / "out")
    with pytest.raises(SteerError, match="need a folder for what they draw"):
        generate(str(trained), ["one?"], num_proc=2)


@pytest.mark.slow
def test_why_a_process_cannot_draw_is_said_by_itself(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "policy")
    (tmp_path / "policy" / "model" / "model.safetensors").unlink()
    with pytest.raises(SteerError, match="the folder holds no model that can be read"):  # what the process itself says
        generate(str(tmp_path / "policy"), ["one?"] * 3, num_proc=2, shard_size=2, folder=tmp_path / "out")
