"""`--help` loads nothing heavy and explains everything."""

import json
import subprocess
import sys

import click
import pytest

from steer.cli import cli

COMMANDS = sorted(cli.commands)

# Prints the modules that were imported and what was shown, command by command.
HELP = """
import contextlib, io, json, runpy, sys
for command in sys.argv[1:]:
    sys.argv, shown = ["steer", *command.split(), "--help"], io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        runpy.run_module("steer", run_name="__main__")
    print(json.dumps([command, shown.getvalue(), sorted(sys.modules)]))
"""


def test_help_loads_nothing_heavy_and_little_at_all() -> None:
    ran = subprocess.run([sys.executable, "-c", HELP, "", *COMMANDS], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [command for command, _, _ in lines] == ["", *COMMANDS]
    heavy = {"torch", "transformers", "numpy", "sklearn", "scipy", "datasets", "pyarrow", "jinja2"}
    for command, shown, modules in lines:
        assert shown.startswith(f"Usage: steer {command}".rstrip())
        assert "click" in modules
        assert not heavy & set(modules), command
        assert len(modules) < 200, command  # 35 of them are Python's own start


def test_every_command_says_what_it_does_and_what_it_takes() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        for p in command.params:
            assert p.help if isinstance(p, click.Option) else f"{p.name.upper()}: " in command.help, (name, p.name)


LONG = 12  # flags; commands with more show them in panels
OF_THIS_RUN = {
    "--output",
    "--output-shards",
    "--output-format",
    "--overwrite",
    "--dry-run",
    "--stream",
    "--seed",
    "--config",
}  # the panel of flags without one


def flags(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option)]


@pytest.mark.parametrize("name", [name for name in COMMANDS if len(flags(cli.commands[name])) > LONG])
def test_the_flags_of_a_long_command_are_in_panels(name: str) -> None:
    loose = {flag.opts[0] for flag in flags(cli.commands[name]) if not getattr(flag, "panel", "")}
    assert loose <= OF_THIS_RUN, f"{name}: {sorted(loose - OF_THIS_RUN)}"


# A flag that several commands have -> what it means in each of them; their help adds what is particular there.
MEANINGS = {
    "--annotator": "scorer that stands for people: rates responses, or says which of two is better",
    "--attribute": "use these attributes only",
    "--attribute-dropout": "chance that one attribute is left out of a condition",
    "--condition-dropout": "chance that the whole condition is left out",
    "--controls": "also what must show no steering",
    "--dry-run": "print what would be done, and write nothing",
    "--dtype": "precision of the weights",
    "--engine": "what computes instead of transformers here: vLLM",
    "--export": "also write for other tools",
    "--gold": "scorer that only evaluation may see",
    "--grid": "responses over the factorial grid of targets",
    "--held-out": "share of prompts kept for evaluation",
    "--limit": "use only the first so many",
    "--max-new-tokens": "longest response",
    "--max-steps": "optimizer steps",
    "--method": "what training optimises",
    "--model": "the model that is trained, or read with: Hugging Face name or folder",
    "--n": "responses per prompt",
    "--num-proc": "processes at the same time",
    "--num-prompts": "held-out prompts that are answered",
    "--output": "folder to write",
    "--overwrite": "replace what an earlier run wrote there",
    "--schema": "schema.json to take attributes from",
    "--scorer": "scores responses, and may be seen by training",
    "--seeds": "repetitions",
    "--set": "a setting of the method or model that is trained or fitted, NAME=VALUE",
    "--shard-size": "what is scored or compared between two resume points",
    "--size": "rows of the embedded world",
    "--target": "levels to aim at, or to count",
    "--temperature": "of the responses that are drawn",
    "--template": "how a condition is written",
    "--train": "config file for training",
    "--weights": "preferences over attributes",
}
TWO_MEANINGS = {  # flags that still mean something else in one command: rename them there
    "--batch-size": "train: prompts per optimizer step; elsewhere: sequences generated at once",
}


def test_a_flag_means_one_thing_in_all_commands() -> None:
    """A flag whose help differs between commands is listed above."""
    texts: dict[str, set[str]] = {}
    for command in cli.commands.values():
        for flag in flags(command):
            texts.setdefault(flag.opts[0], set()).add((flag.help or "").partition("  [")[0])
    several = {name for name, helps in texts.items() if len(helps) > 1}
    assert several <= MEANINGS.keys() | TWO_MEANINGS.keys()


def test_a_config_key_is_its_flag() -> None:
    for command in cli.commands.values():
        for flag in flags(command):
            if flag.opts[0] != "--config":
                assert flag.opts[0] == f"--{str(flag.name).replace('_', '-')}"
