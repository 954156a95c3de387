"""What a user's own scorer raises is a sentence with its name; what ours raises is a bug and stays one."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from attribute_models import Row
from steer.errors import SteerError
from steer.labelling.scorer import Scorer, load_scorer


class Broken:
    attributes = ("words",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def score(self, rows: Sequence[Row]) -> None:
        raise self.error


ROW = {"id": "a", "prompt": [{"role": "user", "content": "say something"}], "response": "something"}


@pytest.mark.parametrize("error", [IndexError("no such word"), TypeError("x"), KeyError("y"), ZeroDivisionError()])
def test_what_the_users_code_raises_is_told_with_its_cause(error: Exception) -> None:
    with pytest.raises(SteerError, match=rf"scorer own:Broken: raised {type(error).__name__} \(.*\)") as caught:
        Scorer("own:Broken", Broken.attributes, Broken(error), own=True).score([ROW], ["words"])
    assert caught.value.__cause__ is error
    with pytest.raises(type(error)):
        Scorer("linear:1", Broken.attributes, Broken(error)).score([ROW], ["words"])


def test_a_scorer_of_a_module_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_mine.py").write_text("def first(row):\n    return row['nothing'][0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SteerError, match=r"scorer of_mine:first: raised KeyError \('nothing'\). Fix it."):
        load_scorer("of_mine:first").score([ROW], ["first"])
