"""`--help` loads nothing heavy and explains everything."""

import json
import subprocess
import sys

import click

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
