"""Install the wheel into an empty environment and use it: `python tests/try_wheel.py DIST`.

The environment sees the dependencies of this one through a .pth file, but not the checkout.
"""

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path


def main(dist: Path) -> None:
    """Install and run; any failure ends with a non-zero exit code."""
    (wheel,) = dist.resolve().glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
        where = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], **_TEXT).stdout
        Path(where.strip(), "dependencies.pth").write_text(_dependencies(Path(folder)) + "\n")
        code = "import steer, attribute_models, data_recipes; print(steer.__file__)"
        found = subprocess.run([python, "-c", code], cwd=folder, **_TEXT).stdout
        if folder not in found:
            raise SystemExit(f"the wheel is not what was imported: {found}")
        steer = str(Path(folder) / "bin" / "steer")
        subprocess.run([steer, "data", "world", "--size", "50", "--output", "logs"], cwd=folder, check=True)
        subprocess.run([steer, "label", "logs", "--output", "labels"], cwd=folder, check=True)


_TEXT = {"capture_output": True, "text": True, "check": True}


def _dependencies(folder: Path) -> str:
    """A folder of links to the installed dependencies, without the editable install of the checkout."""
    links = folder / "dependencies"
    links.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("steer", "_steer", "__editable__", "_editable")) and path.suffix != ".pth":
            (links / path.name).symlink_to(path)
    return str(links)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
