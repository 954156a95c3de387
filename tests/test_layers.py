"""Imports go downward only: the table of DESIGN.md section 3 against what the files import."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A module may import what stands before it: in a row above, or further left in its own. Packages count as one.
TABLE = """
errors directions progress options config run
rows schema levels condition likelihood chat
groups objective
methods batch turns tokens plan adapter quantise precision policy attention logps references
decoding targets
evaluate report data scorer parts label fit obtained generate guidance labels drawn
training train export
iterate compare claims demo serve
cli __main__
"""
ORDER = TABLE.split()
LEAVES = {  # leaf -> the only parts of steer that may import it
    "attribute_models": {"options", "scorer", "parts", "fit", "evaluate", "chat"},
    "data_recipes": {"rows", "data", "compare", "cli"},
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


def parts(module: str) -> set[str]:
    """The parts of steer that a module imports."""
    found = {name.split(".")[1] for name in imports(FILES[module]) if name.startswith("steer.")}
    return found - {"__version__"}


def test_the_table_lists_every_part_of_steer_once() -> None:
    assert sorted(ORDER) == sorted({name.split(".")[1] for name in FILES if "." in name and name.startswith("steer.")})


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("steer.")])
def test_steer_imports_downward_only(module: str) -> None:
    part = module.split(".")[1]
    allowed = {*ORDER[: ORDER.index(part)], part}
    assert parts(module) <= allowed, f"{module} imports upward"


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
    assert "steer.config" in seen  # the walk went somewhere


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not [name for name in FILES if name.rpartition(".")[2] in ("utils", "util", "helpers", "common", "misc")]
