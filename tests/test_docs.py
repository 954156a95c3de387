"""The pages: links lead somewhere, tables and generated pages equal the code, names in them exist."""

from __future__ import annotations

import importlib
import re
import runpy
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import steer
from attribute_models.simulated import Settings
from steer.cli import cli
from steer.comparison.untrained import UNTRAINED
from steer.conditioning.condition import TEMPLATES
from steer.methods import METHODS
from steer.methods.base import ROWS
from steer.rows import Row

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *(ROOT / "docs").glob("*.md")]
)
WHOLE = {"label", "train", "evaluate"} <= set(getattr(steer, "__all__", ()))  # the Python API has landed
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def page(name: str) -> str:
    """The text of a page, by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def table(name: str, head: str) -> dict[str, list[str]]:
    """A table of a page by the start of its first line: first cell -> the other cells."""
    text = page(name)
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_table_of_methods_equals_the_code() -> None:
    rows = table("docs/methods.md", "| method | condition |")
    assert list(rows) == list(METHODS)
    for name, (condition, _, settings) in rows.items():
        assert condition == ("yes" if METHODS[name].conditioned else "no")
        shown = dict(part.strip("` ").split("=") for part in settings.split(",") if part.strip())
        assert shown == {f.name: str(f.default) for f in fields(METHODS[name].settings)}


def test_the_paper_index_names_the_papers_of_the_code() -> None:
    rows = table("docs/methods.md", "| method | paper |")
    assert list(rows) == list(METHODS)
    for name, (paper, _, wanted, fresh) in rows.items():
        assert (wanted, fresh) == (ROWS[METHODS[name].rows], METHODS[name].fresh)
        about = importlib.import_module(f"steer.methods.{name.replace('-', '_')}").__doc__ or ""
        assert set(re.findall(r"\d{4}\.\d{5}", paper)) <= set(re.findall(r"\d{4}\.\d{5}", about)), name


def test_methods_that_compare_with_draws_say_which_of_them_rounds_drop() -> None:
    for name, method in METHODS.items():
        if method.importance or "drawer" in method.needs:
            about = importlib.import_module(f"steer.methods.{name}").__doc__ or ""
            assert "drop responses that were cut off" in " ".join(about.partition("Differs")[2].split()), name


def test_the_sentence_on_pools_equals_the_code() -> None:
    text = " ".join(page("docs/methods.md").split())
    found = re.search(
        r"trains on its pool: (.*) on the last round's responses, (.*) on those of all rounds, every", text
    )
    assert found
    for pool, named in zip(("last", "rounds"), found.groups()):
        assert re.findall(r"`(.*?)`", named) == [name for name, method in METHODS.items() if method.pool == pool]


def test_the_table_of_stages_equals_the_commands() -> None:
    rows = table("docs/quickstart.md", "| stage | reads |")
    assert {name.removeprefix("steer ") for name in rows} == set(cli.commands)


def test_the_table_of_templates_equals_the_code() -> None:
    assert list(table("docs/conditions.md", "| template | what the model reads |")) == list(TEMPLATES)


def test_the_table_of_a_simulated_pool_equals_the_code() -> None:
    rows = table("docs/scorers.md", "| key | default | what it is |")
    shown = {
        name.strip("` "): default.strip()
        for names, (defaults, *_) in rows.items()
        for name, default in zip(names.split(","), defaults.split(","))
    }
    known = {f.name: f.default if f.default is not MISSING else "" for f in fields(Settings)}
    assert shown == {
        name: f"{value:g}" if type(value) in (int, float) else str(value).lower() for name, value in known.items()
    }


def test_methods_that_start_from_the_policy_that_drew_are_named_where_rounds_are_explained() -> None:
    for name in ("docs/cli.md", "docs/comparing.md", "docs/methods.md"):
        [line] = re.findall(r"^\| `--start-from.*|Every round of [^.]*? starts", page(name), re.MULTILINE)
        named = set(re.findall(r"`([a-z0-9-]+)`", line)) & METHODS.keys()
        assert named == {name for name, m in METHODS.items() if m.importance or "drawer" in m.needs}


def test_the_table_of_systems_without_training_equals_the_code() -> None:
    rows = table("docs/comparing.md", "| entry | what it is |")
    assert list(rows) == ["base", *UNTRAINED]
    for name, system in UNTRAINED.items():
        for field in fields(system.settings):
            assert f"`{field.name}={field.default}`" in rows[name][0]


def test_the_columns_of_a_labelled_row_have_a_meaning(labelled_row: Row) -> None:
    names = {name.strip("` ") for cell in table("docs/rows.md", "| column | meaning |") for name in cell.split(",")}
    assert set(labelled_row) - {"annotator"} <= names


@pytest.fixture
def labelled_row(tmp_path: Path) -> Row:
    from steer.config.labelling import LabelConfig
    from steer.config.rows import DataConfig
    from steer.labelling.command import label_command
    from steer.rows import read
    from steer.rows.command import data_command

    data_command(DataConfig("world", str(tmp_path / "logs"), size=50))
    label_command(LabelConfig(str(tmp_path / "logs"), str(tmp_path / "labels"), scorer="human"))
    return next(read(tmp_path / "labels"))


@pytest.mark.parametrize(
    ("name", "function"),
    [("cli.md", "commands"), ("python.md", "python"), ("methods.md", "methods"), ("families.md", "families")],
)
def test_a_generated_page_equals_the_code(name: str, function: str) -> None:
    write: Any = runpy.run_path(str(ROOT / "docs" / "generate.py"))[function]
    assert page(f"docs/{name}") == write(), 'run "make docs"'


def anchors(path: Path) -> set[str]:
    """What can be linked to in a page: its headings as GitHub and MyST write them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", path.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), f"{path.name}: {link}"
        assert not anchor or anchor in anchors(place), f"{path.name}: {link}"


def test_every_page_can_be_reached() -> None:
    listed = page("docs/index.md")
    assert all(f"\n{path.stem}\n" in listed for path in (ROOT / "docs").glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_and_name_in_a_page_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    folders = "benchmarks|steer|examples|tests|data_recipes|attribute_models|docs"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)", text):
        assert (ROOT / name).exists(), f"{path.name}: {name}"
    for name in re.findall(r"`([a-z_]+\.py)`", text):  # of the room that the sentence speaks of
        assert any(ROOT.glob(f"[a-z]*/**/{name}")), f"{path.name}: {name}"
    for name in re.findall(r"`(steer(?:\.\w+)+)", text) if WHOLE else ():
        assert resolved(name), f"{path.name}: {name}"
    for name in re.findall(r"`make (\w+)", text):
        assert f"\n{name}:" in page("Makefile"), f"{path.name}: make {name}"


def resolved(name: str) -> bool:
    """Whether a dotted name is a file, or what one holds."""
    if name == "steer.json":  # a file of a policy
        return True
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(importlib.import_module(name))
    except ModuleNotFoundError:
        return False


FOREIGN = {"--nproc_per_node", "--nnodes", "--use_fsdp", "--fsdp_version", "--use_deepspeed", "--zero_stage"}
FOREIGN |= {"--fsdp_offload_params", "--dynamo_backend"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_and_flag_in_a_page_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = {flag for command in cli.commands.values() for flag in flags(command)} | FOREIGN
    spans = re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
    spans += [line for block in FENCED.findall(text) for line in block.splitlines()]
    for span in spans:
        found = re.match(r"(?:\$ )?steer ([a-z]+)\b", span)
        own = flags(cli.commands[found[1]]) if found else known
        assert not found or found[1] in cli.commands, f"{path.name}: {span}"
        shown = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", span.split("#")[0]))
        if found or span.startswith("--"):
            assert shown <= own | {"--help"}, f"{path.name}: {span}"


def flags(command: Any) -> set[str]:
    """All flags of a command."""
    return {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}


def test_every_message_in_troubleshooting_is_one_of_the_code() -> None:
    source = " ".join(
        re.sub(r'"\s*\n\s*(?:rf|f|r)?"', "", path.read_text(encoding="utf-8"))
        for folder in ("steer", "attribute_models", "data_recipes")
        for path in (ROOT / folder).rglob("*.py")
    )
    for message in re.findall(r"^\| `([^`]+)` \|", page("docs/troubleshooting.md"), re.MULTILINE):
        for part in message.split("..."):
            assert part.strip() in source, message


PROGRAMS = [path for name in ("tests", "benchmarks", "examples") for path in sorted((ROOT / name).rglob("*.*"))]
IMPORT = re.compile(r"from ((?:steer|attribute_models|data_recipes)(?:\.\w+)*) import (\([^)]*\)|[\w, ]+)")


def test_every_import_of_programs_in_strings_and_scripts_resolves() -> None:
    """What only a worker, a benchmark or a slow test imports is found by no other test."""
    found, lost = 0, []
    for path in PROGRAMS:
        if path.suffix not in (".py", ".sh"):
            continue
        for module, names in IMPORT.findall(path.read_text(encoding="utf-8").replace("\\n", "\n")):
            for name in re.findall(r"(\w+)(?: as \w+)?", re.sub("#.*", "", names)):
                found += 1
                try:
                    found_in = importlib.import_module(module)
                    _ = hasattr(found_in, name) or importlib.import_module(f"{module}.{name}")
                except ModuleNotFoundError:
                    lost.append(f"{path.relative_to(ROOT)}: from {module} import {name}")
    assert found > 1000
    assert not lost
