"""Levels to text: the layouts to the letter, and the traces of a condition."""

from collections.abc import Mapping
from itertools import product

import pytest

from steer.conditioning.condition import TEMPLATES, leaks, markers, render, worded
from steer.errors import SteerError
from steer.rows.schema import Attribute, Schema

CENTRES = (-1.3, -0.004, 0.836, 2.5)


def attribute(name: str, shown: str) -> Attribute:
    return Attribute(name, 0, 4, shown=tuple(shown), centres=(*CENTRES, 4.0)[: len(shown)])


ONE_TO_FIVE = Schema((attribute("quality", "12345"), attribute("helpful", "12345")))
HELPSTEER = Schema((attribute("quality", "01234"), attribute("helpfulness", "01234")))
RETURNS = Schema((attribute("reward", "0123"),))
COUNTED = Schema(
    (
        Attribute("words", 0, 99, shown=tuple("0123"), centres=(7.2, 28.4, 48.0, 74.0)),
        Attribute("verbosity", 0, 1, shown=("low", "high"), centres=(0.0, 1.0)),
    )
)
CLOSE = Schema((Attribute("words", 0, 9, shown=tuple("01"), centres=(8.1, 8.4)),))
PHRASED = worded(ONE_TO_FIVE, {"helpful": "Be helpful: {level}/{most}."})
GOLDEN: list[tuple[str, Schema, Mapping[str, int], str]] = [
    ("tags", ONE_TO_FIVE, {"quality": 3, "helpful": 4}, "<quality>4 <helpful>5\n"),
    ("tags", ONE_TO_FIVE, {"helpful": 0}, "<helpful>1\n"),
    ("steerlm", HELPSTEER, {"quality": 4, "helpfulness": 4}, "<extra_id_2>quality:4,helpfulness:4\n"),
    ("words", HELPSTEER, {"quality": 4, "helpfulness": 1}, "\n\nQuality: very high, 4 of 4. Helpfulness: low, 1 of 4."),
    ("words", COUNTED, {"words": 1, "verbosity": 0}, "\n\nAnswer in one sentence, about 28 words. Verbosity: low."),
    ("words", CLOSE, {"words": 1}, "\n\nWords: very high, 1 of 1."),  # both centres round to 8
    ("words", PHRASED, {"helpful": 4}, "\n\nBe helpful: 5/5."),
    ("decision-transformer", RETURNS, {"reward": 2}, "<reward>0.84\n"),
    ("decision-transformer", RETURNS, {"reward": 0}, "<reward>-1.30\n"),
    ("decision-transformer", RETURNS, {"reward": 1}, "<reward>0.00\n"),  # never -0.00
    ("decision-transformer", RETURNS, {"reward": 3}, "<reward>2.50\n"),
]


@pytest.mark.parametrize(("template", "schema", "levels", "text"), GOLDEN)
def test_golden_texts(template: str, schema: Schema, levels: Mapping[str, int], text: str) -> None:
    assert render(levels, schema, schema.names, template) == text


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
    assert "quality" not in text.lower()
    assert "None" not in text
    assert text.count("\n") == (2 if template == "words" else 1)


@pytest.mark.parametrize("level", [-1, 5])
def test_a_level_that_the_schema_does_not_have_is_refused(level: int) -> None:
    with pytest.raises(SteerError, match=f"attribute 'helpful': level {level} is none of the schema's 5"):
        render({"helpful": level}, ONE_TO_FIVE, ONE_TO_FIVE.names)


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(SteerError, match="unknown template 'tag'; did you mean 'tags'"):
        render({"helpful": 1}, ONE_TO_FIVE, ONE_TO_FIVE.names, "tag")


@pytest.mark.parametrize("template", [name for name, layout in TEMPLATES.items() if not layout.in_turn])
def test_leaks_and_markers_see_every_condition(template: str) -> None:
    names = ONE_TO_FIVE.names
    for a, b in product(range(5), repeat=2):
        text = render({"quality": a, "helpful": b}, ONE_TO_FIVE, names, template)
        assert leaks(names, template).search(f"And so on. {text}")
        assert any(text.startswith(marker) for marker in markers(names, template))
        assert leaks(names, template).search(text.removeprefix("<extra_id_2>"))
    for clean in ("The quality is 4.", "quality", "<em>helpful</em>", "ratio 4:5", "a < quality > b"):
        assert not leaks(names, template).search(clean)


def test_a_phrase_names_only_what_a_level_has() -> None:
    with pytest.raises(SteerError, match=r"--phrase helpful=Be \{kind\}.*\{name\}, \{level\}, \{most\}, \{degree\}"):
        worded(ONE_TO_FIVE, {"helpful": "Be {kind}."})
