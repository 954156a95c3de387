"""The command line as a person uses it: one sentence for every mistake, and nothing half-written."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from steer.cli import cli, main
from steer.config.labelling import FitConfig
from steer.config.training import TrainConfig
from steer.labelling.command import fit_command
from steer.training.command import train_command
from steer.world import PRETRAINING

ROW = {"id": "a", "prompt": "hello", "response": "hi there.", "scores": {"quality": 3}}


Said = subprocess.CompletedProcess[str]
Steer = Callable[..., Said]


@pytest.fixture
def steer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Steer:
    """Runs the entry point in this process."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["steer", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return Said([], code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def policy(labels: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that was conditioned on two attributes, after one step."""
    folder = tmp_path_factory.mktemp("policies") / "policy"
    train_command(TrainConfig(str(labels), str(tiny), str(folder), attribute=("verbosity", "hedging"), max_steps=1))
    return folder


@pytest.fixture(scope="module")
def scorer(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorers") / "scorer"
    fit_command(FitConfig(str(labels), str(folder)))
    return folder


def put(path: Path, *records: dict[str, Any] | str) -> Path:
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def refused(said: Said, output: Path, *fragments: object) -> None:
    """Exit code 1, one line on standard error with these fragments, and nothing on disk."""
    assert said.returncode == 1, said
    assert said.stdout == ""
    assert said.stderr.startswith("steer: ")
    assert said.stderr.index("\n") == len(said.stderr) - 1, said.stderr
    for fragment in fragments:
        assert str(fragment) in said.stderr
    assert not output.exists()


def test_methods_prints_every_method(steer: Steer) -> None:
    from steer.methods import METHODS

    said = steer("methods")
    assert said.returncode == 0
    assert [line.split()[0] for line in said.stdout.splitlines()[1:]] == list(METHODS)


def test_methods_explains_those_that_are_named() -> None:
    from steer.methods import METHODS
    from steer.methods.base import ROWS

    for name, method in METHODS.items():
        text = CliRunner().invoke(cli, ["methods", name]).output
        assert text.startswith(f"{name}: ")
        assert ROWS[method.rows] in text
        assert f"{method.rate:g} times" in text
        settings = text.split("meaning\n")[1].splitlines() if "meaning\n" in text else []
        assert [line.split()[:2] for line in settings] == [[f.name, str(f.default)] for f in fields(method.settings)]
        assert all(re.search(r"  \S[^.]{8,}.*\.$", line) and "As in" not in line for line in settings), text
    both = CliRunner().invoke(cli, ["methods", "dpo", "mle"]).output
    assert re.search(r"\nsft +0\.0 +0 or more +Weight of the likelihood", both)
    assert re.search(r"\npairing +best-random +best-worst, best-random, all +Pairs of a prompt", both)
    assert both.endswith("no settings\n")


def test_methods_names_the_one_that_was_meant(steer: Steer, labels: Path, tmp_path: Path) -> None:
    for more in ((), ("--for", labels)):
        said = steer("methods", "mle", "quarc", *more)
        refused(said, tmp_path / "none", "unknown method 'quarc'; did you mean 'quark'?")


BAD_ROWS: dict[str, tuple[list[dict[str, Any] | str], tuple[str, ...]]] = {
    "missing column": ([ROW, {"id": "b", "prompt": "x"}], (":2: column 'response': is missing", "Add it")),
    "wrong type": ([ROW, {**ROW, "id": "b", "response": 5}], (":2: column 'response': holds a number, wanted a text",)),
    "scores in words": ([{**ROW, "scores": "good"}], (":1: column 'scores': holds a text, wanted an object",)),
    "a score in words": ([{**ROW, "scores": {"quality": "good"}}], (":1: column 'scores'", "wanted a number or null")),
    "NaN score": ([{**ROW, "scores": {"quality": float("nan")}}], (":1: column 'scores'", "Write null where a score")),
    "empty prompt": ([ROW, {**ROW, "id": "b", "prompt": " "}], (":2: column 'prompt': is empty", "Write what was")),
    "empty response": ([{**ROW, "response": "\n"}], (":1: column 'response': is blank", "or remove the row")),
    "duplicate id": ([ROW, {**ROW, "response": "x"}], (":2: column 'id': 'a' is also the id of", ":1. Rename one")),
    "broken line": ([ROW, '{"id": "b", "prompt'], (":2:13: broken JSON", "Repair or delete this line")),
    "empty file": ([], (": holds no rows", "Check the command")),
}


@pytest.mark.parametrize("command", ["data", "fit", "label", "label --scorer countable:words", "train --method mle"])
@pytest.mark.parametrize("fault", BAD_ROWS)
def test_bad_rows_are_refused_with_file_line_column_and_remedy(
    steer: Steer, tiny: Path, tmp_path: Path, command: str, fault: str
) -> None:
    records, fragments = BAD_ROWS[fault]
    path = put(tmp_path / "rows.jsonl", *records)
    name, *flags = command.split()
    model = ["--model", tiny] if name == "train" else []
    said = steer(name, path, "--output", tmp_path / "run", *flags, *model)
    refused(said, tmp_path / "run", f"steer: {path}{fragments[0]}", *fragments[1:])


@pytest.mark.parametrize("command", ["fit", "label", "train", "compare", "iterate", "data", "generate"])
def test_a_file_that_is_not_there(steer: Steer, tiny: Path, policy: Path, tmp_path: Path, command: str) -> None:
    path, output = tmp_path / "none.jsonl", tmp_path / "run"
    model = ["--model", tiny] if command in ("train", "compare", "iterate") else []
    more = ["--policy", policy, "--scorer", "countable:words"] if command == "iterate" else []
    rows = [policy, "--input", path] if command == "generate" else [path]
    said = steer(command, *rows, "--output", output, *model, *more)
    refused(said, output, f"steer: {path}: no such file or folder. Check the path.")


def test_rows_without_what_a_method_needs(steer: Steer, tiny: Path, tmp_path: Path) -> None:
    rows = put(tmp_path / "rows.jsonl", *({"id": i, "prompt": f"p{i}", "response": "r"} for i in "abc"))
    output, flags = tmp_path / "run", ["--output", tmp_path / "run", "--held-out", "0"]
    said = steer("train", rows, "--model", tiny, "--method", "conditional", *flags)
    refused(said, output, f'{rows}: has no schema.json beside it. Run "steer label" first.')
    for method in ("rwr", "filtered"):
        said = steer("train", rows, "--model", tiny, "--method", method, *flags)
        message = f"{rows}: {method}: none of the 3 rows has a reward."
        refused(said, output, message, 'Run "steer label ROWS --scorer SCORER --output LABELS" first')
    for command in ("fit", "label"):
        refused(steer(command, rows, *flags), output, f"{rows}: no row has a score.")
    (tmp_path / "schema.json").write_text('{"attributes": [{"name": "quality", "low": 0, "high": 4}]}')
    said = steer("train", rows, "--model", tiny, *flags)
    refused(said, output, f'{rows}: the schema beside it has no levels. Run "steer label" first.')


@pytest.mark.parametrize(
    ("target", "fragments"),
    [
        ("verbosite=1", ("unknown attribute 'verbosite'; did you mean 'verbosity'?", "Known: hedging, verbosity.")),
        ("verbosity=9", ("target verbosity=9: no such level; verbosity has 0, 1, 2, 3, 4.",)),
        ("verbosity=1 verbosity=2", ("'verbosity' is given twice",)),
        ("verbosity", ("write NAME=LEVEL",)),
    ],
)
def test_targets_that_mean_nothing(
    steer: Steer, policy: Path, tmp_path: Path, target: str, fragments: tuple[str, ...]
) -> None:
    said = steer("generate", policy, "--prompt", "hi", "--target", target, "--output", tmp_path / "run")
    refused(said, tmp_path / "run", *fragments)


def test_a_hub_that_does_not_answer_is_no_reason_to_wait(tiny: Path, tmp_path: Path) -> None:
    """It is asked once: the hub's own client tries again and again."""
    rows = put(tmp_path / "rows.jsonl", ROW)
    command = f"train {rows} --method mle --held-out 0 --model org/model --output {tmp_path / 'run'}"
    arguments = [sys.executable, "-m", "steer", *command.split()]
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as hub:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    with hub.accept()[0] as connection:
                        asked.append(connection.recv(1000).decode().partition(" HTTP")[0])

        answering = threading.Thread(target=hang_up)
        answering.start()
        nowhere = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}"}
        done = subprocess.run(arguments, env=nowhere, capture_output=True, text=True, check=False)
        hub.shutdown(socket.SHUT_RDWR)
        answering.join()
    refused(done, tmp_path / "run", "'org/model'", "hub cannot be reached")
    assert asked.count("HEAD /") == 1
    assert not [line for line in asked if "org/model" in line]


def test_a_target_outside_the_support_names_the_nearest(steer: Steer, policy: Path, tmp_path: Path) -> None:
    schema = json.loads((policy / "steer.json").read_text())["schema"]
    names = [a["name"] for a in schema["attributes"]]
    at = [names.index(n) for n in ("verbosity", "hedging")]
    seen = {tuple(cell[i] for i in at) for cell, _ in schema["cells"]}
    missing = next((v, h) for v in range(5) for h in range(5) if (v, h) not in seen)
    target = f"verbosity={missing[0]} hedging={missing[1]}"
    said = steer("generate", policy, "--prompt", "hi", "--target", target, "--output", tmp_path / "run")
    refused(said, tmp_path / "run", f"target {target}: seen together in 0 rows", "Nearest supported: verbosity=")
    flags = ["--allow-unsupported", "--max-new-tokens", 2]
    assert steer("generate", policy, "--prompt", "hi", "--target", target, *flags).returncode == 0


def test_a_policy_without_condition_takes_no_target(steer: Steer, tiny: Path, tmp_path: Path) -> None:
    said = steer("generate", tiny, "--prompt", "hi", "--target", "verbosity=1", "--output", tmp_path / "run")
    refused(said, tmp_path / "run", f"{tiny}: was not conditioned on attributes, so it cannot aim at 'verbosity=1'")


@pytest.mark.parametrize("command", ["train", "generate", "compare", "iterate"])
def test_an_unknown_model(steer: Steer, labels: Path, policy: Path, scorer: Path, tmp_path: Path, command: str) -> None:
    flags: dict[str, list[Any]] = {
        "train": [labels, "--model", "no-such-model"],
        "generate": ["no-such-model", "--prompt", "hi"],
        "compare": [labels, "--model", "no-such-model", "--scorer", scorer],
        "iterate": [labels, "--model", "no-such-model", "--policy", policy, "--scorer", scorer],
    }
    said = steer(command, *flags[command], "--output", tmp_path / "run")
    refused(said, tmp_path / "run", "model 'no-such-model': is no folder here", "Give a folder")


def test_names_that_nothing_has(steer: Steer, labels: Path, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    flags = [labels, "--model", tiny, "--output", output]
    for more, message in {
        "--method rwrr": "unknown method 'rwrr'; did you mean 'rwr'? Known: ",
        "--method rwr --set betta=1": "rwr: unknown setting 'betta'; did you mean 'beta'? Known: beta, clip. "
        '"steer methods rwr" explains them.',
        "--method rwr --set beta=high": "rwr: beta=high is not a number.",
        "--method rwr --set beta=-1": "rwr: beta -1.0: wanted above 0.",
        "--method mle --set beta=1": "mle: unknown setting 'beta'; it has none.",
        "--attribute verbosty": "unknown attribute 'verbosty'; did you mean 'verbosity'?",
        "--template tag": "'tag' is not one of 'auto', 'tags', ",
    }.items():
        refused(steer("train", *flags, *more.split()), output, message)
    for more, message in {
        "--method mel": "unknown method 'mel'; did you mean 'mle'?",
        "--method conditional:template=tag": "unknown template 'tag'; did you mean 'tags'?",
        "--method mle --method mle": "the same method is given twice",
        "--target verbosty=1": "unknown attribute 'verbosty'; did you mean 'verbosity'?",
    }.items():
        refused(steer("compare", *flags, *more.split()), output, message)


def test_an_unknown_scorer(steer: Steer, labels: Path, policy: Path, tmp_path: Path) -> None:
    cases = {
        "nowhere": "scorer 'nowhere': no such folder. Use human, a folder of \"steer fit\", countable:NAME,",
        "countable:wordz": "scorer 'countable:wordz': Unknown countable attribute 'wordz'. Did you mean 'words'?",
        "no_module:Class": "scorer 'no_module:Class': No module named 'no_module'",
        str(tmp_path): f"scorer {tmp_path}: is no finished fit",
        str(policy): f'scorer {policy}: is a policy and no scorer. Give a folder of "steer fit".',
    }
    for scorer, message in cases.items():
        refused(steer("label", labels, "--scorer", scorer, "--output", tmp_path / "run"), tmp_path / "run", message)
    said = steer("label", labels, "--lower", "warmt", "--output", tmp_path / "run")
    refused(said, tmp_path / "run", "--lower or --neither: unknown attribute 'warmt'; did you mean 'warmth'?")


def test_iterate_wants_a_policy_and_a_scorer_that_fits(
    steer: Steer, labels: Path, tiny: Path, policy: Path, scorer: Path, tmp_path: Path
) -> None:
    flags = [labels, "--model", tiny, "--output", tmp_path / "run"]
    said = steer("iterate", *flags, "--policy", tiny, "--scorer", scorer)
    refused(said, tmp_path / "run", f"--policy {tiny}: is no policy", '"steer train"')
    said = steer("iterate", *flags, "--policy", policy, "--scorer", "countable:words")
    refused(said, tmp_path / "run", "scorer countable:words: does not score correctness, ")


def test_config_files_are_checked_like_flags(steer: Steer, labels: Path, tiny: Path, tmp_path: Path) -> None:
    path = put(tmp_path / "c.yaml", "modell: x", "method: mle")
    flags = ["train", labels, "--model", tiny, "--output", tmp_path / "run", "--config", path]
    refused(steer(*flags), tmp_path / "run", f"{path}: unknown key 'modell'; did you mean 'model'?")
    put(path, "held_out: 0", "seed: -1")
    refused(steer(*flags), tmp_path / "run", "--seed -1: wanted 0 or more.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --zzzz", "No such option '--zzzz'. See \"steer train --help\"."),
        ("train rows --turns all", '"steer data" and "steer label" take --turns. See "steer train --help".'),
        ("train rows --batch-size many", "'many' is not a valid integer. See \"steer train --help\"."),
        ("trian", "No such command 'trian'. Did you mean 'train'? See \"steer --help\"."),
        ("data world --size 0 --output run", "--size 0: wanted 1 or more."),
        ("data world --rated 1.5 --output run", "--rated 1.5: wanted from 0 to 1."),
        ("generate policy", "give either --prompt"),
    ],
)
def test_usage(steer: Steer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    refused(steer(*arguments.split()), tmp_path / "run", message)


@pytest.mark.parametrize(
    "command", ["data", "fit", "label", "train", "generate", "compare", "iterate", "demo", "world"]
)
def test_a_folder_that_cannot_be_written(
    steer: Steer,
    labels: Path,
    tiny: Path,
    policy: Path,
    scorer: Path,
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = put(tmp_path / "file") / "run"
    monkeypatch.setitem(PRETRAINING, "size", 40)  # the first thing that `world` writes
    flags: dict[str, list[Any]] = {
        "data": ["world", "--size", 4],
        "fit": [labels],
        "label": [labels],
        "train": [labels, "--model", tiny],
        "generate": [policy, "--prompt", "hi"],
        "compare": [labels, "--model", tiny, "--scorer", scorer],
        "iterate": [labels, "--model", tiny, "--policy", policy, "--scorer", scorer],
        "demo": [],
        "world": [],
    }
    said = steer(command, *flags[command], "--output", output)
    refused(said, output, f"{output}", "cannot be written (Not a directory). Choose another --output.")


def test_a_bad_input_costs_no_earlier_run(steer: Steer, tmp_path: Path) -> None:
    good, bad = put(tmp_path / "good.jsonl", ROW), put(tmp_path / "bad.jsonl", {**ROW, "response": 5})
    assert steer("data", good, "--output", tmp_path / "run").returncode == 0
    assert steer("data", bad, "--output", tmp_path / "run", "--overwrite").returncode == 1
    assert json.loads((tmp_path / "run" / "rows.jsonl").read_text())["response"] == "hi there."
    said = steer("data", bad, "--output", tmp_path / "run")
    assert "holds a run with other settings (inputs.source, source)" in said.stderr
    said = steer("label", good, "--output", tmp_path / "run")
    assert said.stderr.startswith(
        f"steer: {tmp_path / 'run'}: holds what another command wrote. Choose another --output"
    )


def test_errors_look_the_same_from_outside(tmp_path: Path) -> None:
    rows = put(tmp_path / "rows.jsonl", ROW, "{")
    arguments = [sys.executable, "-m", "steer", "label", str(rows), "--output", str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    refused(done, tmp_path / "run", f"{rows}:2:2: broken JSON")


def test_rows_from_a_pipe_are_kept(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "steer", "data", "-", "--output", str(tmp_path / "run")]
    done = subprocess.run(arguments, input=json.dumps(ROW), capture_output=True, text=True, check=True)
    assert "\ndata: 1 rows in, 1 out, 0 skipped" in done.stdout
    assert json.loads((tmp_path / "run" / "rows.jsonl").read_text())["id"] == "a"
