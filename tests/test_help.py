"""`--help` is quick, loads nothing heavy and explains everything."""

import subprocess
import sys
import time

import click
import pytest

from steer.cli import cli

COMMANDS = sorted(cli.commands)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_quick_and_loads_nothing_heavy(command: str) -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        arguments = [sys.executable, "-X", "importtime", "-m", "steer", *command.split(), "--help"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - began)
    assert done.stdout.startswith(f"Usage: steer {command}".rstrip())
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"torch", "transformers", "numpy", "sklearn", "scipy", "datasets", "pyarrow"}
    assert min(times) < 0.3


def test_every_command_says_what_it_does_and_what_it_takes() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        for p in command.params:
            assert p.help if isinstance(p, click.Option) else f"{p.name.upper()}: " in command.help, (name, p.name)
