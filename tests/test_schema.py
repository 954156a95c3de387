"""Levels, support, reward and targets: what a score becomes, and what a user may ask for."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from steer.conditioning.chat import example
from steer.conditioning.targets import factorial, parse_target
from steer.errors import SteerError
from steer.rows.binning import described, fitted
from steer.rows.schema import REWARD, Attribute, Schema

NAN = float("nan")


def schema_of(*columns: list[float], bins: str = "native", levels: int = 5, minimum: int = 1) -> Schema:
    """Attributes a, b, ... on 0..4, higher is better, fitted on the columns of scores."""
    plain = Schema(tuple(Attribute(name, 0.0, 4.0) for name, _ in zip("abcdef", columns)))
    return fitted(plain, np.array(columns).T, bins=bins, levels=levels, minimum=minimum)


def one(scores: list[float], bins: str, levels: int = 4, low: float = 0.0, high: float = 4.0) -> Attribute:
    schema = fitted(Schema((Attribute("x", low, high),)), np.array([scores]).T, bins=bins, levels=levels)
    return schema["x"]


def refusal(text: str, schema: Schema, names: tuple[str, ...]) -> str:
    with pytest.raises(SteerError) as caught:
        parse_target(text, schema, names)
    return str(caught.value)


@pytest.mark.parametrize(("score", "level"), [(0.5, 1), (1.5, 2), (2.5, 3), (3.5, 4), (0.49, 0), (2.49, 2), (4.7, 4)])
def test_a_score_on_an_edge_belongs_to_the_upper_level(score: float, level: int) -> None:
    # Python's round would give 0, 2, 2, 4 on the four edges.
    assert one([0.0, 4.0], "native").level(score) == level
    assert one([0.0, 4.0], "native").level(-3.0) == 0


def test_a_grid_from_1_to_5_is_shown_as_1_to_5() -> None:
    attribute = one([1.0, 2.2, 5.0], "native", low=1.0, high=5.0)
    assert attribute.shown == ("1", "2", "3", "4", "5")
    assert attribute.edges == (1.5, 2.5, 3.5, 4.5)
    assert [attribute.level(x) for x in (1.0, 1.5, 2.5, 5.0)] == [0, 1, 2, 4]
    assert attribute.parse("5") == 4
    assert attribute.counts == (1, 1, 0, 0, 1)
    assert attribute.centres == (1.0, 2.2, 3.0, 4.0, 5.0)  # an empty level has its middle


def test_native_falls_back_to_quantiles_where_the_range_is_no_small_integer_grid() -> None:
    scores = [0.25 * i for i in range(16)]
    assert one(scores, "native", high=3.75) == one(scores, "quantile", high=3.75)
    assert one(scores, "native", high=200.0).edges == one(scores, "quantile").edges


def test_uniform_bins_have_equal_widths() -> None:
    attribute = one([0.0, 0.5, 1.0, 3.0], "uniform", levels=4)
    assert attribute.edges == (1.0, 2.0, 3.0)
    assert attribute.counts == (2, 1, 0, 1)
    assert one([2.0, 2.0], "uniform", low=2.0, high=2.0).shown == ("0",)


def test_quantile_bins_have_equal_counts() -> None:
    attribute = one([float(i) for i in range(100)], "quantile", levels=4)
    assert attribute.counts == (25, 25, 25, 25)
    assert attribute.centres == (12.0, 37.0, 62.0, 87.0)


@pytest.mark.parametrize(
    ("scores", "counts"),
    [
        ([1.0] * 6 + [2.0, 3.0], (6, 1, 1)),
        ([0.0] * 80 + [0.1 * i for i in range(1, 31)], (80, 10, 10, 10)),  # zeros by themselves, the others in thirds
        ([0.0] * 5 + [3.0] * 5, (5, 5)),  # the median is 1.5, and between it and 3 there is no row
        ([2.0] * 7, (7,)),
    ],
)
def test_ties_have_a_quantile_level_of_their_own_and_none_is_without_rows(
    scores: list[float], counts: tuple[int, ...]
) -> None:
    assert one(scores, "quantile", levels=4).counts == counts


def test_an_attribute_without_a_known_score_gets_no_levels() -> None:
    with pytest.raises(SteerError, match="attribute 'b': no training row has a score"):
        schema_of([1.0, 2.0], [NAN, NAN])


def test_directions_come_from_well_known_names_and_are_turned_by_hand() -> None:
    schema = described(("quality", "toxicity", "verbosity"), np.array([[1.0, 0.0, 2.0], [4.0, 1.0, NAN]]))
    assert [(a.direction, a.weight) for a in schema.attributes] == [(1, 1.0), (-1, 1.0), (0, 0.0)]
    assert (schema["verbosity"].low, schema["verbosity"].high) == (2.0, 2.0)
    turned = schema.turned({"quality": (-1, 0.5)})
    assert (turned["quality"].direction, turned["quality"].weight) == (-1, 0.5)
    assert turned["toxicity"] == schema["toxicity"]


def test_the_reward_is_a_direction_aware_weighted_sum_in_units_of_the_data() -> None:
    plain = Schema((Attribute("a", 0, 4), Attribute("b", 0, 4, -1, 0.5), Attribute("c", 0, 4, 0)))
    scores = np.array([[1.0, 0.0, 9.0], [2.0, 4.0, 0.0], [4.0, 2.0, 5.0]])
    schema = fitted(plain, scores)
    raw = [1.0 - 0.5 * 0.0, 2.0 - 0.5 * 4.0, 4.0 - 0.5 * 2.0]
    mean = sum(raw) / 3
    std = (sum((r - mean) ** 2 for r in raw) / 3) ** 0.5
    found = [schema.reward(dict(zip("abc", row))) for row in scores.tolist()]
    assert found == pytest.approx([(r - mean) / std for r in raw])
    assert schema.cells == {(1, 0, 4, 1): 1, (2, 4, 0, 0): 1, (4, 2, 4, 2): 1}
    assert [schema.levels({REWARD: r})[REWARD] for r in found] == [1, 0, 2]  # the edges are in the reward's units
    assert schema.names == ("a", "b", "c", REWARD)
    assert schema.own == ("a", "b", "c")


def test_an_unknown_score_gives_no_reward_no_level_and_a_cell_with_none() -> None:
    schema = schema_of([0.0, 4.0, NAN], [1.0, 1.0, 2.0])
    assert schema.reward({"a": None, "b": 1.0}) is None
    assert schema.reward({"b": 1.0}) is None
    assert schema.levels({"a": None, "b": 2.0}) == {"b": 2}
    assert {cell[:2]: n for cell, n in schema.cells.items()} == {(0, 1): 1, (4, 1): 1, (None, 2): 1}
    assert schema.count({"b": 2}) == 1
    assert schema.supported(("a", "b")) == {(0, 1): 1, (4, 1): 1}


def test_everything_survives_a_round_trip_through_json(tmp_path: Path) -> None:
    schema = schema_of([0.1, 3.3, 2.0, NAN], [1.0, 0.7, 2.0, 4.0], bins="quantile", minimum=3)
    schema.save(tmp_path / "schema.json")
    loaded = Schema.load(tmp_path / "schema.json")
    assert loaded == schema
    assert (loaded.reward_mean, loaded.reward_std, loaded.minimum) == (schema.reward_mean, schema.reward_std, 3)
    scores = {"a": 1.23, "b": 0.7}
    assert loaded.reward(scores) == schema.reward(scores) is not None


@pytest.mark.parametrize(
    "value", [[], {}, {"attributes": [{"name": "a"}]}, {"attributes": [{"name": "a", "low": "0", "high": 4}]}]
)
def test_a_file_that_is_no_schema_is_refused_by_name(tmp_path: Path, value: object) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(value))
    with pytest.raises(SteerError, match=r"schema\.json: not a schema"):
        Schema.load(tmp_path / "schema.json")


def test_support_counts_rows_per_level_and_per_joint_level() -> None:
    schema = schema_of([0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 1.0, 3.0], minimum=2)
    assert schema["a"].counts == (2, 0, 0, 0, 2)
    assert schema["b"].counts == (0, 3, 0, 1, 0)
    assert schema.count({"a": 0, "b": 1}) == 2
    assert schema.count({"a": 4, "b": 3}) == 1
    assert schema.count({}) == 4
    assert schema.supported(("b", "a")) == {(1, 0): 2}
    assert schema.supported(("a",)) == {(0,): 2, (4,): 2}


def test_check_refuses_what_the_data_lacks_and_names_the_nearest_supported() -> None:
    schema = schema_of([0.0] * 3 + [4.0] * 3, [0.0] * 3 + [3.0] * 3, minimum=3)
    schema.check({"a": 4, "b": 3})
    with pytest.raises(SteerError) as caught:
        schema.check({"a": 4, "b": 1})
    assert "target a=4 b=1: seen together in 0 rows, fewer than 3" in str(caught.value)
    assert "Nearest supported: a=4 b=3 (3 rows)" in str(caught.value)
    with pytest.raises(SteerError, match="no combination of these has 3"):
        schema_of([0.0, 1.0], minimum=3).check({"a": 0})


def test_best_is_the_highest_reward_that_occurs_jointly() -> None:
    # Both at 4 never occur together; a=4 b=2 is worth 6, a=2 b=3 only 5.
    schema = schema_of([4.0, 4.0, 2.0, 2.0], [2.0, 2.0, 3.0, 3.0], minimum=2)
    assert schema.best(("a", "b")) == {"a": 4, "b": 2}
    lower = schema.turned({"a": (-1, 1.0)})
    assert lower.best(("a", "b")) == {"a": 2, "b": 3}
    assert schema.best((REWARD,)) == {REWARD: len(schema[REWARD].shown) - 1}


def test_best_gives_neutral_attributes_their_most_common_level() -> None:
    schema = schema_of([4.0] * 5 + [1.0] * 9, [3.0, 1.0, 1.0, 1.0, 4.0] + [4.0] * 9).turned({"b": (0, 0.0)})
    assert schema.best(("a", "b")) == {"a": 4, "b": 1}


def test_best_says_so_where_no_combination_has_enough_rows() -> None:
    with pytest.raises(SteerError, match="no combination of a, b occurs in 2 rows"):
        schema_of([0.0, 1.0], [1.0, 0.0], minimum=2).best(("a", "b"))


def test_an_example_is_supported_and_not_the_best_if_another_level_is() -> None:
    schema = schema_of([0.0, 1.0, 1.0, 3.0, 3.0, 4.0], minimum=2)  # 0 and 4 are too rare
    assert example(schema, "a") == '{"a": 1}'
    assert example(schema.turned({"a": (-1, 1.0)}), "a") == '{"a": 3}'
    assert example(schema_of([0.0, 4.0, 4.0], minimum=2), "a") == '{"a": 4}'
    assert example(schema_of([0.0, 4.0], minimum=2), "a") == '{"a": 0}'


def test_rows_with_levels_together_are_those_of_the_cells() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (60, 3)).astype(float)
    scores[rng.random((60, 3)) < 0.2] = NAN
    schema = schema_of(*scores.T.tolist())
    for x, y in (("a", "b"), ("c", "a"), ("b", "b")):
        at, counts = [schema.names.index(n) for n in (x, y)], schema.together(x, y)
        assert counts.shape == (5, 5)
        for i, j in np.ndindex(5, 5):
            wanted = sum(n for cell, n in schema.cells.items() if (cell[at[0]], cell[at[1]]) == (i, j))
            assert counts[i, j] == wanted == (schema.count({x: i, y: j}) if x != y or i == j else 0)
    assert schema.count({}) == 60
    assert Schema(schema.attributes).count({"a": 1}) == 0


def test_recounted_keeps_levels_and_constants_and_counts_other_rows() -> None:
    schema = schema_of([0.0, 1.0, 4.0], minimum=2)
    rows = [{"levels": {"a": 1}}, {"levels": {"a": 1}}, {"levels": {}}]
    again = schema.recounted(rows)
    assert again["a"].counts == (0, 2, 0, 0, 0)
    assert again.cells == {(1, None): 2, (None, None): 1}
    assert again["a"].edges == schema["a"].edges
    assert (again.reward_mean, again.reward_std) == (schema.reward_mean, schema.reward_std)


def test_factorial_draws_supported_cells_with_margins_near_uniform() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 2000)
    b = np.clip(a + rng.integers(-1, 2, 2000), 0, 4)  # strongly correlated, far corners absent
    schema = schema_of(a.astype(float).tolist(), b.astype(float).tolist(), minimum=5)
    targets = factorial(schema, ("a", "b"), 1000, seed=1)
    assert len(targets) == 1000
    assert {(t["a"], t["b"]) for t in targets} <= set(schema.supported(("a", "b")))
    for name in "ab":
        counts = Counter(t[name] for t in targets)
        assert all(190 < counts[level] < 210 for level in range(5)), (name, counts)
    assert targets == factorial(schema, ("a", "b"), 1000, seed=1)
    assert targets != factorial(schema, ("a", "b"), 1000, seed=2)


def test_targets_are_read_in_the_order_of_the_policy() -> None:
    schema = schema_of([0.0, 4.0, 4.0], [1.0, 2.0, 2.0])
    names = ("a", "b")
    assert parse_target("b=2, a=4", schema, names) == {"a": 4, "b": 2}
    assert list(parse_target("b=2 a=4", schema, names)) == ["a", "b"]
    assert parse_target("a=low b=high", schema, names) == {"a": 0, "b": 4}
    assert parse_target("a=best", schema.turned({"a": (-1, 1.0)}), names) == {"a": 0}
    assert parse_target(" best ", schema, names) == schema.best(names) == {"a": 4, "b": 2}
    assert parse_target("none", schema, names) == {}
    assert schema.text({"a": 4, "b": 2}) == "a=4 b=2"


def test_a_bad_target_is_refused_with_what_can_be_asked_for() -> None:
    plain = Schema((Attribute("helpful", 1, 5), Attribute("verbosity", 0, 4, 0)))
    schema = fitted(plain, np.array([[1.0, 0.0], [5.0, 4.0]]))
    names = ("helpful", "verbosity")
    assert "target helpful=6: no such level; helpful has 1, 2, 3, 4, 5." in refusal("helpful=6", schema, names)
    assert "no such level" in refusal("helpful=0", schema, names)
    assert "no such level" in refusal("helpful=4.5", schema, names)
    assert "no such level" in refusal("verbosity=best", schema, names)  # has no better end
    assert "did you mean 'helpful'?" in refusal("helpfull=5", schema, names)
    assert "Known: helpful." in refusal("verbosity=1", schema, ("helpful",))  # not conditioned on
    assert "'helpful' is given twice" in refusal("helpful=5 helpful=4", schema, names)
    assert "write NAME=LEVEL, for example helpful=5" in refusal("helpful", schema, names)
    assert "write NAME=LEVEL" in refusal("helpful=", schema, names)


def test_position_is_continuous_between_levels() -> None:
    grid = one([1.0, 5.0], "native", low=1.0, high=5.0)
    assert grid.position(np.array([1.0, 2.5, 5.0])).tolist() == [0.0, 1.5, 4.0]
    bins = one([0.0, 0.0, 10.0, 10.0, 30.0, 30.0], "quantile", levels=3, high=30.5)
    assert bins.centres == (0.0, 10.0, 30.0)
    found = bins.position(np.array([-10.0, 5.0, 20.0, 50.0, NAN]))
    assert found[:4].tolist() == [-1.0, 0.5, 1.5, 3.0]
    assert np.isnan(found[4])


@pytest.mark.parametrize("edges", [(0.5,), (1.5, 2.5), (0.5, 1.5, 2.5, 3.5)])
def test_edges_that_begin_like_whole_numbers_are_levels_of_their_own(edges: tuple[float, ...]) -> None:
    """A place between levels is a place between their centres, so what lies far above is no level that is not there."""
    scores = np.array([[0.0, 1.0, 2.0, 3.0, 12.0]]).T
    attribute = fitted(Schema((Attribute("x", 0.0, 12.0),)), scores, edges={"x": edges})["x"]
    assert attribute.position(np.array(attribute.centres)).tolist() == list(range(len(edges) + 1))
    assert attribute.span(0) == f"below {edges[0]}"
    assert [attribute.score(float(i)) for i in range(len(edges) + 1)] == pytest.approx(attribute.centres)


def test_a_single_level_has_no_place_above_it() -> None:
    attribute = one([5.0, 5.0], "native", low=5.0, high=5.0)
    assert attribute.position(np.array([5.0, 60.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scores", [[60.0, 80.0, 220.0], [5.0, 20.0, 39.0]])
def test_centres_rise_where_edges_lie_outside_the_data(scores: list[float]) -> None:
    plain = Schema((Attribute("words", min(scores), max(scores)),))
    attribute = fitted(plain, np.array([scores]).T, edges={"words": (20.0, 50.0, 100.0)})["words"]
    assert list(attribute.centres) == sorted(attribute.centres)
    found = attribute.position(np.array([10.0, 30.0, 70.0, 150.0]))
    assert (np.diff(found) > 0).all(), "a higher score is a higher place"


@pytest.mark.parametrize("score", [0.1, 0.3, 0.7, 2.3])
def test_a_reward_that_never_varies_is_in_units_of_one(score: float) -> None:
    for n in (3, 7, 10, 49):
        schema = schema_of([score] * n)
        assert schema.reward_std == 1.0, "and not what rounding leaves"
        assert schema.reward({"a": score + 0.5}) == pytest.approx(0.5)


def test_levels_mean_the_same_in_two_schemas_if_their_edges_are_equal() -> None:
    native, quantiles = (schema_of([0.0, 1.0, 2.0, 4.0], [4.0, 4.0, 0.0, 1.0], bins=b) for b in ("native", "quantile"))
    assert native.alike(native.recounted([]), ("a", "b"))
    assert not native.alike(quantiles, ("a",))
    assert native.alike(quantiles, ())
    assert not native.alike(schema_of([0.0, 4.0]), ("b",)), "it has no b"


def test_nothing_is_asked_of_attributes_without_a_better_end() -> None:
    schema = schema_of([4.0] * 5 + [1.0] * 9, [3.0, 1.0, 1.0, 1.0, 4.0] + [4.0] * 9).turned({"b": (0, 0.0)})
    assert schema.unasked(("a", "b")) == {"a": 4}
    assert schema.unasked(("b",)) == {}
    assert schema.best(("b",)) == parse_target("best", schema, ("b",)) == {}, "no end is better: no condition"
