"""Which numeric columns become scores: not what is measured or counted, but what looks like ratings or is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_recipes.metadata import metadata
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.labelling.command import fit_command, label_command
from steer.rows import read_rows
from steer.rows.command import data_command
from steer.rows.schema import Schema

KNOWN = """
latency_ms year price num_tokens __index_level_0__ timestamp created created_at createdAt cost seed temperature
question_id prompt_tokens token_count
response_time duration_s word_count
index row idx total_cost_usd epoch size_bytes thinking enable_thinking
rating_timestamp ratingTimestamp rating_time_ms rating_id score_ts score_version rater_count num_raters score_std
scorer_id score_weight is_rated rated_at rating_source sample_weight weights rowid rownum helpfulness_std"""
RATED = """
quality turn_rating timeliness price_score error_count humor V rank label cost_rating star_level tone
response_time_rating quality_of_source helpfulness_weighted cites_source rater_1 is_good_quality score_2"""


def put(path: Path, columns: dict[str, Any], rows: int = 40) -> str:
    """Rows with these numeric columns, a list of values or one for all."""
    records = [
        {"prompt": f"p{i}", "response": f"r {i} " + "word " * (i % 7)}
        | {name: value[i % len(value)] if isinstance(value, list) else value for name, value in columns.items()}
        for i in range(rows)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize(("names", "right"), [([*KNOWN.split(), "Unnamed: 0"], True), (RATED.split(), False)])
def test_names_tell_what_is_measured_or_counted(names: list[str], right: bool) -> None:
    assert {name: metadata(name) for name in names} == dict.fromkeys(names, right)


def test_times_ids_and_counts_of_ratings_are_named_and_decide_no_reward(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"rating": [1, 2, 3, 4, 5], "rating_timestamp": [1764500000 + i for i in range(24)]}
    columns |= {"rating_id": [1000 + 3 * i for i in range(24)], "rater_count": [1, 2], "weights": [[1, 0]]}
    path = put(tmp_path / "log.jsonl", columns, rows=24)
    said = data_command(DataConfig(path, str(tmp_path / "run"), held_out=0))
    assert "rating_timestamp, rating_id, rater_count, weights (metadata, by the name)" in said
    assert all({*row["scores"]} == {"rating"} for row in read_rows(tmp_path / "run"))


@pytest.mark.parametrize("column", ["sample_weight", "exampleWeight"])
def test_a_weight_of_another_name_is_the_weight_of_its_row(column: str, tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", {"rating": [1, 2, 3], column: [0, 2, 1]}, rows=6)
    said = data_command(DataConfig(path, str(tmp_path / "run"), held_out=0))
    assert [(row["weight"], row["scores"]) for row in read_rows(tmp_path / "run")] == [
        (weight, {"rating": rating}) for _ in range(2) for weight, rating in ((2.0, 2.0), (1.0, 3.0))
    ]
    assert "its weight is 0, so it is not to be learned" in said
    assert f"read: 4 x '{column}' as the weight" in said


def test_metadata_and_what_is_on_no_scale_of_ratings_is_no_score_and_is_named(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"quality": [1, 2, 3, 4, 5], "latency_ms": [231.5, 80.1], "year": 2024, "price": 0.01}
    columns |= {
        "num_tokens": 7,
        "__index_level_0__": list(range(40)),
        "reads": [120, 4511, 9, 77, 1208],
        "zest": [1, 7],
    }
    columns |= {
        "length": [11, 200, 31],
        "verbosity": [0, 4],
        "counter": list(range(40)),
        "share": [0.25, 0.5, 0.831],
        "percent": [10, 50, 90],
        "rm_score": [-31.2, 55.5],
    }
    said = data_command(DataConfig(put(tmp_path / "log.jsonl", columns), str(tmp_path / "run"), held_out=0))
    rows = read_rows(tmp_path / "run")
    assert {*rows[0]["scores"]} == {"quality", "zest", "share", "percent", "rm_score", "verbosity"}
    assert (rows[1]["latency_ms"], rows[1]["reads"], rows[1]["__index_level_0__"]) == (
        80.1,
        4511,
        1,
    )  # kept, as columns
    assert "latency_ms, year, price, num_tokens, __index_level_0__ (metadata, by the name)" in said
    assert "reads (9 to 4511, no scale of ratings)" in said
    assert "counter (0 to 39, it counts the rows)" in said
    assert "--map NAME=COLUMN makes one a score." in said


def test_a_list_beside_several_responses_is_measured_by_the_same_scales(tmp_path: Path) -> None:
    """Log-probabilities far below any scale stay a column; ratings are scores."""
    asked = {"prompt": "Say", "responses": ["one", "two"], "ratings": [4, 2]}
    text = "".join(json.dumps({**asked, "prompt": f"Say {i}", "nats": [-310.5, -17 - i]}) + "\n" for i in range(30))
    (tmp_path / "log.jsonl").write_text(text)
    said = data_command(DataConfig(str(tmp_path / "log.jsonl"), str(tmp_path / "run"), held_out=0))
    first, second = read_rows(tmp_path / "run")[:2]
    assert (first["scores"], second["scores"]) == ({"rating": 4}, {"rating": 2})
    assert (first["nat"], second["nat"]) == (-310.5, -17)
    assert "nats (-310.5 to -17, no scale of ratings)" in said


def test_a_rating_in_words_is_named(tmp_path: Path) -> None:
    source = put(tmp_path / "log.jsonl", {"quality": ["fine", "poor"], "rating": [3, 1, 5], "topic": ["moles"]})
    said = data_command(DataConfig(source, str(tmp_path / "run"), held_out=0))
    assert read_rows(tmp_path / "run")[0]["scores"] == {"rating": 3}
    assert "no scores: quality (no number, such as 'fine'). --map" in said
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "Say", "chosen": "one", "rejected": "two"}\n')
    assert "no number" not in data_command(DataConfig(str(pairs), str(tmp_path / "pairs"), held_out=0)), (
        "it is the response"
    )


def test_grades_are_scores_in_columns_of_scores_alone(tmp_path: Path) -> None:
    columns = {"quality": ["4/5", "3 / 5"], "stars": ["★★★★☆", "★★☆☆☆"], "overall_rating": ["4 stars", "1 star"]}
    source = put(tmp_path / "log.jsonl", {**columns, "solution": ["3/4", "1/2"]})
    data_command(DataConfig(source, str(tmp_path / "run"), held_out=0))
    first, second = read_rows(tmp_path / "run")[:2]
    assert first["scores"] == {"quality": 4, "stars": 4, "overall_rating": 4}
    assert second["scores"] == {"quality": 3, "stars": 2, "overall_rating": 1}
    assert (first["solution"], second["solution"]) == ("3/4", "1/2")


@pytest.mark.parametrize("other", ["8/10", "4", "80%"])
def test_grades_on_two_scales_are_refused(other: str, tmp_path: Path) -> None:
    source = put(tmp_path / "log.jsonl", {"quality": ["4/5", other]})
    with pytest.raises(SteerError, match="a grade out of 5 at"):
        data_command(DataConfig(source, str(tmp_path / "run"), held_out=0))


@pytest.mark.parametrize(
    ("metrics", "path"),
    [
        ({"latency": 1.2, "helpfulness": 4}, "metrics.helpfulness"),
        ({"helpfulness": {"score": 4, "reason": "clear"}}, "metrics.helpfulness.score"),
        ([{"name": "length", "value": 9}, {"name": "helpfulness", "value": 4}], "metrics.1.value"),
    ],
)
def test_scores_inside_another_column_are_named_by_their_path(metrics: Any, path: str, tmp_path: Path) -> None:
    source = put(tmp_path / "log.jsonl", {"metrics": [metrics], "usage": [{"tokens": 3}], "rating": [3, 1]})
    said = data_command(DataConfig(source, str(tmp_path / "run"), held_out=0))
    assert f"no scores: metrics (numbers inside, {path}). --map NAME=COLUMN makes one a score." in said
    assert read_rows(tmp_path / "run")[0]["scores"] == {"rating": 3}
    columns = ("prompt=prompt", "response=response", f"helpfulness={path}")
    data_command(DataConfig(source, str(tmp_path / "mapped"), map=columns, held_out=0))
    assert read_rows(tmp_path / "mapped")[0]["scores"] == {"helpfulness": 4}


def test_a_column_that_is_asked_for_is_a_score(tmp_path: Path) -> None:
    source = put(tmp_path / "log.jsonl", {"latency_ms": [231.5, 80.1], "reads": [120, 4511, 9]})
    columns = ("prompt=prompt", "response=response", "latency_ms=latency_ms", "popularity=reads")
    data_command(DataConfig(source, str(tmp_path / "run"), map=columns, held_out=0))
    assert read_rows(tmp_path / "run")[0]["scores"] == {"latency_ms": 231.5, "popularity": 120}
    assert "reads" in fit_command(FitConfig(source, str(tmp_path / "s"), attribute=("reads",)))


def test_beside_mapped_columns_scores_stay_and_other_numbers_are_named(tmp_path: Path) -> None:
    record = {"q": "how?", "a": "so", "scores": {"depth": 4}, "stars": "5", "year": 2011, "attributes": {"style": 2}}
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(record))
    names = ("prompt=q", "response=a")
    said = data_command(DataConfig(str(path), str(tmp_path / "run"), map=names, held_out=0))
    assert "no scores: stars, attributes (not named by --map). --map NAME=COLUMN makes one a score." in said
    assert read_rows(tmp_path / "run")[0]["scores"] == {"depth": 4.0}
    more = {"prompt": "q", "response": "a", "rating": "stars", "style": "attributes.style"}
    (row,) = read_rows(path, columns=more)
    assert row["scores"] == {"depth": 4.0, "rating": 5.0, "style": 2.0}
    (row,) = read_rows([{**record, "scores": {"depth": [4, 2]}}], columns=dict(pair.split("=") for pair in names))
    assert (row["scores"], row["raters"]) == ({"depth": 3.0}, {"depth": [4.0, 2.0]})
    path.write_text(json.dumps({**record, "b": "not so"}))  # whose of the two are they?
    pair = ("prompt=q", "chosen=a", "rejected=b")
    said = data_command(DataConfig(str(path), str(tmp_path / "pair"), map=pair, held_out=0))
    assert "no scores: scores, stars, attributes (not named by --map)." in said


def test_scores_that_the_file_names_are_scores_whatever_they_are(tmp_path: Path) -> None:
    record = {"prompt": "Hi", "response": "Hello", "attributes": {"latency_ms": 231.5, "reads": 4511}}
    (tmp_path / "log.jsonl").write_text(json.dumps(record))
    data_command(DataConfig(str(tmp_path / "log.jsonl"), str(tmp_path / "run"), held_out=0))
    assert read_rows(tmp_path / "run")[0]["scores"] == record["attributes"]


def test_an_overall_score_of_ten_on_an_answer_that_is_bad_in_all_aspects_is_unknown(tmp_path: Path) -> None:
    def answer(aspect: str, overall: float) -> dict[str, Any]:
        notes = {name: {"Rating": aspect} for name in ("helpfulness", "honesty")}
        return {"response": f"r{aspect}{overall}", "overall_score": overall, "annotations": notes}

    record = {"instruction": "Hi", "completions": [answer("1", 10), answer("5", 10), answer("1", 2)]}
    (tmp_path / "log.jsonl").write_text(json.dumps(record))
    said = data_command(DataConfig(str(tmp_path / "log.jsonl"), str(tmp_path / "run"), held_out=0))
    assert [row["scores"].get("overall_score") for row in read_rows(tmp_path / "run")] == [None, 10, 2]
    assert "set to unknown: 1 x overall_score 10 on an answer whose aspects are all 1 or 2" in said
    assert not any("_noted" in row for row in read_rows(tmp_path / "run"))


def test_a_weight_marks_of_a_template_and_a_turns_name_are_noted_with_their_number(tmp_path: Path) -> None:
    ask = [{"role": "user", "name": "ann", "content": "Hi"}]
    records = [
        {"prompt": "Hi", "response": "a", "weight": 0},
        {"prompt": "Hi", "response": "b", "weight": 1.0},
        {"prompt": "Hi", "response": "c", "weight": 0.5},
        {"prompt": "<|im_start|>user\nHi<|im_end|>", "response": "d"},
        {"prompt": ask, "response": "e"},
        {"prompt": ask, "response": "f", "weight": "heavy"},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, records)))
    summary = data_command(DataConfig(str(tmp_path / "log.jsonl"), str(tmp_path / "run"), held_out=0))
    assert [row["response"] for row in read_rows(tmp_path / "run")] == ["b", "c", "d", "e", "f"]
    assert f"left out: 1 like {tmp_path}/log.jsonl:1: its weight is 0" in summary
    assert "ignored: 1 x a weight that is no number of 0 or more" in summary
    assert [row.get("weight") for row in read_rows(tmp_path / "run")] == [1.0, 0.5, None, None, None]
    assert "kept as text: 1 x <|im_start|> in a prompt or response" in summary
    assert "kept: 2 x the name of a turn" in summary


def shown(folder: Path) -> dict[str, tuple[str, ...]]:
    """The levels of labelled rows as users see them."""
    schema = Schema.load(folder / "schema.json")
    return {name: schema[name].shown for name in schema.own}


def test_the_scale_of_a_known_layout_does_not_depend_on_what_occurs(tmp_path: Path) -> None:
    def answer(i: int) -> dict[str, Any]:
        notes = {"helpfulness": {"Rating": str(2 + i % 3)}}
        return {"response": f"r{i}", "overall_score": 3.5 + i % 4, "annotations": notes}

    records = [{"instruction": f"p{i}", "completions": [answer(i), answer(i + 1)]} for i in range(12)]
    (tmp_path / "uf.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    helpsteer = {"helpfulness": [1, 2], "correctness": 3, "coherence": 2, "complexity": 2, "verbosity": [1, 3]}
    put(tmp_path / "hs.jsonl", helpsteer)
    for name, right in (
        ("uf", {"helpfulness": "1 2 3 4 5", "overall_score": "1 2 3 4 5 6 7 8 9 10"}),
        ("hs", dict.fromkeys(helpsteer, "0 1 2 3 4")),
    ):
        run, labels = str(tmp_path / name), str(tmp_path / f"{name}-labels")
        assert "(known of the layout, or --range)" in data_command(DataConfig(str(tmp_path / f"{name}.jsonl"), run))
        said = label_command(LabelConfig(run, labels, min_support=1))
        assert shown(Path(labels)) == {n: tuple(levels.split()) for n, levels in right.items()}
        if name == "uf":
            assert (
                "'levels' in the rows count from 0: helpfulness 0 is 1, 4 is 5; overall_score 0 is 1, 9 is 10." in said
            )


def test_a_scale_that_nobody_knows_is_guessed_aloud_and_set_by_range(tmp_path: Path) -> None:
    source = put(tmp_path / "log.jsonl", {"zest": [2, 3.5, 4]})
    said = data_command(DataConfig(source, str(tmp_path / "plain"), held_out=0))
    assert "scale, *guessed* from what occurs: zest 2 to 4. --range NAME=LOW:HIGH sets it." in said
    said = data_command(DataConfig(source, str(tmp_path / "told"), held_out=0, range=("zest=1:5",)))
    assert "scale: zest 1 to 5" in said
    label_command(LabelConfig(str(tmp_path / "told"), str(tmp_path / "labels"), min_support=1))
    assert shown(tmp_path / "labels") == {"zest": ("1", "2", "3", "4", "5")}


@pytest.mark.parametrize(("rated", "said"), [(10, True), (30, False)])
def test_the_attribute_that_leaves_most_rows_without_a_reward_is_named(rated: int, said: bool, tmp_path: Path) -> None:
    records = [
        {"prompt": f"p{i}", "response": "r", "quality": i % 5, **({"warmth": i % 3} if i < rated else {})}
        for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    how: dict[str, Any] = {"scorer": "human", "held_out": 0.1}
    found = label_command(LabelConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "out"), **how))
    line = f"reward: {rated} of 40 rows have one, for it takes all attributes with a better end; "
    assert (line + "with --neither warmth 40 would." in found) is said
    label_command(LabelConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "more"), neither=("warmth",), **how))
    rewards = [sum(row["reward"] is not None for row in read_rows(tmp_path / run)) for run in ("out", "more")]
    assert rewards == [rated, 40]
