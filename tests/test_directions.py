"""Which end of an attribute is better: names in any spelling, marked guesses, and scores that speak against one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steer import fit, label
from steer.conditioning.command import targets_command
from steer.config.conditioning import TargetsConfig
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.labelling.command import fit_command, label_command
from steer.rows import write_rows
from steer.rows.command import data_command
from steer.rows.directions import doubts, of_name, unlearned
from steer.rows.schema import Attribute, Schema
from steer.rows.table import Table

BAD = """toxicity insult profanity threat identity_attack severe_toxicity sexually_explicit flirtation
obscene harmful bias
hallucination errors repetition hedging refusal perplexity loss rank latency is_toxic toxicity_score Toxicity isToxic
unsafe hate_speech not_appropriate minus_1 lang_mismatch fails_task selfHarm spam error_rate inconsistency
TOXICITY SEVERE_TOXICITY INFLAMMATORY UNSUBSTANTIAL LIKELY_TO_REJECT fear_mongering judgemental nonfactual TER
reported is_blocked hidden wasInterrupted"""
STYLE = "verbosity complexity length words word_count num_tokens response_length"
GOOD = """helpfulness correctness coherence
harmlessness harm_avoidance non_toxic unbiased is_safe no_errors overall_score
rating quality truthfulness instruction_following preference plus_1
adequacy da_score creativity conciseness"""


@pytest.mark.parametrize(("names", "direction"), [(BAD, -1), (STYLE, 0), (GOOD, 1)])
def test_known_names_have_their_direction_in_any_spelling(names: str, direction: int) -> None:
    assert {name: of_name(name) for name in names.split()} == dict.fromkeys(names.split(), (direction, "known"))


@pytest.mark.parametrize(
    "name", ["spiciness", "V", "humor", "zest_score", "x1", "self_reported_rating", "hidden_score"]
)
def test_a_name_that_says_nothing_is_guessed(name: str) -> None:
    assert of_name(name) == (1, "guessed")


def logs(path: Path) -> str:
    """120 rows, two to a prompt; zest goes with toxicity."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(120):
        toxic = float(rng.integers(0, 5))
        said = " ".join(["rude" if rng.random() < toxic / 4 else "kind" for _ in range(12)])
        scores = {"toxicity": toxic, "zest": min(4.0, toxic + float(rng.integers(0, 2))), "verbosity": float(i % 3)}
        rows.append(
            {"id": str(i), "prompt": [{"role": "user", "content": f"p{i // 2}"}], "response": said, "scores": scores}
        )
    write_rows(rows, path)
    return str(path)


def test_every_command_says_which_end_is_better_and_marks_a_guess(tmp_path: Path) -> None:
    source = logs(tmp_path / "rows.jsonl")
    runs = {name: str(tmp_path / name) for name in ("data", "fit", "label", "turned")}
    said = {
        "data": data_command(DataConfig(source, runs["data"])),
        "fit": fit_command(FitConfig(source, runs["fit"])),
        "label": label_command(LabelConfig(source, runs["label"], min_support=1)),
    }
    for name, text in said.items():
        assert "better is lower: toxicity; neither: verbosity." in text, name
        assert "*guessed*, for nothing says so: zest (higher)" in text, name
        assert "--higher NAME, --lower NAME or --neither NAME" in text, name
    for name in ("fit", "label"):
        assert "warning: 'zest' is guessed to be better when higher, but correlates +0.9" in said[name]
        assert "with toxicity (lower is better). If lower is better: --lower zest; if neither is" in said[name]
    assert "zest       higher is better (guessed)" in targets_command(TargetsConfig(runs["label"]))
    assert "| zest | 0 | 4 | higher (guessed) |" in (tmp_path / "fit" / "README.md").read_text()
    turned = label_command(LabelConfig(source, runs["turned"], min_support=1, lower=("zest",)))
    assert "better is lower: toxicity, zest; neither: verbosity." in turned
    assert "zest (higher)" not in turned
    assert Schema.load(tmp_path / "turned" / "schema.json")["zest"].origin == "given"


def test_a_name_that_stands_for_neither_gets_a_better_end_by_a_flag(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "response": f"r {i}", "scores": {"brevity": float(i % 5)}} for i in range(40)]
    plain, better = (label(rows, min_support=1, held_out=0, higher=higher) for higher in ((), ("brevity",)))
    assert [row["reward"] for row in plain.rows] == [None] * 40
    assert better.schema["brevity"].origin == "given"
    assert np.corrcoef([r["reward"] for r in better.rows], [i % 5 for i in range(40)])[0, 1] == pytest.approx(1)
    assert fit(rows, higher=("brevity",), held_out=0).schema["brevity"].direction == 1
    write_rows(rows, tmp_path / "rows.jsonl")
    config = LabelConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "labels"), min_support=1)
    assert "no row gets a reward: --higher NAME or --lower NAME." in label_command(config)
    for flags in (("higher", "lower"), ("higher", "neither"), ("lower", "neither")):
        with pytest.raises(SteerError, match="--higher, --lower or --neither: 'brevity' is named in two of them"):
            label(rows, **dict.fromkeys(flags, ("brevity",)))


def test_an_attribute_against_all_others_is_named_and_one_that_goes_with_them_is_not() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=200)
    scores = np.column_stack([good, good + rng.normal(size=200), -good + rng.normal(size=200), rng.normal(size=200)])
    names = [Attribute(n, 0, 1, *of_name(n)[:1], origin=of_name(n)[1]) for n in ("quality", "aa", "bb", "cc")]
    (said,) = doubts(names, Table.of(scores).column)
    assert said.startswith("warning: 'bb' is guessed to be better when higher, but correlates -0.")
    assert not doubts(names, Table.of(scores[:10]).column)  # too few to say
    noise = [{"attribute": "bb", "learnable": False}, {"attribute": "quality", "learnable": True}]
    assert not doubts(names, Table.of(scores).column, noise)  # what a scorer never learned speaks for nothing


def test_looking_for_scores_that_speak_against_an_attribute_takes_no_library_of_statistics() -> None:
    code = """
import sys
import numpy as np
from steer.rows.directions import doubts
from steer.rows.schema import Attribute
names = [Attribute(n, 0, 1, origin="guessed") for n in ("aa", "bb")]
scores = np.column_stack([np.arange(50.0), -np.arange(50.0)])
print(len(doubts(names, lambda j: scores[:, j])), "scipy.stats" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_what_was_not_learned_and_counts_in_the_reward_is_named_with_its_flag() -> None:
    good, style = Attribute("quality", 0, 4), Attribute("verbosity", 0, 4, 0, 0.0)
    targets_command = [{"attribute": name, "learnable": False} for name in ("quality", "verbosity")]
    (said,) = unlearned([good, style], targets_command)
    assert said.startswith("warning: quality counts in the reward")
    assert "--neither quality leaves it out" in said
    (both,) = unlearned(
        [good, replace(good, name="depth")], [*targets_command, {**targets_command[0], "attribute": "depth"}]
    )
    assert both.startswith("warning: quality, depth count in the reward")
    assert "--neither quality --neither depth leaves them out" in both
    assert not unlearned([style], targets_command)
    assert not unlearned([good], [{"attribute": "quality", "learnable": True}])


def test_label_says_that_an_attribute_without_signal_is_in_the_reward(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [
        {
            "id": str(i),
            "prompt": [{"role": "user", "content": f"p{i}"}],
            "response": " ".join(rng.choice(["one", "two", "three"], 8)),
            "scores": {"quality": float(rng.integers(0, 5))},
        }
        for i in range(80)
    ]
    write_rows(rows, tmp_path / "rows.jsonl")
    source, scorer = str(tmp_path / "rows.jsonl"), str(tmp_path / "scorer")
    assert "--neither quality leaves it out" in fit_command(FitConfig(source, scorer))
    assert "--neither quality leaves" in label_command(
        LabelConfig(source, str(tmp_path / "l"), scorer=scorer, min_support=1)
    )
    turned = LabelConfig(source, str(tmp_path / "m"), scorer=scorer, min_support=1, neither=("quality",))
    assert "in the reward, though" not in label_command(turned)


def test_a_scale_that_is_only_what_occurs_is_said_by_fit_and_label(tmp_path: Path) -> None:
    rows = [
        {"id": f"{i}", "prompt": f"p {i}", "response": f"r {'x ' * (i % 3)}", "quality": 2 + i % 3} for i in range(60)
    ]
    write_rows(rows, tmp_path / "raw.jsonl")
    raw = str(tmp_path / "raw.jsonl")
    line = "scale, *guessed* from what occurs: quality 2 to 4."
    assert f'{line} Set it with "steer data ROWS --range' in label_command(LabelConfig(raw, str(tmp_path / "labels")))
    counted = label_command(LabelConfig(raw, str(tmp_path / "counted"), scorer="countable:words", min_support=1))
    assert "words 1 to 3. --edges NAME=EDGE,... sets where levels meet." in counted
    assert line in fit_command(FitConfig(raw, str(tmp_path / "scorer")))
    data_command(DataConfig(raw, str(tmp_path / "data"), range=("quality=1:5",)))
    assert "*guessed* from what occurs" not in label_command(
        LabelConfig(str(tmp_path / "data"), str(tmp_path / "known"))
    )
    assert "*guessed* from what occurs" not in fit_command(FitConfig(str(tmp_path / "data"), str(tmp_path / "knows")))
