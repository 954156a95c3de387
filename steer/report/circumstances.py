"""Circumstances of a report: command line, commit, machine, date."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

from steer import __version__, device
from steer.report.cells import counted


def circumstances(command: str) -> dict[str, Any]:
    """Return command line, commit, machine and date."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    ).stdout.strip()
    threads = f", {counted(torch.get_num_threads(), 'thread')}" if device.kind() == "cpu" else ""
    machine = f"{platform.machine()}, {device.name()}{threads}"
    from_shell = Path(sys.argv[0]).stem in ("steer", "__main__")
    return {
        "command": "steer " + (shlex.join(sys.argv[1:]) if from_shell else command),
        "commit": commit or f"steer {__version__}",
        "machine": f"{machine}, Python {platform.python_version()}, torch {torch.__version__}",
        "created": date.today().isoformat(),
    }
