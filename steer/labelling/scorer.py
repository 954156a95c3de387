"""Scorers of rows: a fitted model, a judge, counted words, a class or function of the user, or people.

The only module that loads attribute models to score with; everything else scores through it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import attribute_models
from attribute_models import own
from steer.addresses import fetched, is_address
from steer.errors import SteerError
from steer.models.card import CARD
from steer.rows import Row
from steer.rows.directions import SAY_END
from steer.rows.schema import MOST, Schema
from steer.run_folder import hashes, read_done

Scores = np.ndarray[Any, Any]
COUNTABLE = "countable:"
FILED = ("judge", "simulated")  # the name of a file of settings follows the colon
CLASSIFIER = "classifier:"
FIT = 'Fit one: "steer fit ROWS --output SCORER"'


@dataclass(frozen=True)
class Scorer:
    """An attribute model with its identity; `attributes` is empty for human scores, whose names are in the rows."""

    id: str
    attributes: tuple[str, ...]
    model: Any = None
    schema: Schema | None = None
    own: bool = False  # the user's code
    spec: str = ""  # what `load_scorer` finds it by in another process; "" if it is only in memory
    access: Mapping[str, Any] = field(default_factory=dict)  # and with which settings
    code: str = ""  # hash of the user's code and what it holds, which the id does not tell

    @property
    def identity(self) -> str:
        """Return what tells it from any other: its id, and of the user's code a hash."""
        return f"{self.id} {self.code}".rstrip()

    def evaluating(self) -> Scorer:
        """Return the scorer without what its model does in training only, such as flipping labels."""
        return replace(self, model=self.model.evaluating()) if hasattr(self.model, "evaluating") else self

    @property
    def report(self) -> Sequence[Mapping[str, Any]]:
        """Return held-out figures of the fit, one dict per attribute; empty if the model is not fitted."""
        return getattr(self.model, "report_", ())

    def score(self, rows: Sequence[Row], names: Sequence[str]) -> Scores:
        """Return scores [n, A] in the order of `names`; NaN where the model has none."""
        return self.score_and_flag(rows, names)[:, :-1]

    def score_and_flag(self, rows: Sequence[Row], names: Sequence[str]) -> Scores:
        """Return scores, and in the last column whether a row was too long to be read: [n, A + 1]; NaN if unknown."""
        out = np.full((len(rows), len(names) + 1), np.nan)
        if self.model is None or not len(rows):
            return out
        with self.errors(f"scorer {self.id}"):
            scores, truncated = attribute_models.scored(self.model, [readable(row) for row in rows])
        if (np.abs(np.nan_to_num(scores, nan=0.0)) > MOST).any():
            raise SteerError(f"scorer {self.id}: gives a score beyond {MOST:g}. Give NaN where it is unknown.")
        for j, name in enumerate(names):
            if name in self.attributes:
                out[:, j] = scores[:, self.attributes.index(name)]
        if truncated is not None:
            out[:, -1] = truncated
        return out

    @contextmanager
    def errors(self, name: str) -> Iterator[None]:
        """Turn what the model raises into a sentence that starts with `name`; code of the user may raise anything."""
        try:
            yield
        except ValueError as error:
            raise SteerError(f"{name}: {error}") from error
        except Exception as error:
            if not self.own:
                raise
            raise SteerError(f"{name}: raised {type(error).__name__} ({error}). Fix it.") from error


def readable(row: Row) -> Row:
    """Return the row as a reader sees it: the tools that a response calls are part of its text."""
    calls = [call.get("function", {}) for call in row.get("tool_calls") or ()]
    if not calls:
        return row
    texts = [f"{call.get('name', '')}({_written(call.get('arguments'))})" for call in calls]
    return {**row, "response": "\n".join(filter(None, [row["response"], *texts]))}


def _written(arguments: Any) -> str:
    """Return arguments in one form, however the JSON in a text is spaced; a text that holds none stays."""
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)


Reward = Callable[[Sequence[Row]], list[float]]


def known_scores(scorer: Scorer, rows: Sequence[Row], names: Sequence[str]) -> Scores:
    """Return scores of rows, [n, A]; SteerError if one is unknown: what has none is neither better nor worse."""
    scores = scorer.score(rows, names)
    if not np.isfinite(scores).all():
        raise SteerError(f"scorer {scorer.id}: gives no score to a response.")
    return scores


def rewarder(scorer: Scorer, schema: Schema, *, partial: bool = False) -> Reward:
    """Return the reward of a schema as a function of new rows; SteerError if the scorer lacks an attribute of it.

    `partial`: the reward of a row without a score is NaN, where it is refused otherwise.
    """
    needed = schema.counted
    if not needed:
        raise SteerError(f"no attribute of the schema has a better end, so there is no reward to raise. {SAY_END}")
    if missing := set(needed) - set(scorer.attributes):
        names = ", ".join(sorted(missing))
        raise SteerError(f"scorer {scorer.id}: does not score {names}, which the reward counts. {FIT}.")

    def reward(rows: Sequence[Row]) -> list[float]:
        scores = scorer.score(rows, needed) if partial else known_scores(scorer, rows, needed)
        return [schema.reward(dict(zip(needed, line))) or 0.0 for line in scores.tolist()]

    return reward


def load_scorer(spec: str | Scorer | Any, *, trust_remote_code: bool = False, engine: str = "") -> Scorer:
    """Load what `spec` names: a fit by folder or address, `countable:words`, `judge:FILE`, `MODULE:CLASS`, "human", ...

    Also takes a scorer as it is, a function of a row, and an object with `attributes` and `score(rows) -> [n, A]`.
    `trust_remote_code`: run code that comes with the model of a `classifier:`; `engine`: the address of a vLLM server
    that has this model. SteerError if there is no such scorer, naming all kinds, or if its files changed after the fit.
    """
    if isinstance(spec, Scorer):
        return spec
    if not isinstance(spec, str | Path):
        name = getattr(spec, "__name__", type(spec).__name__)
        model = own.model_of(spec, name)
        return Scorer(f"python:{name}", tuple(model.attributes), model, own=True, code=own.code_of(model))
    if engine and not str(spec).startswith(CLASSIFIER):
        raise SteerError(f"--engine {engine}: scores with classifier:MODEL. Leave it out for the scorer '{spec}'.")
    access: dict[str, Any] = {"trust_remote_code": trust_remote_code, "engine": engine}
    return replace(_named(str(spec), **access), spec=str(spec), access=access)


def scorer_of_new(spec: str, flag: str, *, trust_remote_code: bool = False) -> Scorer:
    """Load a scorer of new responses; SteerError for "human", since people rated the logs only.

    `flag`: what the user names it by.
    """
    scorer = load_scorer(spec, trust_remote_code=trust_remote_code)
    if scorer.model is None:
        raise SteerError(
            f"scorer {scorer.id}: people rated the logs, nobody rates new responses. {FIT}, then {flag} SCORER."
        )
    return scorer


def _named(spec: str, trust_remote_code: bool, engine: str) -> Scorer:
    if spec == "human":
        return Scorer("human", ())
    try:
        if is_address(spec):
            return _saved(Path(fetched(spec)))
        if Path(spec).is_dir():
            return _saved(Path(spec))
        kind, colon, name = spec.partition(":")
        if spec.startswith(COUNTABLE):
            from attribute_models.countable import Countable

            counted = Countable([n.strip() for n in name.split(",")])
            return Scorer(spec, counted.attributes, counted)
        if spec.startswith(CLASSIFIER):
            classifier = _classifier(name, trust_remote_code, engine)
            return Scorer(f"classifier:{classifier.id}", classifier.attributes, classifier)
        if kind == "judge":
            from attribute_models.judge import Judge

            judge = Judge.of(name)
            return Scorer(judge.identity, judge.attributes, judge)
        if kind == "simulated":
            return _pool(name, trust_remote_code)
        if colon:
            model = own.load(spec)
            return Scorer(spec, tuple(model.attributes), model, own=True, code=own.code_of(model))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SteerError(f"scorer '{spec}': {error}") from None
    raise SteerError(
        f"scorer '{spec}': no such folder. Use human, a folder of \"steer fit\", countable:NAME,..., "
        "classifier:FOLDER_OR_NAME of a sequence-classification model, judge:FILE, simulated:FILE or MODULE:NAME."
    )


def _pool(name: str, trust_remote_code: bool) -> Scorer:
    """Load simulated annotators, whose truth is any scorer; they weigh its attributes as its schema does, if any."""
    from attribute_models.simulated import Settings, Simulated

    settings = Settings.of(name)
    try:
        gold = scorer_of_new(settings.gold, "gold:", trust_remote_code=trust_remote_code)
    except SteerError as error:
        raise SteerError(f"{name}: gold: {error}") from None
    weights = {a.name: a.direction * a.weight for a in gold.schema.attributes} if gold.schema else None
    pool = Simulated(settings, weights, gold.model)
    return Scorer(pool.identity, pool.attributes, pool, own=gold.own, code=gold.code or gold.id)


def _classifier(name: str, trust_remote_code: bool, engine: str) -> Any:
    """Load a sequence-classification model here, or find it on a server."""
    if engine:
        from attribute_models.served import Served

        return Served(name, engine)
    from attribute_models.regression import Classifier

    return Classifier(name, trust_remote_code=trust_remote_code)


def _saved(folder: Path) -> Scorer:
    """Load the scorer that was fitted into a folder; SteerError if a file has changed since."""
    if (folder / CARD).is_file():
        raise SteerError(f'scorer {folder}: is a policy and no scorer. Give a folder of "steer fit".')
    if not (folder / "done.json").is_file():
        raise SteerError(
            f'scorer {folder}: is no finished fit (no done.json). Run the same "steer fit" again to finish it.'
        )
    files = hashes(folder)
    fitted = read_done(folder).get("files", files)
    if not isinstance(fitted, dict):
        raise SteerError(f"scorer {folder}: done.json changed after the fit. Fit again with --overwrite.")
    if changed := sorted(name for name in {*files, *fitted} if files.get(name) != fitted.get(name)):
        raise SteerError(
            f"scorer {folder}: {', '.join(changed)} changed after the fit. Restore what was fitted, or fit again with "
            "--overwrite."
        )
    model = attribute_models.load(folder)
    schema = Schema.load(folder / "schema.json")
    content = hashlib.blake2b(json.dumps(files).encode(), digest_size=8).hexdigest()
    return Scorer(f"{attribute_models.name_of(folder)}:{content}", model.attributes, model, schema)


def placed(scorer: str) -> str:
    """Make the paths in a scorer's spec absolute, so that it can be loaded from another working folder."""
    kind, colon, name = scorer.partition(":")
    if colon and kind in FILED and Path(name).is_file():
        return f"{kind}:{Path(name).resolve()}"
    return str(Path(scorer).resolve()) if scorer and Path(scorer).is_dir() else scorer
