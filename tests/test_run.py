"""Run folders: what they hold when, and what they refuse."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import attribute_models
from steer.errors import SteerError
from steer.progress import Step
from steer.run_folder import (
    Run,
    files_in,
    fingerprint,
    folder_errors,
    follows,
    read_json,
    workplace,
    write_json,
    write_text,
)


@dataclass(frozen=True)
class Config:
    output: str
    rows: str = ""
    rate: float = 0.1
    names: tuple[str, ...] = ("a",)
    overwrite: bool = False


def started(config: Config, **inputs: str) -> Run:
    run = Run(config.output, config, inputs)
    run.start()
    return run


def refusal(config: Config, **inputs: str) -> str:
    with pytest.raises(SteerError) as caught:
        Run(config.output, config, inputs)
    return str(caught.value)


def test_hashing_counts_bytes_and_no_more_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of each small file would count as a whole MiB."""
    counted, update = list[int](), Step.update

    def counting(step: Step, n: int = 1) -> None:
        counted.append(n)
        update(step, n)

    monkeypatch.setattr(Step, "update", counting)
    for i in range(8):
        (tmp_path / f"{i}.bin").write_bytes(bytes(3 << 18))
    fingerprint(tmp_path)
    assert sum(counted) == 8 * 3 / 4


def test_nothing_is_written_before_start_and_done_comes_last(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "deep" / "run"))
    run = Run(config.output, config)
    assert not (tmp_path / "deep").exists()
    assert run.done is None
    run.start()
    assert files_in(run.folder) == [run.folder / "config.json"]
    assert json.loads((run.folder / "config.json").read_text()) == {
        "rows": "", "rate": 0.1, "names": ["a"], "inputs": {}
    }  # fmt: skip
    write_text(run.folder / "rows.jsonl", "{}\n")
    assert Run(config.output, config).done is None
    assert run.finish("all well", rows=3) == "all well"
    assert Run(config.output, config).done == {"summary": "all well", "rows": 3}


def test_a_run_resumes_under_the_same_settings_wherever_it_lies(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "run"))
    started(config, rows="0123").finish("done")
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = Run(tmp_path / "moved", replace(config, output=str(tmp_path / "moved")), {"rows": "0123"})
    assert moved.done == {"summary": "done"}


def test_a_run_goes_on_though_a_setting_was_not_there_yet_when_it_began(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "run"))
    started(config).finish("done")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "rate"}))
    assert Run(config.output, config).done == {"summary": "done"}
    assert "other settings (rate)" in refusal(replace(config, rate=0.2))


def test_a_folder_with_other_settings_is_refused_and_they_are_named(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "run"))
    started(config, rows="0123")
    message = refusal(replace(config, rate=0.2, names=("b",)), rows="0123")
    assert message.startswith(f"{config.output}: holds a run with other settings (names, rate).")
    assert "--overwrite" in message
    assert "--config" in message
    moved = refusal(config, rows="4567")
    assert "(inputs.rows)" in moved
    assert "--config" not in moved, "no settings bring them back"


def test_what_a_killed_process_left_half_written_is_nothing(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "run"))
    before = fingerprint(tmp_path) if (tmp_path / "run").mkdir() is None else ""
    (tmp_path / "run" / ".config.json.123.tmp").write_text('{"ra')
    assert fingerprint(tmp_path) == before
    started(config).finish("done")
    assert Run(config.output, config).done == {"summary": "done"}


def test_two_machines_whose_processes_have_one_id_write_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with attribute_models.replacing(path) as one:
        one.write(b"one")
        with attribute_models.replacing(path) as other:
            other.write(b"the other")
        one.flush()
        assert path.read_bytes() == b"the other"
    assert path.read_bytes() == b"one", "of the one that ended last"
    path.with_name("plain").write_bytes(b"")
    assert path.stat().st_mode == path.with_name("plain").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain", "rows.jsonl"]


def test_settings_that_are_free_may_change_and_then_the_run_is_not_done(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "run"), rate=0.1)
    started(config).finish("old")
    more = replace(config, rate=0.2)
    assert "(rate)" in refusal(more)
    run = Run(config.output, more, {}, free=("rate",))
    assert run.done is None
    assert (tmp_path / "run" / "done.json").is_file()  # a bad input found now would have cost nothing
    run.start()
    assert Run(config.output, more, {}, free=("rate",)).done is None  # not even after a kill
    assert "(names)" in refusal(replace(more, names=("b",)))
    assert run.finish("new") == "new"


def test_overwrite_empties_a_run_folder_once_the_inputs_are_good(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "run"), rate=0.1)
    started(config).finish("old")
    (tmp_path / "run" / "rows.jsonl").write_text("old")
    again = Run(config.output, replace(config, rate=0.2, overwrite=True))
    assert again.done is None
    assert (tmp_path / "run" / "rows.jsonl").is_file()  # a bad input found now would have cost nothing
    again.start()
    assert files_in(again.folder) == [again.folder / "config.json"]
    assert read_json(tmp_path / "run" / "config.json")["rate"] == 0.2


def test_of_the_processes_of_a_training_only_the_first_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")  # as torchrun does
    assert follows()
    with workplace(tmp_path / "run", Config(""), {}, main=not follows()):
        assert not (tmp_path / "run").exists()
    monkeypatch.setenv("RANK", "0")
    with workplace(tmp_path / "run", Config(""), {}, main=not follows()):
        assert (tmp_path / "run" / "config.json").is_file()


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("name", ["thesis.txt", "config.json"])
def test_a_folder_with_foreign_files_is_refused_and_left_alone(tmp_path: Path, name: str, overwrite: bool) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text('{"model_type": "llama"}')  # a model's folder has a config.json too
    message = refusal(Config(str(folder), overwrite=overwrite))
    assert message == f"{folder}: holds files that are no run of steer. Choose another --output."
    assert (folder / name).read_text() == '{"model_type": "llama"}'


def test_an_empty_folder_is_welcome(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    started(Config(str(tmp_path / "empty")))
    assert (tmp_path / "empty" / "config.json").is_file()


def test_overwrite_does_not_remove_what_it_reads(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "run"))
    started(config)
    (tmp_path / "run" / "rows.jsonl").write_text("{}")
    for rows in (config.output, f"{config.output}/rows.jsonl"):
        message = refusal(replace(config, rows=rows, overwrite=True))
        assert message == f"{config.output}: --overwrite would remove its own rows. Choose another --output."


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert refusal(Config(str(tmp_path / "file"))) == f"{tmp_path / 'file'}: is a file. Choose another --output."
    with pytest.raises(SteerError, match=r"cannot be written \(.+\)\. Choose another --output\."):
        started(Config(str(tmp_path / "file" / "run")))


def test_a_broken_record_of_a_run_is_named(tmp_path: Path) -> None:
    started(Config(str(tmp_path / "run")))
    (tmp_path / "run" / "config.json").write_text('{"rate": ')
    assert f"{tmp_path / 'run' / 'config.json'}: not valid JSON" in refusal(Config(str(tmp_path / "run")))


def test_writes_are_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.json"
    write_json(path, {"é": [1, None]})
    assert read_json(path) == {"é": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")  # breaks off in the middle of the write
    assert read_json(path) == {"é": [1, None]}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_what_the_file_system_refuses_becomes_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="cannot be written"), folder_errors(tmp_path):
        (tmp_path / "none" / "x").write_text("x")
    with pytest.raises(SteerError, match=r"no-such\.json: no such file"):
        read_json(tmp_path / "no-such.json")


def test_a_fingerprint_changes_with_the_content_and_only_with_it(tmp_path: Path) -> None:
    rows, copy = tmp_path / "rows.jsonl", tmp_path / "copy" / "rows.jsonl"
    copy.parent.mkdir()
    rows.write_text("one\n")
    copy.write_text("one\n")
    before = fingerprint(rows)
    assert before == fingerprint(copy) == fingerprint(str(rows))
    rows.write_text("two\n")
    assert fingerprint(rows) != before
    folder = fingerprint(copy.parent)
    (copy.parent / "more").write_text("x")
    assert fingerprint(copy.parent) != folder


def test_a_fingerprint_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="none: no such file or folder"):
        fingerprint(tmp_path / "none")
    with pytest.raises(SteerError, match="stdin can be read only once"):
        fingerprint("-")
