"""What a vote between two responses means: words, numbers, columns, and what is refused because nobody can know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_recipes import layouts, votes
from data_recipes.streams import DataError
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.rows import read_rows
from steer.rows.command import data_command

A, B, TIE = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)


def put(path: Path, given: list[Any], column: str = "preference") -> str:
    """A file of comparisons with these votes."""
    records = [{"prompt": f"p{i}", "response_a": "x", "response_b": "y", column: v} for i, v in enumerate(given)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def preferred(folder: Path) -> list[float | None]:
    """The preference of the first response of each comparison."""
    return [row["scores"].get("preference") for row in read_rows(folder)][::2]


@pytest.mark.parametrize(
    ("word", "right"),
    [(w, A) for w in ("a", "A", "model_a", "Response A", "first", "left", "A is better", "[[A]]", 2, "1")]
    + [(w, B) for w in ("b", "model_b", "response_b", "Model B", "second", "right", "B wins", "[[B]]", -1, "-2")]
    + [(w, TIE) for w in ("tie", "Tie (both bad)", "tie (bothbad)", "bothbad", "both good", "draw", "equal", "same", 0)]
    + [(w, None) for w in (None, "", "unknown", "N/A")],
)
def test_a_vote_in_any_words_is_what_it_says(word: Any, right: tuple[float, float] | None) -> None:
    assert votes.vote(word) == right


@pytest.mark.parametrize("word", ["model_c", "gpt-4", "ab", "yes", "better"])
def test_an_unknown_word_is_refused_by_name(word: str) -> None:
    with pytest.raises(DataError, match=f"the vote '{word}'"):
        votes.vote(word)


def test_one_and_two_name_the_responses_and_are_no_strengths(tmp_path: Path) -> None:
    said = data_command(DataConfig(put(tmp_path / "log.jsonl", [1, 2, 2, 1, 2]), str(tmp_path / "run"), held_out=0))
    assert preferred(tmp_path / "run") == [1, 0, 0, 1, 0]
    assert "the first response (a) is better in 2, the second (b) in 3; 1 means a, 2 means b." in said
    data_command(DataConfig(put(tmp_path / "tie.jsonl", ["2", "1", "0"]), str(tmp_path / "tie"), held_out=0))
    assert preferred(tmp_path / "tie") == [0, 1, 0.5]


@pytest.mark.parametrize(("given", "guessed"), [([1, 2, 0], True), ([1, 2], False), ([1, 2, 1.5, 0], False)])
def test_that_0_is_the_tie_of_0_1_and_2_is_said_to_be_a_guess(
    given: list[float], guessed: bool, tmp_path: Path
) -> None:
    said = data_command(DataConfig(put(tmp_path / "log.jsonl", given), str(tmp_path / "run"), held_out=0))
    assert ("0 means tie, 1 means a, 2 means b, *guessed* (--map 'preference=COLUMN:0=a,1=b,2=tie'" in said) == guessed


@pytest.mark.parametrize("two", [2, "2", "response_2"])
def test_numbers_in_a_list_of_votes_mean_what_they_mean_alone(tmp_path: Path, two: Any) -> None:
    file = put(tmp_path / "log.jsonl", [[two, two, 1], [1, 1, None], [1, two], [1, "tie"]])
    said = data_command(DataConfig(file, str(tmp_path / "run"), held_out=0))
    assert preferred(tmp_path / "run") == [0, 1, 0.5, 1]
    assert read_rows(tmp_path / "run")[0]["raters"] == {"preference": [0, 0, 1]}
    assert "1 means a, 2 means b." in said


@pytest.mark.parametrize("several", [[0, 1, 1], [False, False, True]])
def test_a_list_of_0_and_1_is_as_ambiguous_as_one_of_them(tmp_path: Path, several: list[Any]) -> None:
    with pytest.raises(SteerError, match="the votes are 0, 1, which may mean more than one thing"):
        read_rows(put(tmp_path / "log.jsonl", [several]))
    (a, _) = read_rows(put(tmp_path / "log.jsonl", [several]), columns={
        **{name: name for name in ("prompt", "response_a", "response_b")}, "preference": "preference:0=a,1=b"
    })  # fmt: skip
    assert a["raters"] == {"preference": [1 - int(vote) for vote in several]}


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("true", "false"), ("yes", "no"), ("1.0", "0.0"), (1, 0)])
def test_one_of_several_columns_is_true_in_whatever_words_a_table_writes_it(yes: Any, no: Any) -> None:
    record = {"prompt": "p", "response_a": "x", "response_b": "y"}
    for side, better in (("a", 1.0), ("b", 0.0), ("tie", 0.5)):
        hot = {f"winner_{name}": yes if name == side else no for name in ("a", "b", "tie")}
        assert layouts.rows({**record, **hot})[0]["scores"] == {"preference": better}


def test_strengths_say_what_their_sign_means(tmp_path: Path) -> None:
    said = data_command(DataConfig(put(tmp_path / "log.jsonl", [2, -1, 0, None]), str(tmp_path / "run"), held_out=0))
    assert preferred(tmp_path / "run") == [1, 0, 0.5, None]
    assert "better in 1, the second (b) in 1, 1 ties, 1 unknown; a number above 0 means a, below 0 b, *guessed*" in said
    other = {"prompt": "Hi", "response_1": "x", "response_2": "y", "preference_strength": 2}
    (tmp_path / "two.jsonl").write_text(json.dumps(other))
    said = data_command(DataConfig(str(tmp_path / "two.jsonl"), str(tmp_path / "two"), held_out=0))
    assert "better in 0, the second (b) in 1; preference_strength above 0 means the second." in said


@pytest.mark.parametrize("given", [[0, 1, 1], [1, 2, 3], [1, 5, 3], [2, 2], [0.2, 0.7], [0, 2]])
def test_numbers_that_may_mean_two_things_are_refused_with_the_flag(given: list[float], tmp_path: Path) -> None:
    source = put(tmp_path / "log.jsonl", given)
    for bad in ("stop", "skip"):
        with pytest.raises(SteerError, match=r'may mean more than one thing.* --map "preference=COLUMN:'):
            data_command(DataConfig(source, str(tmp_path / "run"), bad=bad))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("told", "given", "right"),
    [
        ("0=b,1=a", [0, 1, "1"], [0, 1, 1]),
        ("+=b,-=a", [3, -2, 0], [0, 1, 0.5]),
        ("good=a,bad=b,both_fine=tie,skipped=unknown", ["good", "Bad", "both fine", "skipped"], [1, 0, 0.5, None]),
    ],
)
def test_the_map_says_which_is_better(told: str, given: list[Any], right: list[float], tmp_path: Path) -> None:
    source = put(tmp_path / "log.jsonl", given, "vote")
    columns = ("prompt=prompt", "response_a=response_a", "response_b=response_b", f"preference=vote:{told}")
    data_command(DataConfig(source, str(tmp_path / "run"), map=columns, held_out=0))
    assert preferred(tmp_path / "run") == right
    put(tmp_path / "log.jsonl", [*given, "huh"], "vote")
    with pytest.raises(SteerError, match="the vote 'huh' has no meaning in --map"):
        data_command(DataConfig(source, str(tmp_path / "other"), map=columns))


def test_winners_stand_in_columns_of_any_kind() -> None:
    pair = {"prompt": "Hi", "response_a": "x", "response_b": "y", "model_a": "m1", "model_b": "m2"}
    for more, right in (
        ({"winner": "model_b"}, [0, 1]),
        ({"winner": "m1"}, [1, 0]),
        ({"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}, [0, 1]),
        ({"winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}, [0.5, 0.5]),
        ({"winner_model_a": "0", "winner_model_b": "0", "winner_tie": "0"}, [None, None]),
        ({"attributes": {"preference": -2}}, [0, 1]),
        ({"preference": "response_2"}, None),
    ):
        if right is None:
            with pytest.raises(DataError, match="column 'preference': the vote 'response_2'"):
                layouts.rows({**pair, **more})
            continue
        rows = layouts.rows({**pair, **more})
        assert [row["scores"].get("preference") for row in rows] == right
        assert [row["model"] for row in rows] == ["m1", "m2"]
        assert not any("winner" in column for row in rows for column in {**row, **row["scores"]})
    with pytest.raises(DataError, match="2 of them are 1"):
        layouts.rows({**pair, "winner_model_a": 1, "winner_model_b": 1})


def test_responses_named_by_number_are_counted_from_what_occurs(tmp_path: Path) -> None:
    data_command(
        DataConfig(put(tmp_path / "log.jsonl", ["response_1", "response_2"]), str(tmp_path / "run"), held_out=0)
    )
    assert preferred(tmp_path / "run") == [1, 0]
