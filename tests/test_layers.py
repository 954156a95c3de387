"""Imports go downward only: the floors of docs/design.md against what the files import."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A room may import what stands before it: in a row above, or further left in its own. A folder is one room.
TABLE = """
errors progress cache addresses device settings options config hub run_folder cluster parts
rows conditioning methods models labelling
generation training report export serve evaluation annotation
iteration comparison
"""
ORDER = TABLE.split()
DOORWAYS = {"cli", "__main__", "demo", "world"}  # as every command.py: may import all rooms, and no room imports them
UPWARD = {  # exceptions, each with its reason
    ("steer.models.policy", "steer.generation.generate"),  # inside Policy.generate: what users do with a policy
}
LEAVES = {  # leaf -> the only parts of steer that may import it
    "attribute_models": {
        "cache",
        "addresses",
        "progress",
        "device",
        "options",
        "run_folder",
        "rows",
        "labelling",
        "evaluation",
        "conditioning",
        "models",
        "generation",
    },
    "data_recipes": {"hub", "run_folder", "rows", "comparison", "cli", "demo"},
}
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "scipy", "bitsandbytes"}
HEAVY |= {"fastapi", "uvicorn", "pydantic", "vllm"}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("steer", *LEAVES)
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(path: Path, *, at_start: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; `at_start`: not inside functions. What only a type checker reads is none."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not typing_only and not (at_start and inside):
            nodes += ast.iter_child_nodes(node)


def room(module: str) -> str:
    """The room of a module: its folder in steer/, or the file itself."""
    return module.split(".")[1] if "." in module else ""


def is_doorway(module: str) -> bool:
    """Whether a module is a command: it knows configs and run folders, and may use every room."""
    return module.endswith(".command") or room(module) in DOORWAYS


def steer_imports(module: str) -> set[str]:
    """The modules of steer that a module imports."""
    names = {name for name in imports(FILES[module]) if name.startswith("steer.") and not name.endswith("__version__")}
    return {name if name in FILES else name.rpartition(".")[0] for name in names}


def test_the_table_lists_every_room_of_steer_once() -> None:
    rooms = {room(name) for name in FILES if "." in name and name.startswith("steer.")}
    assert sorted(ORDER) == sorted(rooms - DOORWAYS)


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("steer.") and not is_doorway(name)])
def test_steer_imports_downward_only(module: str) -> None:
    allowed = {*ORDER[: ORDER.index(room(module))], room(module)}
    imported = {name for name in steer_imports(module) if (module, name) not in UPWARD}
    if room(module) == "config":  # a command's config adds its paths to the settings of its room
        imported = {name for name in imported if not name.endswith(".settings")}
    assert {room(name) for name in imported} <= allowed, f"{module} imports upward"


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("steer.") and not is_doorway(name)])
def test_only_orchestrators_run_commands(module: str) -> None:
    commands = [name for name in steer_imports(module) if is_doorway(name)]
    assert not commands or room(module) in ("iteration", "comparison"), f"{module} runs {commands}"


# What only doorways and orchestrators know: everything below takes plain arguments and returns values.
DOORWAY_ONLY = ("click", "steer.config", "steer.options", "steer.run_folder.Run", "steer.run_folder.stage")


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("steer.") and not is_doorway(name)])
def test_only_doorways_and_orchestrators_know_configs_runs_and_click(module: str) -> None:
    if room(module) in ("config", "options", "run_folder", "iteration", "comparison"):
        return
    known = [name for name in imports(FILES[module]) for part in DOORWAY_ONLY if f"{name}.".startswith(f"{part}.")]
    assert not known, f"{module} imports {known}"


@pytest.mark.parametrize("module", FILES)
def test_leaves_know_nothing_of_steer_nor_of_each_other(module: str) -> None:
    package, _, rest = module.partition(".")
    foreign = {name.split(".")[0] for name in imports(FILES[module])} & {"steer", *LEAVES} - {package}
    for name in foreign:
        assert package == "steer", f"{module} imports {name}"
        assert rest.split(".")[0] in LEAVES[name], f"{module} imports {name}"


def test_nothing_heavy_is_imported_for_help() -> None:
    seen, waiting = set(), ["steer.__main__"]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imports(FILES[module], at_start=True):
            assert name.split(".")[0] not in HEAVY, f"{module} imports {name}"
            waiting += [known for known in (name, name.rpartition(".")[0]) if known in FILES]
    assert "steer.config.training" in seen  # the walk went somewhere


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not [name for name in FILES if name.rpartition(".")[2] in ("utils", "util", "helpers", "common", "misc")]


def test_stored_token_ids_name_all_code_of_attribute_models_that_makes_them() -> None:
    """Ids that other code stored are not read: a file that is missing from the key would go on being believed."""
    from steer.models.token_store import SHARED

    reading = [name for name in FILES if name.startswith(("steer.conditioning.", "steer.models.token"))]
    found: set[str] = set()
    while reading:
        name = reading.pop()
        modules = {each if each in FILES else each.rpartition(".")[0] for each in imports(FILES[name])}
        new = {each for each in modules if each.startswith("attribute_models.")} - found
        found |= new
        reading += new
    assert {f"{name.rpartition('.')[2]}.py" for name in found} == set(SHARED)
