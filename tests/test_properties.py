"""Properties over generated rows, schemas and conditions: round trips, and that no record breaks a reader."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_recipes import duplicates, exports, layouts
from data_recipes.joined import joined
from data_recipes.mapped import mapped
from data_recipes.streams import DataError
from steer.conditioning.condition import TEMPLATES, render
from steer.conditioning.targets import parse_target
from steer.errors import SteerError
from steer.rows import check, prompt_key, read, split_of, write_rows
from steer.rows.binning import fitted
from steer.rows.schema import Attribute, Schema

some = settings(max_examples=60)

words = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)
numbers = st.floats(-1e100, 1e100)  # beyond them a score is refused
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | numbers | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row that the contract allows."""
    said = draw(st.lists(words, min_size=1, max_size=4))
    roles = ["user", "assistant"] * 3
    turns = [{"role": role, "content": text} for role, text in zip(roles[(len(said) + 1) % 2 :], said)]
    if draw(st.booleans()):
        turns.insert(0, {"role": "system", "content": draw(words)})
    row = {"id": draw(words), "prompt": turns, "response": draw(words)}
    row["scores"] = draw(st.dictionaries(names, numbers | st.none(), max_size=3))
    raters = st.lists(numbers | st.none(), min_size=1, max_size=3)
    more = {"group": words, "raters": st.dictionaries(names, raters, min_size=1, max_size=2)}
    more |= {"split": st.sampled_from(["train", "test", "validation"]), "note": plain.filter(lambda v: v is not None)}
    return row | draw(st.fixed_dictionaries({}, optional=more))


def known(row: dict[str, Any]) -> dict[str, Any]:
    """Without the scores that are unknown: unknown and absent mean the same."""
    return {**row, "scores": {n: s for n, s in row["scores"].items() if s is not None}}


@some
@given(row=rows(), suffix=st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst"]))
def test_what_is_written_is_read(row: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    check(row, "here")
    write_rows([row], tmp_path / f"rows{suffix}")
    assert list(read(tmp_path / f"rows{suffix}")) == [row]


@some
@given(row=rows())
def test_prompt_completion_reads_back(row: dict[str, Any]) -> None:
    record = json.loads(json.dumps(exports.prompt_completion(row)))
    assert [known(r) for r in layouts.rows(record)] == [known(row)]


@some
@given(row=rows())
def test_steerlm_reads_back(row: dict[str, Any]) -> None:
    texts = [turn["content"] for turn in row["prompt"]]
    assume(not any("<extra_id_1>" in text for text in (*texts, row["response"])))
    record = json.loads(json.dumps(exports.steerlm(row)))
    assert [known(r) for r in layouts.rows(record)] == [known(row)]


@some
@given(pair=st.tuples(rows(), rows(), numbers, numbers))
def test_a_preference_keeps_both_responses_and_their_values(pair: Any) -> None:
    a, b, x, y = pair
    a, b = ({**r, "scores": {"quality": q}, "prompt": a["prompt"], "group": "g"} for r, q in ((a, x), (b, y)))
    made = list(exports.preferences([a, b], lambda row: row["scores"]["quality"], set()))
    assert len(made) == (x != y)
    for record in made:
        better, worse = layouts.rows(json.loads(json.dumps(record)))
        assert better["prompt"] == worse["prompt"] == a["prompt"]
        assert {(r["response"], r["scores"]["quality"]) for r in (better, worse)} == {
            (r["response"], r["scores"]["quality"]) for r in (a, b)
        }
        assert better["scores"]["quality"] == max(x, y)


@some
@given(row=rows(), held_out=st.floats(0, 1), more=st.floats(0, 1), seed=st.integers(0, 99), other=words)
def test_a_split_is_of_the_prompt_and_grows(
    row: dict[str, Any], held_out: float, more: float, seed: int, other: str
) -> None:
    free = {column: value for column, value in row.items() if column != "split"}
    assert split_of(free, held_out, seed) == split_of({**free, "response": other, "id": other}, held_out, seed)
    if split_of(free, min(held_out, more), seed) == "test":
        assert split_of(free, max(held_out, more), seed) == "test"
    assert prompt_key(free) == prompt_key(json.loads(json.dumps(free)))


COLUMNS = sorted(
    {column for required, _ in layouts.LAYOUTS.values() for column in required} | {"id", "system", "label"}
)
TURN = st.fixed_dictionaries({}, optional={"role": plain, "content": plain, "from": plain, "value": plain})
CHOICES = st.fixed_dictionaries({}, optional={"choices": plain, "body": plain, "messages": plain, "replies": plain})
VALUES = plain | st.lists(TURN | plain, max_size=3) | CHOICES | TURN


@settings(some, max_examples=int(os.environ.get("FUZZ", 150)))
@given(data=st.data())
def test_no_record_breaks_a_layout(data: st.DataObject) -> None:
    """Whatever a record holds, it becomes rows or one sentence."""
    required, _ = layouts.LAYOUTS[data.draw(st.sampled_from(sorted(layouts.LAYOUTS)))]
    record = {column: data.draw(VALUES) for column in required}
    record |= data.draw(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=2))
    with suppress(DataError, SteerError):
        for row in layouts.rows(record):
            check(row, "here")


FLAT = ["message_id", "parent_id", "text", "role", "custom_id", "body", "response", "error", "rank", "labels"]


@settings(some, max_examples=60)
@given(records=st.lists(st.dictionaries(st.sampled_from(FLAT), plain, min_size=3), max_size=4))
def test_no_records_break_a_join(records: list[dict[str, Any]]) -> None:
    bad: list[str] = []
    found = list(joined(((str(i), record) for i, record in enumerate(records)), bad))
    assert len(found) + len(bad) <= len(records) + sum("custom_id" in record for record in records)


@some
@given(record=st.dictionaries(st.text(max_size=5), plain), path=st.text(max_size=9))
def test_a_map_finds_something_or_nothing(record: dict[str, Any], path: str) -> None:
    named, rest = mapped(record, {"prompt": path})
    assert list(named) == ["prompt"]
    assert rest == {column: value for column, value in record.items() if column not in (path, "prompt")}


@some
@given(text=words, other=words)
def test_normal_text_is_stable_and_near_texts_are_symmetric(text: str, other: str) -> None:
    normal = duplicates.normal({"prompt": [{"content": text}]})
    assert duplicates.normal({"prompt": [{"content": normal}]}) == normal
    assert duplicates.normal({"prompt": [{"content": f" {text.upper()} "}]}) == duplicates.normal(
        {"prompt": [{"content": text.upper()}]}
    )
    one, two = duplicates.Near(0.3), duplicates.Near(0.3)
    one.add(normal)
    two.add(duplicates.normal({"prompt": [{"content": other}]}))
    assert one.like(normal) == (1.0, normal)
    there = two.like(normal)
    back = one.like(duplicates.normal({"prompt": [{"content": other}]}))
    assert (there is None) == (back is None)
    assert there is None or back is None or there[0] == back[0]


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """A schema with levels that were fitted on scores."""
    import numpy as np

    called = draw(st.lists(names.filter(lambda n: n != "reward"), min_size=1, max_size=3, unique_by=str.lower))
    attributes = []
    for name in called:
        low = draw(st.integers(-3, 3))
        attributes.append(Attribute(name, low, low + draw(st.integers(1, 6)), draw(st.sampled_from([-1, 0, 1]))))
    ranges = [st.floats(a.low, a.high) | st.integers(int(a.low), int(a.high)).map(float) for a in attributes]
    scores = draw(st.lists(st.tuples(*ranges), min_size=3, max_size=20))
    try:
        bins = draw(st.sampled_from(["native", "uniform", "quantile"]))
        return fitted(Schema(tuple(attributes)), np.array(scores), bins=bins, levels=3, minimum=1)
    except SteerError:
        assume(False)
        raise


@some
@given(schema=schemas(), scores=st.lists(st.floats(-5, 10), min_size=3, max_size=3))
def test_a_schema_reads_back_and_gives_levels_in_order(schema: Schema, scores: list[float], tmp_path: Path) -> None:
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    for attribute in schema.attributes:
        levels = [attribute.level(score) for score in sorted(scores)]
        assert levels == sorted(levels)
        assert all(0 <= level < len(attribute.shown) for level in levels)
        assert [attribute.parse(text) for text in attribute.shown] == list(range(len(attribute.shown)))
    assert sum(schema.cells.values()) == sum(schema.attributes[0].counts)
    assert math.isfinite(schema.reward_mean)


@pytest.mark.parametrize("template", TEMPLATES)
@some
@given(schema=schemas(), data=st.data())
def test_a_condition_is_empty_only_without_levels(template: str, schema: Schema, data: st.DataObject) -> None:
    levels = {
        a.name: data.draw(st.integers(0, len(a.shown) - 1)) for a in schema.attributes if data.draw(st.booleans())
    }
    told = render(levels, schema, schema.names, template)
    assert (told == "") == (not levels)
    if template == "tags":
        asked = " ".join(f"{n}={schema[n].shown[level]}" for n, level in levels.items())
        if asked:
            assert parse_target(asked, schema, schema.names) == levels
