"""Targets as users write them, trade-offs, and the report of what the data supports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from steer.cli import cli
from steer.conditioning.command import targets_command
from steer.conditioning.targets import opposite, pareto, parse_target, parse_weights, ranked
from steer.config.conditioning import TargetsConfig
from steer.errors import SteerError
from steer.models.card import Card
from steer.models.policy import Policy
from steer.rows.schema import Attribute, Schema

NAMES = ("help", "words", "harm")


def attribute(name: str, direction: int) -> Attribute:
    shown = ("1", "2", "3")
    return Attribute(name, 1, 3, direction, float(direction != 0), (1.5, 2.5), shown, (1.0, 2.0, 3.0), (9, 9, 9))


@pytest.fixture
def schema() -> Schema:
    """Three attributes with three levels; help and words rise together, harm is low where help is high."""
    cells: dict[tuple[int | None, ...], int] = {(0, 0, 2): 9, (1, 1, 1): 20, (1, 2, 0): 7, (2, 2, 1): 5, (2, 0, 0): 2}
    return Schema((attribute("help", 1), attribute("words", 0), attribute("harm", -1)), cells, 5)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("help=3 words=high", {"help": 2, "words": 2}),
        ("words=medium,help=2", {"help": 1, "words": 1}),
        ("harm=best", {"harm": 0}),
        ("harm=worst", {"harm": 2}),
        ("words=low", {"words": 0}),
        # A range takes the best supported level: help=3 words=1 is too rare.
        ("help>=2", {"help": 2}),
        ("help=1..3 words=1", {"help": 0, "words": 0}),
        ("help>=2 words<=2", {"help": 1, "words": 1}),
        ("harm=low..high words=3", {"words": 2, "harm": 0}),
        # Nothing is supported there: the best by itself, which the guard then refuses by name.
        ("help=3 words<=2", {"help": 2, "words": 1}),
    ],
)
def test_words_and_ranges_become_levels(text: str, target: dict[str, int], schema: Schema) -> None:
    found = parse_target(text, schema, NAMES)
    if text == "help=3 words<=2":
        assert found["help"] == 2
        with pytest.raises(SteerError, match=r"Nearest supported: help=\d words=\d"):
            schema.check(found)
    else:
        assert found == target
        assert list(found) == [n for n in NAMES if n in found]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("help=3..1", r"write a range as help=LOW\.\.HIGH"),
        ("help>=1..2", r"write a range as help=LOW\.\.HIGH"),
        ("help=best..", r"target help=best\.\.: no such level"),
        ("help>=9", r"target help>=9: no such level"),
        ("help>3", r"write NAME=LEVEL"),
        ("help=4", r"help has 1, 2, 3\. Also: low, medium, high, best, worst\.$"),
        ("words=best", r"no such level; words has 1, 2, 3\. Also: low, medium, high\. Neither end is better\.$"),
        ("hepl>=2", r"did you mean 'help'"),
        ("help>=2 help<=2", r"'help' is given twice"),
    ],
)
def test_targets_that_are_none_are_refused(text: str, message: str, schema: Schema) -> None:
    with pytest.raises(SteerError, match=message):
        parse_target(text, schema, NAMES)


def test_the_opposite_is_the_mirror_image_or_what_is_near_it(schema: Schema) -> None:
    assert opposite({"help": 0, "words": 0, "harm": 2}, schema) == {"help": 1, "words": 2, "harm": 0}
    assert opposite({"words": 2}, schema) == {"words": 0}
    assert opposite({"help": 1}, schema) == {"help": 1}


def test_pareto_keeps_what_no_other_beats_and_orders_it_by_the_weights(schema: Schema) -> None:
    weights = parse_weights("help=.7, words=-.3", schema, NAMES)
    assert weights == {"help": 0.7, "words": -0.3}
    # (help, words): (2, 2) 5 rows, (1, 1) 20, (1, 2) 7, (0, 0) 9; (1, 2) is beaten by (1, 1).
    found = pareto(schema, weights)
    assert found == [
        ({"help": 2, "words": 2}, pytest.approx(0.7 - 0.3), 5),
        ({"help": 1, "words": 1}, pytest.approx(0.7 / 2 - 0.3 / 2), 20),
        ({"help": 0, "words": 0}, pytest.approx(0.0), 9),
    ]
    turned = pareto(schema, parse_weights("help=.2,words=-.8", schema, NAMES))
    assert turned[0][0] == {"help": 0, "words": 0}
    # A weight speaks of the better end, so harm's counts downwards.
    assert parse_weights("harm=1", schema, NAMES) == {"harm": -1.0}
    assert pareto(schema, {"harm": -1.0})[0][0] == {"harm": 0}
    assert len(pareto(schema, {"harm": -1.0})) == 1


def test_weights_that_are_none_are_refused(schema: Schema) -> None:
    for text, message in (
        ("hepl=1", "did you mean 'help'"),
        ("help=x", "write NAME=NUMBER"),
        ("help", "write NAME=NUMBER"),
        ("help=0", "not 0"),
        ("help=nan", "not 0"),
    ):
        with pytest.raises(SteerError, match=message):
            parse_weights(text, schema, NAMES)


def test_a_policy_without_condition_has_no_targets(schema: Schema) -> None:
    plain = Policy(None, None, None, "plain")
    assert plain.targets([]) == plain.targets(["none"]) == plain.targets(["best"]) == [{}]
    with pytest.raises(SteerError, match="cannot aim at 'help=3'"):
        plain.targets(["help=3"])


def test_best_asks_for_nothing_where_no_attribute_has_a_better_end(
    schema: Schema, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = Card("base", "", "none", "conditional", attributes=("words",), schema=schema)
    policy = Policy(None, None, card, "lengths")
    assert policy.targets([]) == policy.targets(["best"]) == policy.targets(["none"]) == [{}]
    line = (
        "steer: lengths: 'best' asks for nothing, for neither end of words is better: no condition. Name a level, such"
    )
    assert capsys.readouterr().err == f"{line} as words=1.\n"
    assert policy.targets(["words=2", "best"]) == [{"words": 1}, {}]
    card.save(tmp_path / "policy")
    said = targets_command(TargetsConfig(str(tmp_path / "policy")))
    assert "best: no condition, for no attribute has a better end" in said
    assert "The 3 of 3 with the most rows:\n  words=2  (20 rows)\n  words=3  (12 rows)\n" in said
    directed = Policy(None, None, replace(card, attributes=NAMES), "all")
    assert directed.targets(["best"]) == [schema.best(NAMES)] != [{}]
    assert capsys.readouterr().err == ""


def test_nothing_is_asked_where_no_combination_is_supported(
    schema: Schema, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the rows rated on one attribute, half on another: no row has both."""
    apart = replace(schema, cells={(2, None, None): 9, (1, None, None): 7, (None, None, 1): 20})
    few = "no combination of help, words, harm occurs in 5 rows. Ask for fewer attributes, such as --target harm=2"
    card = Card("base", "", "none", "conditional", attributes=NAMES, schema=apart)
    policy = Policy(None, None, card, "halves")
    assert policy.targets([]) == [{}]
    assert capsys.readouterr().err == f"steer: halves: is asked for nothing, for {few}.\n"
    assert policy.targets(["harm=2"]) == [{"harm": 1}]
    with pytest.raises(SteerError, match=few):
        policy.targets(["best"])
    card.save(tmp_path / "policy")
    assert f"\nN{few[1:]}." in targets_command(TargetsConfig(str(tmp_path / "policy")))


def test_the_command_is_a_doorway_on_the_targets_that_are_supported(schema: Schema, tmp_path: Path) -> None:
    schema.save(tmp_path / "labels" / "schema.json")
    Card("base", "", "none", "conditional", attributes=NAMES, schema=schema).save(tmp_path / "policy")
    for folder in ("labels", "policy"):
        said = targets_command(TargetsConfig(str(tmp_path / folder)))
        assert "help   higher is better   1: 9  2: 27  3: 7" in said
        assert "4 of 27 combinations of all attributes have 5 rows or more." in said
        assert "best: help=2 words=3 harm=1" in said  # as good as help=3 words=3 harm=2, and more rows
    beside = targets_command(TargetsConfig(str(tmp_path / "policy"), target="words=1", weights="help=.7,words=-.3"))
    assert "beside words=1" in beside
    assert "\nbest: " not in beside  # the first of the combinations is the best beside it
    assert "1: 9  [2: 0]  [3: 2]" in beside
    assert "  +0.40  help=3 words=3  (5 rows)" in beside
    assert beside.endswith("best for these weights: help=3 words=3")
    combinations = [f"  {schema.text(aim)}  ({rows} rows)" for aim, rows in ranked(schema, NAMES, {"words": 0})]
    assert [line for line in beside.splitlines() if line.startswith("  ") and line[2] != "+"] == combinations
    shown = CliRunner().invoke(cli, ["targets", str(tmp_path / "policy")])
    assert shown.output.strip() == targets_command(TargetsConfig(str(tmp_path / "policy")))
    with pytest.raises(SteerError, match=r'holds neither steer\.json nor schema\.json\. .* of "steer label" or "steer'):
        targets_command(TargetsConfig(str(tmp_path)))
    with pytest.raises(SteerError, match=r"nowhere: no such folder\."):
        targets_command(TargetsConfig(str(tmp_path / "nowhere")))
    (tmp_path / "config.json").write_text('{"inputs": {}}')
    with pytest.raises(SteerError, match=r"is not finished and has no resume point\. Run its command again\."):
        targets_command(TargetsConfig(str(tmp_path)))
    Card("base", "", "none", "mle").save(tmp_path / "mle")
    with pytest.raises(SteerError, match="was not conditioned"):
        targets_command(TargetsConfig(str(tmp_path / "mle")))
