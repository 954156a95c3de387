"""Systems that are compared without training: the base model, told or shown what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from steer.comparison.examples import Examples
from steer.conditioning.chat import PLAIN
from steer.methods.base import NoSettings
from steer.models.card import MERGED, Card
from steer.models.policy import Policy
from steer.rows import Row
from steer.settings import Checked, option
from steer.training.batches import Conditioning

PROMPTED = "prompted"  # the system whose dial those of the others are compared with


class Given(NamedTuple):
    """What a system is made of: the base, conditions in words, the training rows, its seed, and the longest answer."""

    base: Policy
    words: Conditioning
    rows: Sequence[Row]
    seed: int
    max_new_tokens: int

    def card(self, name: str) -> Card:
        """Make the card of a policy whose weights are the base's."""
        template, names, schema = self.words.template, self.words.names, self.words.schema
        return Card(self.base.name, "", MERGED, name, template=template, attributes=names, schema=schema)


class Untrained(NamedTuple):
    """A system without training: how it makes a policy, and its settings.

    `told`: it is told in words what is wanted, so the base needs a chat template.
    """

    policy: Callable[[Given, Any], Policy]
    settings: type[Any] = NoSettings
    told: bool = True


def prompted(given: Given, settings: NoSettings) -> Policy:
    """Let the base answer prompts that end with the same sentences as those of `--template words`."""
    return replace(given.base, card=given.card(PROMPTED))


@dataclass(frozen=True)
class FewShot(Checked):
    """Settings of few-shot."""

    shots: int = option(4, "Logged answers before each prompt.", least=1)


def few_shot(given: Given, settings: FewShot) -> Policy:
    """Let the base answer the same prompts after logged answers near the target."""
    base, longest = given.base, given.base.longest
    room = None if longest is None else longest - given.max_new_tokens
    before = Examples(given.rows, given.words, base.tokenizer, most=settings.shots, room=room, seed=given.seed)
    return replace(base, card=given.card("few-shot"), before=before)


def chats(base: Policy) -> bool:
    """Whether a model has a chat template of its own, so that it can be told what is wanted."""
    return bool(base.tokenizer.chat_template != PLAIN)


UNTRAINED = {PROMPTED: Untrained(prompted), "few-shot": Untrained(few_shot, FewShot)}
