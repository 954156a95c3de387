"""The countable attributes on texts that are counted by hand, and on strings that nobody would write."""

from __future__ import annotations

import doctest
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import attribute_models
from attribute_models import countable, features, metrics
from attribute_models.countable import AGAINST_PROMPT, COUNTABLE, Countable

STORY = 'The cat sat on the mat. "Run!" said the dog. Did the cat run? No'  # 15 words, 5 sentences
LIST = "Buy:\n- 2 eggs\n* 10 apples\n3. milk\n\nThen `pay()` now."
ODD = (
    "",
    " ",
    "\n\n",
    "word",
    "?!",
    "...",
    '"',
    "“",
    '""',
    "`",
    "```",
    "- ",
    "1.",
    "a b",
    "é",
    "猫。犬",
    "١٢٣",
    "🙂",
    "\x00",
    "\ud800",
)


def row(prompt: str, response: str) -> dict[str, object]:
    return {"prompt": [{"role": "user", "content": prompt}], "response": response}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("words", STORY, 15),
        ("words", "Don't stop", 2),
        ("characters", "a b\n", 4),
        ("word_length", "to be free", (2 + 2 + 4) / 3),
        ("sentences", STORY, 5),
        ("sentences", "It costs 3.50 now. Yes", 2),
        ("sentences", LIST, 5),
        ("words_per_sentence", STORY, 15 / 5),
        ("reading_ease", "The happy cat sat.", 206.835 - 1.015 * 4 / 1 - 84.6 * (1 + 2 + 1 + 1) / 4),
        ("type_token_ratio", "The dog saw the Dog", 3 / 5),
        ("repetition", "go on and go on and stop", 1 / 5),
        ("repetition", "one two three", 0),
        ("question_share", STORY, 1 / 5),
        ("exclamation_share", STORY, 1 / 5),
        ("exclamation_share", "Stop!", 1),
        ("dialogue_share", STORY, 1 / 15),
        ("dialogue_share", "“Come here,” she said", 2 / 4),
        ("dialogue_share", 'He is 5" tall', 0),
        ("digit_share", "ab 12 c", 2 / 5),
        ("list_items", LIST, 3),
        ("list_items", "well-known - not a list", 0),
        ("code_share", "run `ab`", 4 / 7),
        ("code_share", "x\n```\nab", 5 / 6),
    ],
)
def test_a_value_is_what_counting_by_hand_gives(name: str, text: str, expected: float) -> None:
    assert COUNTABLE[name](text) == pytest.approx(expected)


def test_overlap_counts_distinct_content_words_of_either_side() -> None:
    asked, said = "Write about a dog, a kite and the sea.", "The dog saw a dog by the SEA"
    assert AGAINST_PROMPT["prompt_overlap"](asked, said) == 2 / 4  # write dog kite sea
    assert AGAINST_PROMPT["response_overlap"](asked, said) == 2 / 3  # dog saw sea


@pytest.mark.parametrize("text", ODD)
def test_every_attribute_is_defined_on_every_string(text: str) -> None:
    values = {name: count(text) for name, count in COUNTABLE.items()}
    values |= {name: compare(text, other) for name, compare in AGAINST_PROMPT.items() for other in ("a cat", text)}
    assert all(math.isfinite(value) for value in values.values()), values
    shares = {
        name: value for name, value in values.items() if name.endswith(("share", "ratio", "overlap", "repetition"))
    }
    assert len(shares) == 9
    assert all(0 <= value <= 1 for value in shares.values()), shares


@pytest.mark.parametrize("name", ["words", "sentences", "list_items"])
def test_numbers_add_up_over_paragraphs(name: str) -> None:
    count = COUNTABLE[name]
    assert count(f"{LIST}\n\n{STORY}") == count(LIST) + count(STORY)


def test_scores_stand_in_the_order_of_rows_and_attributes() -> None:
    model = Countable(("prompt_overlap", "words"))
    scores = model.score([row("red kite", "a red one"), row("", "")])
    assert scores.tolist() == [[0.5, 3.0], [0.0, 0.0]]
    assert model.score([]).shape == (0, 2)


def test_only_the_last_turn_counts_as_asked() -> None:
    turns = [
        {"role": "user", "content": "cats"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "dogs"},
    ]
    assert Countable(("prompt_overlap",)).score([{"prompt": turns, "response": "dogs"}]).item() == 1.0
    assert Countable(("prompt_overlap",)).score([{"prompt": [], "response": "dogs"}]).item() == 0.0


def test_an_unknown_attribute_is_answered_with_the_likely_one() -> None:
    with pytest.raises(ValueError, match="Did you mean 'repetition'") as error:
        Countable(("repetitions",))
    assert all(name in str(error.value) for name in COUNTABLE | AGAINST_PROMPT)


@pytest.mark.parametrize(
    "broken",
    [
        {"response": "x"},
        {"prompt": "x", "response": "x"},
        {"prompt": [], "response": None},
        row("x", "x") | {"prompt": [{}]},
    ],
)
def test_a_row_that_breaks_the_contract_is_named(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^row 1: "):
        Countable(("words",)).score([row("x", "x"), broken])


def test_a_saved_model_is_loaded_as_what_it_was(tmp_path: Path) -> None:
    Countable(("words", "prompt_overlap")).save(tmp_path / "new" / "folder")
    loaded = attribute_models.load(tmp_path / "new" / "folder")
    assert isinstance(loaded, Countable)
    assert loaded.attributes == ("words", "prompt_overlap")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["model.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no model.json"),
        ("{", "not JSON"),
        ("[]", "no key 'model'"),
        ('{"model": "linear"}', "saved by another version"),
        ('{"model": "liner"}', "Did you mean 'linear'"),
    ],
)
def test_a_folder_without_a_model_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        attribute_models.load(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Countable(("words",)).save(tmp_path)

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        Countable(("sentences",)).save(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["attributes"] == ["words"]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, attribute_models; print(*{'numpy', 'scipy', 'sklearn', 'torch', 'steer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("module", [countable, features, metrics])
def test_examples_in_docstrings_hold(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0
