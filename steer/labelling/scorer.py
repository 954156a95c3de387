"""What scores rows: a fitted model, a judge, counted words, a class or function of the user, or people.

The only place that loads attribute models to score with; everything else scores through it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import attribute_models
from attribute_models import own
from steer.errors import SteerError
from steer.rows import Row
from steer.rows.schema import MOST, Schema
from steer.run_folder import hashes, read_done

Scores = np.ndarray[Any, Any]
COUNTABLE = "countable:"
FILED = ("judge", "simulated")  # with the file of their settings behind the colon
CLASSIFIER = "classifier:"


@dataclass(frozen=True)
class Scorer:
    """An attribute model with its identity; `attributes` is empty for human scores, whose names the rows tell."""

    id: str
    attributes: tuple[str, ...]
    model: Any = None
    schema: Schema | None = None
    own: bool = False  # the user's code

    def score(self, rows: Sequence[Row], names: Sequence[str]) -> Scores:
        """Scores [n, A] in the order of `names`; NaN where the model has none."""
        return self.score_and_flag(rows, names)[:, :-1]

    def score_and_flag(self, rows: Sequence[Row], names: Sequence[str]) -> Scores:
        """[n, A + 1]: scores, and last whether a row was too long to be read whole; NaN where not known."""
        out = np.full((len(rows), len(names) + 1), np.nan)
        if self.model is not None and len(rows):
            try:
                found = attribute_models.scored(self.model, rows)
            except ValueError as error:
                raise SteerError(f"scorer {self.id}: {error}") from error
            except Exception as error:  # the user's code may raise anything
                if not self.own:
                    raise
                raise SteerError(f"scorer {self.id}: raised {type(error).__name__} ({error}). Mend it.") from error
            for j, name in enumerate(names):
                if name in self.attributes:
                    out[:, j] = found.scores[:, self.attributes.index(name)]
            if (np.abs(np.nan_to_num(found.scores, nan=0.0)) > MOST).any():
                raise SteerError(f"scorer {self.id}: gives a score beyond {MOST:g}. Give NaN where it is unknown.")
            if found.truncated is not None:
                out[:, -1] = found.truncated
        return out


Reward = Callable[[Sequence[Row]], list[float]]


def rewarder(scorer: Scorer, schema: Schema) -> Reward:
    """The reward of labelled rows as a function of new ones: it wants every attribute that counts."""
    needed = [n for n in schema.own if schema[n].weight and schema[n].direction]
    if not needed:
        raise SteerError("no attribute of the schema has a better end, so there is no reward to raise.")
    if missing := set(needed) - set(scorer.attributes):
        raise SteerError(f"scorer {scorer.id}: does not score {', '.join(sorted(missing))}, which the reward counts.")

    def reward(rows: Sequence[Row]) -> list[float]:
        scores = scorer.score(rows, needed)
        if not np.isfinite(scores).all():
            raise SteerError(f"scorer {scorer.id}: gives no score to a response.")
        return [schema.reward(dict(zip(needed, line))) or 0.0 for line in scores.tolist()]

    return reward


def load_scorer(spec: str) -> Scorer:
    """A folder of `steer fit`, or one of the words that the error at the end names."""
    if spec == "human":
        return Scorer("human", ())
    try:
        if Path(spec).is_dir():
            return _saved(Path(spec))
        if spec.startswith(COUNTABLE):
            names = [n.strip() for n in spec.removeprefix(COUNTABLE).split(",")]
            model: Any = attribute_models.model_class("countable")
            model = model(attributes=names)
            return Scorer(spec, model.attributes, model)
        if spec.startswith(CLASSIFIER):
            from attribute_models.regression import Classifier

            model = Classifier(spec.removeprefix(CLASSIFIER))
            return Scorer(f"classifier:{model.id}", model.attributes, model)
        module, colon, name = spec.partition(":")
        if module in FILED:
            model = attribute_models.model_class(module).of(name)  # type: ignore[attr-defined]  # both have it
            return Scorer(model.identity, model.attributes, model)
        if colon:
            model = own.load(spec)
            return Scorer(spec, tuple(model.attributes), model, own=True)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SteerError(f"scorer '{spec}': {error}") from None
    raise SteerError(
        f"scorer '{spec}': no such folder. Use human, a folder of \"steer fit\", countable:NAME,..., "
        "classifier:FOLDER_OR_NAME of a sequence-classification model, judge:FILE, simulated:FILE or module:NAME."
    )


def _saved(folder: Path) -> Scorer:
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
    """A scorer's name that still holds in another working folder."""
    kind, colon, name = scorer.partition(":")
    if colon and kind in FILED and Path(name).is_file():
        return f"{kind}:{Path(name).resolve()}"
    return str(Path(scorer).resolve()) if Path(scorer).is_dir() else scorer
