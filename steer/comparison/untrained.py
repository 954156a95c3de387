"""Systems that are compared without training: the base model, told or shown what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from steer.comparison.examples import Examples
from steer.comparison.vectors import Vectors, VectorSettings
from steer.methods import METHODS
from steer.methods.base import NoSettings
from steer.models.card import MERGED, Card
from steer.models.policy import Policy
from steer.models.steering import Steering
from steer.rows import Row, content_hash
from steer.rows.labelled import Labelled
from steer.settings import Checked, option
from steer.training.batches import Conditioning
from steer.training.prepare import conditioned
from steer.training.settings import TrainSettings

PROMPTED = "prompted"  # the system whose dial those of the others are compared with


class Given(NamedTuple):
    """What a system is made of; `folder`: its own, where it may keep what takes long."""

    base: Policy
    words: Conditioning
    rows: Sequence[Row]
    seed: int
    max_new_tokens: int
    folder: Path = Path()

    def policy(self, name: str, settings: Any = None, **parts: Any) -> Policy:
        """Make a policy whose weights are the base's, with `parts` of its own that follow from rows and settings."""
        template, names, schema = self.words.template, self.words.names, self.words.schema
        card = Card(self.base.name, "", MERGED, name, template=template, attributes=names, schema=schema)
        made_of = {"settings": str(settings), "seed": self.seed, "room": self.max_new_tokens} if parts else {}
        described = {"base": self.base.identity, "card": card.to_json(), **made_of}
        content = content_hash([described, *(self.rows if parts else ())])
        return replace(self.base, card=card, content=content, **{"facts": {}, **parts})  # the base's are no cost of it


class Untrained(NamedTuple):
    """A system without training: how it makes a policy, and its settings.

    `told`: it is told in words what is wanted, so the base needs a chat template, and there is guidance.
    """

    policy: Callable[[Given, Any], Policy]
    settings: type[Any] = NoSettings
    told: bool = True


def in_words(labelled: Labelled, settings: TrainSettings) -> Conditioning:
    """Return conditions in words, as training with `--template words` and these settings would have them."""
    words = conditioned(labelled, METHODS["conditional"], replace(settings, template="words"))
    assert words is not None
    return words


def prompted(given: Given, settings: NoSettings) -> Policy:
    """Let the base answer prompts that end with the same sentences as those of `--template words`."""
    return given.policy(PROMPTED)


@dataclass(frozen=True)
class FewShot(Checked):
    """Settings of few-shot."""

    shots: int = option(4, "Logged answers before each prompt.", least=1)


def few_shot(given: Given, settings: FewShot) -> Policy:
    """Let the base answer the same prompts after logged answers near the target."""
    base, longest = given.base, given.base.longest
    room = None if longest is None else longest - given.max_new_tokens
    before = Examples(given.rows, given.words, base.tokenizer, most=settings.shots, room=room, seed=given.seed)
    return given.policy("few-shot", settings, before=before)


def steering(given: Given, settings: VectorSettings) -> Policy:
    """Let the base answer the bare prompts while a vector for each attribute is added to its activations."""
    base, words = given.base, given.words
    vectors = Vectors.of(base, words, given.rows, settings, given.folder)
    added = Steering(words.schema, words.names, vectors.layer - 1, vectors.values, settings.strength)
    return given.policy("steering", settings, steering=added, facts=vectors.facts)


UNTRAINED = {
    PROMPTED: Untrained(prompted),
    "few-shot": Untrained(few_shot, FewShot),
    "steering": Untrained(steering, VectorSettings, told=False),
}
