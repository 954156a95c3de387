"""Run folders under attack: edited inputs, two processes, killed ones, full disks."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANG
from safetensors import SafetensorError
from test_run import Config, started

from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.labelling.command import fit_command, label_command
from steer.labelling.scorer import load_scorer
from steer.rows.command import data_command
from steer.run_folder import LOCK, files_in, fingerprint, read_json, rows_fingerprint, stage


def test_a_run_is_known_by_the_content_of_what_is_read_of_it(tmp_path: Path) -> None:
    run = started(Config(str(tmp_path / "run")))
    (run.folder / "rows.jsonl").write_text("one\n")
    run.finish("done in 3 s", rows=1, seconds=3.0, scorer="linear:1")
    before = fingerprint(run.folder)
    (run.folder / "parts").mkdir()
    (run.folder / "parts" / "00000.npy").write_bytes(b"on the way")  # is not read
    run.finish("done in 4 s", rows=1, seconds=4.0, scorer="linear:1")
    assert fingerprint(run.folder) == before  # how fast it was does not matter
    run.finish("done in 4 s", rows=1, seconds=4.0, scorer="linear:2")
    assert fingerprint(run.folder) != before
    run.finish("done in 3 s", rows=1, seconds=3.0, scorer="linear:1")
    (run.folder / "rows.jsonl").write_text("two\n")  # edited after it was done
    edited = fingerprint(run.folder)
    assert edited != before
    (run.folder / "schema.json").write_text("{}")  # is read with the rows
    assert fingerprint(run.folder) != edited


def test_a_policy_is_known_by_its_weights_and_not_by_how_fast_they_were_trained(tmp_path: Path) -> None:
    def policy(name: str, weights: bytes, seconds: float) -> str:
        run = started(Config(str(tmp_path / name)))
        for file in ("adapter_model.safetensors", "model/model.safetensors", "steer/events.1"):
            (run.folder / file).parent.mkdir(exist_ok=True)
        (run.folder / "adapter_model.safetensors").write_bytes(weights)
        (run.folder / "model" / "model.safetensors").write_bytes(weights)
        (run.folder / "steer" / "events.1").write_text(f"{seconds}")  # of a tracker
        (run.folder / "steer.json").write_text("{}")
        (run.folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": seconds}))
        run.finish(f"trained in {seconds} s", seconds=seconds)
        return fingerprint(run.folder)

    assert policy("a", b"w", 1.0) == policy("b", b"w", 2.0) != policy("c", b"v", 1.0)


def test_rows_in_a_file_are_known_with_the_schema_beside_them(tmp_path: Path) -> None:
    rows = tmp_path / "any.jsonl"
    rows.write_text("{}\n")
    alone = rows_fingerprint(str(rows))
    assert alone == fingerprint(rows)
    (tmp_path / "schema.json").write_text("{}")
    assert rows_fingerprint(str(rows)) != alone


def test_old_scores_are_not_mixed_with_rows_that_were_edited(tmp_path: Path) -> None:
    data_command(DataConfig("world", str(tmp_path / "logs"), size=40))
    asked = LabelConfig(str(tmp_path / "logs"), str(tmp_path / "labels"), scorer="countable:words", shard_size=10)
    label_command(asked)
    (tmp_path / "labels" / "done.json").unlink()  # killed at the end
    rows = tmp_path / "logs" / "rows.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[::-1]))
    with pytest.raises(SteerError, match=r"labels: holds a run with other settings \(inputs\.rows\)"):
        label_command(asked)


def test_a_scorer_that_was_edited_after_its_fit_is_refused(tmp_path: Path) -> None:
    data_command(DataConfig("world", str(tmp_path / "logs"), size=60))
    fit_command(FitConfig(str(tmp_path / "logs"), str(tmp_path / "scorer")))
    name = load_scorer(str(tmp_path / "scorer")).id
    (tmp_path / "scorer" / "README.md").write_text("my notes")
    assert load_scorer(str(tmp_path / "scorer")).id == name
    for file in ("model.json", "schema.json"):
        path = tmp_path / "scorer" / file
        whole = path.read_text()
        path.write_text(whole + " ")
        with pytest.raises(SteerError, match=rf"scorer .*scorer: {file} changed after the fit\. Restore"):
            load_scorer(str(tmp_path / "scorer"))
        path.write_text(whole)
    done = read_json(tmp_path / "scorer" / "done.json")
    del done["files"]  # as earlier versions wrote it: then the content is in the name
    (tmp_path / "scorer" / "done.json").write_text(json.dumps(done))
    assert load_scorer(str(tmp_path / "scorer")).id == name
    (tmp_path / "scorer" / "schema.json").write_text((tmp_path / "scorer" / "schema.json").read_text() + " ")
    assert load_scorer(str(tmp_path / "scorer")).id != name


def in_another_process(code: str) -> str:
    """What a process says last on standard error."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=HANG)
    return (done.stderr.strip().splitlines() or [""])[-1]


def locking(folder: str, *, shared: bool = False) -> str:
    return (
        f"from pathlib import Path\nfrom steer import run_folder as run\nrun.lock(Path({folder!r}), shared={shared})\n"
    )


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "run"))

    @stage
    def work(config: Config) -> str:
        run = started(config)
        said = in_another_process(locking(config.output))
        started(config)  # the process itself may come again
        run.finish("done")
        return said

    refused = "another process writes to it. Wait for it, or choose another --output."
    assert work(config).endswith(f"{config.output}: {refused}")
    assert in_another_process(locking(config.output)) == ""  # a stage that has ended keeps nobody out


def steer(*asked: str) -> tuple[int, str]:
    """Exit code and what a command says, both streams together."""
    command = [sys.executable, "-m", "steer", *asked]
    done = subprocess.run(command, stdout=-1, stderr=subprocess.STDOUT, text=True, check=False, timeout=HANG)
    return done.returncode, done.stdout


def test_shards_of_one_run_share_its_folder(tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows.write_text("".join(f'{{"prompt": "{i}", "response": "a", "scores": {{"q": {i % 3}}}}}\n' for i in range(9)))
    out.mkdir()
    asked = ["label", str(rows), "--output", str(out), "--shard-size", "1"]
    holding = locking(str(out), shared=True) + "print('held', flush=True)\ninput()"
    other = subprocess.Popen([sys.executable, "-c", holding], stdin=-1, stdout=-1, text=True)
    assert other.stdout
    assert other.stdout.readline() == "held\n"
    code, said = steer(*asked, "--shard", "1/2")
    assert (code, "shard 1 of 2 is scored" in said) == (0, True), said
    code, said = steer(*asked)
    assert (code, "another process writes to it" in said) == (1, True), said
    other.communicate("\n")
    assert steer(*asked)[0] == 0


def test_a_stage_that_failed_or_was_killed_keeps_nobody_out(tmp_path: Path) -> None:
    @stage
    def fails(config: Config) -> str:
        started(config)
        raise ValueError("own")

    config = Config(str(tmp_path / "run"))
    with pytest.raises(ValueError, match="own"):
        fails(config)
    in_another_process(locking(config.output) + "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert in_another_process(locking(config.output)) == ""


def test_a_start_removes_what_killed_processes_left_half_written(tmp_path: Path) -> None:
    run = started(Config(str(tmp_path / "run")))
    (run.folder / "parts").mkdir()
    (run.folder / ".checkpoint-3.tmp").mkdir()
    for name in (".rows.jsonl.1.tmp", "parts/00001.npy.2.tmp", ".checkpoint-3.tmp/weights"):
        (run.folder / name).write_text("half")
    (run.folder / "parts" / "00000.npy").write_text("whole")
    started(Config(str(tmp_path / "run")))
    left = sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob("*"))
    assert left == ["config.json", LOCK, "parts", "parts/00000.npy"]


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # how the library of tokenizers says it
    ],
)
def test_a_full_disk_is_one_sentence_wherever_a_stage_notices_it(tmp_path: Path, full: Exception) -> None:
    @stage
    def work(config: Config) -> str:
        raise full

    with pytest.raises(
        SteerError, match=r"run: cannot be written \(.+\)\. Make room and run the same command again\.$"
    ):
        work(Config(str(tmp_path / "run")))


def test_the_world_on_a_full_disk_is_one_sentence_and_resumes(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: it ends the same writes."""
    out = tmp_path / "world"
    asked = ["data", "world", "--size", "4", "--output", str(out)]
    limited = (
        "import resource, sys\nfrom steer.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))\nsys.argv[1:] = {}\nmain()"
    )
    pytest.importorskip("resource")
    said = in_another_process(limited.format(asked))
    assert said.startswith("steer: ")
    assert "Make room" in said
    assert not (out / "done.json").exists()
    code, said = steer(*asked)
    assert code == 0, said
    assert (out / "done.json").is_file()
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": Infinity}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\x00"])
def test_what_is_no_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SteerError, match=r"a\.json: not valid JSON \(.+\)\. Restore it"):
        read_json(tmp_path / "a.json")


def test_a_lock_is_a_file_that_nothing_reads_and_nobody_keeps(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "run"), overwrite=True)

    @stage
    def work(config: Config) -> list[str]:
        started(config)
        assert (tmp_path / "run" / LOCK).is_file()
        return [path.name for path in files_in(tmp_path / "run")]

    assert work(config) == ["config.json"]
    assert in_another_process(locking(config.output)) == ""
    assert work(config) == ["config.json"]
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.parametrize("more", [[], ["--shard", "1/1"]])
def test_only_trainings_know_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b c", "scores": {"q": 1}}\n' * 4)
    config = LabelConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "out"), shard="".join(more[1:]), min_support=1)
    label_command(config)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"config.json", "rows.jsonl", "done.json"}
