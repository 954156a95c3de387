"""Flags, config files and defaults: which wins, and what is refused."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from steer.config.comparison import CompareConfig
from steer.config.generation import GenerateConfig
from steer.config.iteration import IterateConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.generation.settings import GenerateSettings
from steer.options import PanelCommand, options, resolve
from steer.run_folder import Run
from steer.settings import SHARE, argument, check, did_you_mean, explained, option, said, settings_of
from steer.training.prepare import lora_of
from steer.training.settings import TrainSettings


@dataclass(frozen=True)
class Config:
    rows: str = argument("Rows.")
    output: str = option(..., "Folder.")
    rate: float = option(0.5, "Step size.", least=0, most=1)
    steps: int = option(10, "Steps.", least=1)
    name: tuple[str, ...] = option((), "Names.")
    kind: str = option("a", "Kind.", choices=("a", "beta"))
    verbose: bool = option(False, "Talk.")
    overwrite: bool = option(False, "Start anew.")


REQUIRED = {"rows": "r", "output": "o"}


def file(folder: Path, text: str, name: str = "c.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def refusal(flags: dict[str, Any], path: str | None = None) -> str:
    with pytest.raises(SteerError) as caught:
        resolve(Config, flags, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def command(*arguments: str) -> Config:
    """The config that a command gets from these arguments."""
    got: list[Config] = []

    @click.command()
    @options(Config)
    def run(config: Config) -> None:
        got.append(config)

    result = CliRunner().invoke(run, arguments, standalone_mode=False)
    if result.exception:
        raise result.exception
    return got[0]


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = file(tmp_path, "output: from-file\nrate: 0.25\nsteps: 3\n")
    config = command("r", "--config", path, "--steps", "7", "--output", "o")
    assert config == Config(rows="r", output="o", rate=0.25, steps=7)


def test_flags_are_made_from_fields() -> None:
    config = command("r", "--output", "o", "--name", "x", "--name", "y", "--verbose", "--kind", "beta")
    assert (config.name, config.verbose, config.kind) == (("x", "y"), True, "beta")
    assert command("r", "--output", "o", "--no-verbose").verbose is False


def test_a_flag_can_take_back_what_the_file_says(tmp_path: Path) -> None:
    path = file(tmp_path, "verbose: true\nrate: 1\n")
    assert command("r", "--output", "o", "--config", path).verbose is True
    config = command("r", "--output", "o", "--config", path, "--no-verbose", "--rate", "0")
    assert (config.verbose, config.rate) == (False, 0.0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "rate: 1e-4\nsteps: 3\nname: [x, 5]\nverbose: true\nkind: beta\n"),
        ("c.json", '{"rate": 1e-4, "steps": 3, "name": ["x", "5"], "verbose": true, "kind": "beta"}'),
    ],
)
def test_yaml_and_json_give_typed_values(tmp_path: Path, name: str, text: str) -> None:
    config = resolve(Config, REQUIRED, file(tmp_path, text, name))
    assert asdict(config) == {
        **REQUIRED, "rate": 0.0001, "steps": 3, "name": ("x", "5"), "verbose": True, "kind": "beta", "overwrite": False
    }  # fmt: skip
    assert type(config.rate) is float


def test_an_integer_in_the_file_may_fill_a_float(tmp_path: Path) -> None:
    assert resolve(Config, REQUIRED, file(tmp_path, "rate: 1")).rate == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "unknown key 'stepz'; did you mean 'steps'? Known: "),
        ("7: 3", "unknown key '7'"),
        ("steps: many", "steps 'many': wanted a whole number."),
        ("steps: 2.5", "steps 2.5: wanted a whole number."),
        ("steps: true", "steps True: wanted a whole number."),
        ("rate: fast", "rate 'fast': wanted a number."),
        ("rate: [1]", "rate [1]: wanted a number."),
        ("output: 5", "output 5: wanted text."),
        ("verbose: 1", "verbose 1: wanted True or False."),
        ("rate: '1e-4'", "rate '1e-4': wanted a number."),
        ("name: [{x: 1}]", "name {'x': 1}: wanted text."),
        ("name: [true]", "name True: wanted text."),
        ("steps: null", "steps None: wanted a whole number."),
        ("[1, 2]", "a config file holds 'name: value' lines"),
        ("", "a config file holds 'name: value' lines"),
    ],
)
def test_what_a_file_must_not_say(tmp_path: Path, text: str, message: str) -> None:
    path = file(tmp_path, text)
    found = refusal(REQUIRED, path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    assert "no-such.yaml: cannot be read (No such file or directory)" in refusal(REQUIRED, "no-such.yaml")
    broken = file(tmp_path, "steps: 3\nrate: [1, 2\nkind: a\n")
    assert refusal(REQUIRED, broken).startswith(f"{broken}:3: is not YAML")
    assert "line 2 column 1" in refusal(REQUIRED, file(tmp_path, '{"steps": 3,\n', "c.json"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "binary.yaml: is not" in refusal(REQUIRED, str(tmp_path / "binary.yaml"))


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kind", "bete", "--kind: unknown 'bete'; did you mean 'beta'? Known: a, beta."),
        ("steps", 0, "--steps 0: wanted 1 or more."),
        ("rate", 1.5, "--rate 1.5: wanted from 0 to 1."),
        ("rate", float("nan"), "--rate nan: wanted from 0 to 1."),
    ],
)
def test_choices_and_ranges_hold_for_flags_and_files(
    tmp_path: Path, from_file: bool, name: str, value: object, message: str
) -> None:
    path = file(tmp_path, json.dumps({name: value}), "c.json") if from_file else None
    assert message in refusal(REQUIRED if from_file else {**REQUIRED, name: value}, path)


def test_a_missing_value_is_asked_for_by_its_flag() -> None:
    assert refusal({"rows": "r"}) == "--output is missing. Give the folder to write to, such as --output policy."
    assert refusal({"output": "o"}) == "ROWS is missing: Rows."
    with pytest.raises(SteerError, match="--output is missing"):
        command("r")


@pytest.mark.parametrize("config", [TrainConfig, IterateConfig, CompareConfig])
def test_a_dry_run_needs_no_output(config: type[Any]) -> None:
    flags = {"rows": "r", "model": "m", "scorer": "s"}
    with pytest.raises(SteerError, match="--output is missing"):
        resolve(config, flags)
    assert resolve(config, {**flags, "dry_run": True}).output == os.devnull
    assert resolve(config, {**flags, "dry_run": True, "output": "o"}).output == "o"


def test_the_config_of_a_run_can_be_passed_back(tmp_path: Path) -> None:
    config = Config(rows="r", output=str(tmp_path / "run"), rate=1e-4, name=("x", "y"), kind="beta")
    Run(config.output, config, {"rows": "0123"}).start()
    saved = tmp_path / "run" / "config.json"
    assert json.loads(saved.read_text())["inputs"] == {"rows": "0123"}
    again = command("--config", str(saved), "--output", config.output)
    assert again == config
    Run(again.output, again, {"rows": "0123"})  # is the same run, so nothing is refused


def test_help_shows_defaults_and_what_is_required() -> None:
    @click.command()
    @options(Config)
    def run(config: Config) -> None:
        """Run it."""

    text = CliRunner().invoke(run, ["--help"]).output
    assert "Step size.  [default: 0.5]" in text
    assert "Folder.  [required]" in text
    assert "--verbose / --no-verbose" in text
    assert "--config FILE" in text
    assert "[a|beta]" in text
    assert "ROWS: Rows." in text


def test_help_shows_flags_in_panels_and_those_without_one_last() -> None:
    @dataclass(frozen=True)
    class Grouped:
        output: str = option("out", "Folder.")
        rate: float = option(0.5, "Step size.", panel="Optimizer")
        names: str = option("", "Names.", panel="Data")
        steps: int = option(10, "Steps.", panel="Optimizer")

    @click.command(cls=PanelCommand)
    @options(Grouped)
    def run(config: Grouped) -> None:
        """Run it."""

    text = CliRunner().invoke(run, ["--help"]).output
    order = ["Optimizer:", "--rate", "--steps", "Data:", "--names", "This run:", "--output", "--config", "--help"]
    places = [text.index(f"  {word}" if word[0] == "-" else f"\n{word}") for word in order]
    assert places == sorted(places)


def test_settings_are_explained_in_words() -> None:
    @dataclass
    class Some:
        share: float = option(0.5, "Share.", above=0, most=1)
        count: int = option(2, "Count.", least=1, most=3)
        kind: str = option("a", "Kind.", choices=("a", "b"))
        plain: bool = True
        names: tuple[str, ...] = ()

    values = ["above 0 and at most 1", "from 1 to 3", "a, b", "True or False", "a list"]
    assert [line[2] for line in explained(Some)] == values
    assert explained(Some)[::3] == [("share", "0.5", values[0], "Share."), ("plain", "True", values[3], "-")]


def test_did_you_mean_lists_everything_in_order() -> None:
    assert did_you_mean("betta", ["rwr", "beta"]) == "did you mean 'beta'? Known: beta, rwr."
    assert did_you_mean("zzz", ["rwr", "beta"]) == "Known: beta, rwr."
    assert did_you_mean("cond", ["bond", "conditional"]).startswith("did you mean 'conditional'? ")
    assert did_you_mean("cond", ["bond", "conditional", "condition"]).startswith("did you mean 'bond'? ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": "3e-4"}, "--rate '3e-4': wanted a number."),
        ({"rate": True}, "--rate True: wanted a number."),
        ({"steps": 8.5}, "--steps 8.5: wanted a whole number."),
        ({"steps": None}, "--steps None: wanted a whole number."),
        ({"verbose": "no"}, "--verbose 'no': wanted True or False."),
        ({"kind": 3}, "--kind 3: wanted text."),
        ({"name": ("a", True)}, "--name True: wanted text."),
        ({"name": ("a", ["b"])}, "--name ['b']: wanted text."),
    ],
)
def test_an_argument_of_another_type_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SteerError) as caught:
        settings_of(Config, REQUIRED | given)
    assert str(caught.value) == message


def test_arguments_of_numpy_paths_and_one_text_are_taken(tmp_path: Path) -> None:
    made = settings_of(
        Config, REQUIRED | {"rows": tmp_path, "rate": np.float32(0.5), "steps": np.int64(3), "name": "a"}
    )
    assert (made.rows, made.rate, made.steps, made.name) == (str(tmp_path), 0.5, 3, ("a",))
    assert json.loads(json.dumps(asdict(made)))["steps"] == 3


@pytest.mark.parametrize(
    "given",
    [{"rate": 1}, {"rate": 1e-4}, {"rate": "fast"}, {"rate": True}, {"steps": 2.5}, {"steps": None}, {"verbose": 1}]
    + [{"name": value} for value in ("x", ["x", "y"], ["x", 5], [0.5], [True], [["x"]], 5, None)],
    ids=str,
)
def test_a_value_is_taken_or_refused_alike_in_a_file_and_in_a_call(given: dict[str, Any], tmp_path: Path) -> None:
    def taken(build: Callable[[], Config]) -> dict[str, Any] | str:
        try:
            return asdict(build())
        except SteerError as error:
            return str(error).split(": ", 1)[-1] if str(tmp_path) in str(error) else str(error).removeprefix("--")

    path = file(tmp_path, json.dumps(given), "c.json")
    assert taken(lambda: resolve(Config, REQUIRED, path)) == taken(lambda: settings_of(Config, REQUIRED | given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"against": "opposite"}, "--against: does nothing without --guidance. Give one, or leave it out."),
        ({"rerank": "target"}, "--rerank: does nothing without --best-of. Give one, or leave it out."),
        ({"scorer": "s"}, "--scorer: does nothing without --best-of or --score. Give one, or leave it out."),
        ({"server_model": "m"}, "--server-model: does nothing without --server. Give one, or leave it out."),
    ],
)
def test_what_would_be_ignored_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SteerError) as refused:
        settings_of(GenerateSettings, given)
    assert str(refused.value) == message
    needed = {"against": {"guidance": 2.0}, "rerank": {"best_of": 2}, "scorer": {"score": True}}
    name = next(iter(given))
    assert asdict(settings_of(GenerateSettings, given | needed.get(name, {"server": "u"})))[name] == given[name]
    assert settings_of(GenerateSettings, {name: asdict(GenerateSettings())[name]}) == GenerateSettings()


def test_a_list_says_no_more_than_the_tuple_it_stands_for() -> None:
    for field in fields(TrainConfig):
        if isinstance(field.default, tuple):
            given = {field.name: list(field.default), "adapter": "none"}
            config = TrainConfig("rows", "model", "out", **given)
            assert not said(config, field)
            check(config)
            lora_of(config)


def test_only_a_share_that_a_user_says_counts_as_said(tmp_path: Path) -> None:
    flags = {"rows": "r", "model": "m", "output": "o"}
    path = file(tmp_path, json.dumps(asdict(resolve(TrainConfig, flags))), "config.json")
    for unsaid in (resolve(TrainConfig, flags), resolve(TrainConfig, {}, path), settings_of(TrainSettings, {})):
        assert type(unsaid.held_out) is type(SHARE)
    for given in (resolve(TrainConfig, {**flags, "held_out": 0.1}), settings_of(TrainSettings, {"held_out": 0.1})):
        assert type(given.held_out) is float


def test_only_settings_are_named_as_the_keys_of_a_file(tmp_path: Path) -> None:
    for config in (TrainConfig, GenerateConfig):  # whose fields after a KW_ONLY are no positional arguments
        with pytest.raises(SteerError, match=r"unknown key '_'; Known: [a-z]") as caught:
            resolve(config, {}, file(tmp_path, "_: 3"))
        assert " _," not in str(caught.value)
