"""Broken and hostile input: every kind ends in one sentence, through one door, and leaves nothing behind."""

import errno
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from steer.config.generation import GenerateConfig
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.generation.command import generate_command
from steer.labelling.command import fit_command, label_command
from steer.labelling.likelihood import level_probability
from steer.labelling.scorer import load_scorer
from steer.models.card import Card
from steer.models.policy import load_policy
from steer.options import resolve
from steer.rows import read_rows
from steer.rows.command import data_command
from steer.rows.labelled import Labelled
from steer.rows.schema import Attribute, Schema
from steer.run_folder import read_json
from steer.training.command import train_command

ROW = {"prompt": "p", "response": "r", "scores": {"q": 1}}


def written(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("column", "value", "wanted"),
    [
        ("raters", [1], "'raters': holds a list, wanted an object"),
        ("raters", {"q": [10**400]}, "'raters': attribute 'q' holds .*, wanted a list of numbers or null"),
        ("scores", {"q": 10**400}, "'scores': attribute 'q' is (inf|beyond 1e\\+100)"),
        ("scores", {"q": -1e308}, "'scores': attribute 'q' is beyond 1e\\+100"),
        ("levels", {"q": -1}, "'levels': attribute 'q' is -1, but the lowest level is 0"),
        ("levels", {"q": 10**200}, "'levels': attribute 'q' is beyond"),
        ("target", {"q": -9}, "'target': attribute 'q' is -9, but the lowest level is 0"),
        ("reward", math.nan, "'reward': cannot be written as JSON"),
        ("mine", {"deep": [{"x": math.inf}]}, "'mine': cannot be written as JSON"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_and_nothing_is_written(
    tmp_path: Path, column: str, value: Any, wanted: str
) -> None:
    rows = written(tmp_path, ROW, {**ROW, "prompt": "other", column: value})
    for stage, config in (
        (data_command, DataConfig(rows, str(tmp_path / "a"))),
        (label_command, LabelConfig(rows, str(tmp_path / "b"))),
    ):
        with pytest.raises(SteerError, match=rf"rows\.jsonl:2: column {wanted}"):
            stage(config)  # type: ignore[operator]
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("kind", ["far timestamp", "bytes", "flipped bytes"])
def test_values_of_parquet_that_cannot_be_read_are_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows.parquet"
    columns: dict[str, Any] = {"prompt": ["pqrstuvw"], "response": ["r"], "q": [1]}
    if kind == "far timestamp":
        columns["at"] = pyarrow.array([2**61], pyarrow.timestamp("ms"))
    if kind == "bytes":
        columns["raw"] = [b"\xff"]
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="none", use_dictionary=False)
    if kind == "flipped bytes":
        path.write_bytes(path.read_bytes().replace(b"pqrstuvw", b"pqr\x8dtuvw"))
    with pytest.raises(
        SteerError, match=r"rows\.parquet: row 1: (holds a value that cannot be read|column 'raw': cannot)"
    ):
        read_rows(path)


def test_a_target_of_an_attribute_with_one_score_is_certain(tmp_path: Path) -> None:
    """All mass of the distribution is in the only level: log 1 = 0."""
    assert level_probability(Attribute("q", 3, 3, shown=("0",), centres=(3.0,), counts=(4,)), 3.0, 0) == 1.0
    rows = written(tmp_path, *({**ROW, "prompt": f"p{i}", "scores": {"q": 3}, "target": {"q": 0}} for i in range(20)))
    label_command(LabelConfig(rows, str(tmp_path / "labels")))
    assert {row["likelihood"] for row in read_rows(tmp_path / "labels")} == {0.0}


def test_a_target_at_a_level_that_does_not_exist_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    rows = written(
        tmp_path,
        *({"id": f"{i}", **ROW, "prompt": f"{i}", "scores": {"q": i % 5}, "target": {"q": i}} for i in range(9)),
    )
    with pytest.raises(SteerError, match=r"row '5': column 'target': the level 5 of 'q' does not exist; .* 0 to 4"):
        label_command(LabelConfig(rows, str(tmp_path / "labels")))
    assert not (tmp_path / "labels").exists()


def test_levels_of_rows_that_the_schema_beside_them_lacks_are_refused(labels: Path, tmp_path: Path) -> None:
    shutil.copytree(labels, tmp_path / "labels")
    rows = read_rows(labels)
    name = next(iter(rows[0]["levels"]))
    rows[0]["levels"][name] = 99
    written(tmp_path / "labels", *rows)
    with pytest.raises(SteerError, match=rf"row '.+': the level 99 of '{name}' does not exist"):
        Labelled.read(str(tmp_path / "labels"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[" * 2000, "is too deep"),
        ("seed: " + "9" * 5000, "is not JSON or YAML text"),
        ("seed: 0x" + "f" * 5000, "--seed: wanted a number that 64 bits hold"),
        ("seed: 18446744073709551616", "--seed: wanted a number that 64 bits hold"),
        ("seed: -1", "--seed -1: wanted 0 or more"),
        ("held_out: " + "9" * 400, "held_out a huge number: wanted a number that can be computed with"),
        ('output: "a\\0b"', "--output 'a.x00b': holds a NUL"),
        ('{"output": "\\ud800"}', "--output .*: holds a NUL or a character that is no Unicode"),
        ('lower: ["a\\0b"]', "--lower .*: holds a NUL"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nlower: [*b,*b,*b,*b,*b,*b,*b,*b,*b]",
            "unknown key",
        ),
        ("lower: &a [*a]", r"lower \[\[.*: wanted text"),
    ],
)
def test_a_value_of_a_config_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, wanted: str) -> None:
    file = tmp_path / ("config.json" if text[0] == "{" else "config.yaml")
    file.write_text(text)
    with pytest.raises(SteerError, match=wanted):
        resolve(LabelConfig, {"rows": "r", **({} if "output" in text else {"output": "o"})}, str(file))


def test_names_that_no_file_can_have_are_refused_in_the_library_too(tmp_path: Path) -> None:
    for output in ("a\0b", "half \ud800"):
        with pytest.raises(SteerError, match="holds a NUL or a character that is no Unicode"):
            label_command(LabelConfig(written(tmp_path, ROW), output))


def changes(value: Any) -> Iterator[Any]:
    """A JSON value with one part dropped, of another type or beyond its range, for each part of it."""
    bad: list[Any] = [None, [], {}, "x", -1, 10**30, math.nan, [[1]], True]
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: other} for other in bad)
            yield from ({**value, key: other} for other in changes(inner))
    if isinstance(value, list):
        for i in range(min(len(value), 2)):
            yield value[:i] + value[i + 1 :]
            yield from ([*value[:i], other, *value[i + 1 :]] for other in [*bad, *changes(value[i])])
        yield value[::-1]


def used(schema: Schema) -> None:
    """What commands do with a schema."""
    schema.levels(dict.fromkeys(schema.names, 1.0))
    schema.supported(schema.names)
    schema.text({a.name: 0 for a in schema.attributes if a.shown})


def test_every_edit_of_a_policys_card_is_refused_or_harmless(trained: Path, tmp_path: Path) -> None:
    whole = read_json(trained / "steer.json")
    refused = 0
    for edited in changes(whole):
        (tmp_path / "steer.json").write_text(json.dumps(edited))
        try:
            card = Card.load(tmp_path)
        except SteerError:
            refused += 1
            continue
        assert isinstance(card.base, str)
        if card.schema:
            used(card.schema)
    assert refused > 500


def test_every_edit_of_a_schema_is_refused_or_harmless(labels: Path, tmp_path: Path) -> None:
    whole = read_json(labels / "schema.json")
    whole["attributes"], whole["cells"] = whole["attributes"], whole["cells"][:3]
    refused = 0
    for edited in changes(whole):
        (tmp_path / "schema.json").write_text(json.dumps(edited))
        try:
            used(Schema.load(tmp_path / "schema.json"))
        except SteerError:
            refused += 1
    assert refused > 300


@pytest.mark.parametrize("edges", [[0.5, math.nan], [1.5, 0.5], [0.5, 0.5], ["a"], [math.inf]])
def test_edges_that_do_not_rise_are_refused(edges: list[Any]) -> None:
    levels = {"shown": ["0", "1", "2"][: len(edges) + 1], "centres": [0, 1, 2][: len(edges) + 1], "counts": [1, 1, 1]}
    levels["counts"] = levels["counts"][: len(edges) + 1]
    with pytest.raises(ValueError, match="edges"):
        Schema.from_json({"attributes": [{"name": "q", "low": 0, "high": 2, "edges": edges, **levels}]})


def test_every_edit_of_a_fitted_scorer_is_one_sentence(tmp_path: Path) -> None:
    data_command(DataConfig("world", str(tmp_path / "logs"), size=60))
    fit_command(FitConfig(str(tmp_path / "logs"), str(tmp_path / "scorer")))
    path = tmp_path / "scorer" / "model.json"
    whole = read_json(path)
    for edited in changes(whole):
        path.write_text(json.dumps(edited))
        with pytest.raises(SteerError, match=r"model\.json changed after the fit"):
            load_scorer(str(tmp_path / "scorer"))
    done = tmp_path / "scorer" / "done.json"
    done.write_text(json.dumps({"summary": ""}))  # as earlier versions left it, without hashes
    for edited in changes(whole):
        path.write_text(json.dumps(edited))
        with suppress(SteerError):
            load_scorer(str(tmp_path / "scorer"))


def test_weights_that_are_no_numbers_are_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "policy")
    path = tmp_path / "policy" / "model" / "model.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if "mlp" in n)
    tensors[name].view(-1)[3] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(SteerError, match="its weights hold NaN or infinity"):
        load_policy(str(tmp_path / "policy"))


def test_a_run_that_is_not_finished_is_no_model_and_the_sentence_says_how_to_finish_it(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("steer.models.policy.Policy.save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_command(TrainConfig(str(labels), str(base), str(tmp_path / "run"), max_steps=1))
    for finished in (False, True):
        if finished:
            (tmp_path / "run" / "done.json").write_text('{"summary": ""}')
        unfinished = r"is not finished and has no resume point .* Finish its training: \"steer train --config .+"
        wanted = "holds no policy" if finished else unfinished
        with pytest.raises(SteerError, match=rf"model '.*run': is a run of steer that {wanted}"):
            generate_command(GenerateConfig(str(tmp_path / "run"), prompt=("Hello.",)))


def test_resume_points_that_a_killed_process_left_beside_a_finished_policy_are_cleared_on_the_next_visit(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = TrainConfig(str(labels), str(base), str(tmp_path / "run"), max_steps=2, save_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr("steer.training.checkpoint.clear", lambda _: None)  # killed before it
        summary = train_command(asked)
    assert list((tmp_path / "run").glob("checkpoint-*"))
    assert train_command(asked) == summary
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_damaged_resume_point_is_named(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = TrainConfig(str(labels), str(base), str(tmp_path / "run"), max_steps=2, save_steps=1)
    monkeypatch.setattr("steer.training.checkpoint.clear", lambda _: None)
    train_command(asked)
    (tmp_path / "run" / "done.json").unlink()
    [point] = (tmp_path / "run").glob("checkpoint-*")
    (point / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(SteerError, match=r"checkpoint-\d+: cannot be read .* Remove it, and run"):
        train_command(asked)


# Text of every kind, lone surrogates and NUL too; numbers of every kind.
TEXTS = st.text(st.characters(), max_size=8)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**30), 1e308, 5e-324])
VALUES: Any = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
COLUMNS = ("prompt", "response", "scores", "raters", "levels", "target", "group", "id", "split", "reward", "messages")
COLUMNS += (
    "chosen",
    "rejected",
    "conversations",
    "completion",
    "finished",
    "preference",
    "weight",
    "quality",
    "source",
)
ROWS = st.builds(
    lambda row, odd: {**row, **odd}, st.just(ROW), st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=3)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS | VALUES, min_size=1, max_size=4))
def test_whatever_rows_hold_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = written(folder, *rows)
    for stage, config in (
        (data_command, DataConfig(path, str(folder / "data"), bad="skip")),
        (data_command, DataConfig(path, str(folder / "strict"))),
        (label_command, LabelConfig(path, str(folder / "labels"))),
    ):
        try:
            stage(config)  # type: ignore[operator]
        except SteerError:
            assert not (folder / config.output / "config.json").exists()
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["config.yaml", "config.json"])
def test_a_name_that_is_given_twice_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text('{"rows": "r", "seed": 1, "output": "o", "seed": 2}')
    with pytest.raises(SteerError, match=rf"{name}: gives 'seed' twice\. Keep one of them\."):
        resolve(LabelConfig, {}, str(file))
    for kind in ("judge", "simulated"):
        rubrics = tmp_path / "rubrics.yaml"
        rubrics.write_text("attributes:\n  q: {text: a}\n  q: {text: b}\n")
        with pytest.raises(SteerError, match=r"rubrics\.yaml: gives 'q' twice"):
            load_scorer(f"{kind}:{rubrics}")
        rubrics.write_text("[" * 2000)
        with pytest.raises(SteerError, match=r"rubrics\.yaml: is too deep"):
            load_scorer(f"{kind}:{rubrics}")


def test_a_huge_file_is_no_file_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("lower: [" + "a, " * 400_000 + "a]")
    with pytest.raises(SteerError, match=r"config\.yaml: has more than 1000000 bytes"):
        resolve(LabelConfig, {}, str(file))


@pytest.mark.parametrize("done", ["[1]", "5", '"x"', '{"summary": 5}', '{"summary": null}'])
def test_a_done_file_that_no_stage_wrote_is_one_sentence_wherever_it_is_read(
    labels: Path, base: Path, trained: Path, tmp_path: Path, done: str
) -> None:
    shutil.copytree(labels, tmp_path / "labels")
    (tmp_path / "labels" / "done.json").write_text(done)
    rows, out = str(tmp_path / "labels"), str(tmp_path / "out")
    for stage, config in (
        (data_command, DataConfig(rows, out)),
        (label_command, LabelConfig(rows, out)),
        (label_command, LabelConfig(rows, rows)),
        (fit_command, FitConfig(rows, out)),
        (train_command, TrainConfig(rows, str(base), out)),
        (generate_command, GenerateConfig(str(trained), input=rows, output=out)),
        (load_scorer, rows),
    ):
        with pytest.raises(SteerError, match=r"done\.json: not what a stage of steer writes\.|other settings"):
            stage(config)  # type: ignore[operator]
    assert not Path(out).exists()


def test_weights_that_a_file_lacks_are_not_drawn_at_random(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "policy")
    path = tmp_path / "policy" / "model" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(SteerError, match=r"its files lack 1 weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load_policy(str(tmp_path / "policy"))


def test_a_folder_without_config_json_is_named_as_such(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match=r"has no config\.json, so .* Give a folder with config\.json, weights"):
        load_policy(str(tmp_path))
    shutil.copytree(base, tmp_path / "snapshot")
    with pytest.raises(SteerError, match=r"the folder has no config\.json, .* Give .*/snapshot, which has one\.$"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize("end", ["x", [1, "x"], 1.5, True, [[1]]])
def test_an_end_token_that_is_no_number_is_refused(trained: Path, tmp_path: Path, end: Any) -> None:
    shutil.copytree(trained, tmp_path / "policy")
    (tmp_path / "policy" / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    with pytest.raises(SteerError, match=r"holds no model that can be read|has the eos_token_id .*Restore it"):
        load_policy(str(tmp_path / "policy"))


def test_a_gguf_file_beside_other_weights_is_no_matter(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "both")
    (tmp_path / "both" / "model.gguf").write_bytes(b"GGUF")
    assert load_policy(str(tmp_path / "both")).model is not None


@pytest.mark.parametrize("damage", ["no rank", "a list", "cut", "infinite"])
def test_a_damaged_adapter_is_no_start_and_nothing_is_written(
    labels: Path, base: Path, tmp_path: Path, damage: str
) -> None:
    first = tmp_path / "first"
    train_command(TrainConfig(str(labels), str(base), str(first), max_steps=1))
    path = first / "adapter_model.safetensors"
    if damage in ("no rank", "a list"):
        (first / "adapter_config.json").write_text("{}" if damage == "no rank" else "[]")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:999])
    else:
        tensors = load_file(path)
        tensors[min(tensors)].view(-1)[0] = torch.inf
        save_file(tensors, path, {"format": "pt"})
    wanted = "names no rank|its adapter does not fit|its weights hold NaN or infinity"
    with pytest.raises(SteerError, match=wanted):
        train_command(TrainConfig(str(labels), str(base), str(tmp_path / "out"), init=str(first), max_steps=1))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_keeps_no_half_of_a_file(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data_command(DataConfig("world", str(tmp_path / "logs"), size=60))
    for stage, config in (
        (fit_command, FitConfig(str(tmp_path / "logs"), str(tmp_path / "scorer"))),
        (train_command, TrainConfig(str(labels), str(base), str(tmp_path / "run"), max_steps=2, save_steps=1)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", lambda a, b: full() if Path(b).name != "config.json" else Path(a).rename(b))
            with pytest.raises(SteerError, match="No space left on device"):
                stage(config)  # type: ignore[operator]
        assert not list(Path(config.output).rglob("*.tmp"))
