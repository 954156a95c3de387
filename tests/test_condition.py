"""Levels <-> text: the layouts to the letter, and that stripping undoes rendering."""

from collections.abc import Mapping
from itertools import product

import pytest

from steer.conditioning.condition import TEMPLATES, leaks, markers, pattern, render, strip
from steer.errors import SteerError
from steer.rows.schema import Attribute, Schema

CENTRES = (-1.3, -0.004, 0.836, 2.5)


def attribute(name: str, shown: str) -> Attribute:
    return Attribute(name, 0, 4, shown=tuple(shown), centres=(*CENTRES, 4.0)[: len(shown)])


ONE_TO_FIVE = Schema((attribute("quality", "12345"), attribute("helpful", "12345")))
HELPSTEER = Schema((attribute("quality", "01234"), attribute("helpfulness", "01234")))
RETURNS = Schema((attribute("reward", "0123"),))
GOLDEN: list[tuple[str, Schema, Mapping[str, int], str]] = [
    ("tags", ONE_TO_FIVE, {"quality": 3, "helpful": 4}, "<quality>4 <helpful>5\n"),
    ("tags", ONE_TO_FIVE, {"helpful": 0}, "<helpful>1\n"),
    ("steerlm", HELPSTEER, {"quality": 4, "helpfulness": 4}, "<extra_id_2>quality:4,helpfulness:4\n"),
    ("decision-transformer", RETURNS, {"reward": 2}, "<reward>0.84\n"),
    ("decision-transformer", RETURNS, {"reward": 0}, "<reward>-1.30\n"),
    ("decision-transformer", RETURNS, {"reward": 1}, "<reward>0.00\n"),  # never -0.00
    ("decision-transformer", RETURNS, {"reward": 3}, "<reward>2.50\n"),
]
# Responses that look like conditions, or begin with what a careless strip would eat.
RESPONSES = [
    "",
    "Hello.",
    "\n",
    " \n<quality>",
    "<quality>4 <helpful>5\n",
    "<quality>4 <helpful>5\nHello.",
    "<helpful>",
    "quality:4\n",
    "<extra_id_2>quality:1\nHi",
    "4 <helpful>5\n",
    "5\n",
    "y:4,helpfulness:4\n",
    "<reward>0.84\n",
    "0.84",
]


@pytest.mark.parametrize(("template", "schema", "levels", "text"), GOLDEN)
def test_golden_texts(template: str, schema: Schema, levels: Mapping[str, int], text: str) -> None:
    assert render(levels, schema, schema.names, template) == text


@pytest.mark.parametrize("template", TEMPLATES)
def test_stripping_undoes_rendering_whatever_the_response_is(template: str) -> None:
    names = ONE_TO_FIVE.names
    choices = [{}, *({"quality": a, "helpful": b} for a, b in product(range(5), repeat=2)), {"quality": 2}]
    for levels, response in product(choices, RESPONSES):
        condition = render(levels, ONE_TO_FIVE, names, template)
        if condition:
            assert strip(condition + response, names, template) == response
            assert pattern(names, template).fullmatch(condition)
    for plain in ("<other>4\nquality: good\n", "Hello. " + render({"quality": 2}, ONE_TO_FIVE, names, template)):
        assert strip(plain, names, template) == plain


@pytest.mark.parametrize("template", TEMPLATES)
def test_rendering_is_pure(template: str) -> None:
    levels = {"quality": 1, "helpful": 2}
    first = render(levels, ONE_TO_FIVE, ONE_TO_FIVE.names, template)
    assert levels == {"quality": 1, "helpful": 2}
    assert render(levels, ONE_TO_FIVE, ONE_TO_FIVE.names, template) == first
    # The order is that of the names, not that of the levels.
    assert render({"helpful": 2, "quality": 1}, ONE_TO_FIVE, ONE_TO_FIVE.names, template) == first


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_unknown_or_not_asked_for_is_left_out(template: str) -> None:
    names = ONE_TO_FIVE.names
    assert render({}, ONE_TO_FIVE, names, template) == ""
    assert render({"quality": 1}, ONE_TO_FIVE, ("helpful",), template) == ""
    text = render({"helpful": 2}, ONE_TO_FIVE, names, template)
    assert "quality" not in text
    assert "None" not in text
    assert text.count("\n") == 1


@pytest.mark.parametrize("level", [-1, 5])
def test_a_level_that_the_schema_does_not_have_is_refused(level: int) -> None:
    with pytest.raises(SteerError, match=f"attribute 'helpful': level {level} is none of the schema's 5"):
        render({"helpful": level}, ONE_TO_FIVE, ONE_TO_FIVE.names)


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(SteerError, match="unknown template 'tag'; did you mean 'tags'"):
        render({"helpful": 1}, ONE_TO_FIVE, ONE_TO_FIVE.names, "tag")


@pytest.mark.parametrize("template", TEMPLATES)
def test_leaks_and_markers_see_every_condition(template: str) -> None:
    names = ONE_TO_FIVE.names
    for a, b in product(range(5), repeat=2):
        text = render({"quality": a, "helpful": b}, ONE_TO_FIVE, names, template)
        assert leaks(names, template).search(f"And so on. {text}")
        assert any(text.startswith(marker) for marker in markers(names, template))
        assert leaks(names, template).search(text.removeprefix("<extra_id_2>"))
    for clean in ("The quality is 4.", "quality", "<em>helpful</em>", "ratio 4:5", "a < quality > b"):
        assert not leaks(names, template).search(clean)


def test_attributes_whose_names_begin_alike_are_told_apart() -> None:
    schema = Schema((attribute("help", "01234"), attribute("helpful", "01234")))
    for template in ("tags", "steerlm"):
        text = render({"helpful": 3}, schema, schema.names, template)
        assert strip(text + "x", ("helpful",), template) == "x"
        assert strip(text + "x", ("help",), template) == text + "x"
