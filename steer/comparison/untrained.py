"""Systems that are compared without training: the base model, told what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from steer.conditioning.chat import PLAIN
from steer.methods.base import NoSettings
from steer.models.card import MERGED, Card
from steer.models.policy import Policy
from steer.training.batches import Conditioning

PROMPTED = "prompted"  # the system whose dial those of the others are compared with


class Untrained(NamedTuple):
    """A system without training: how it makes a policy of the base, and its settings.

    `told`: it is told in words what is wanted, so the base needs a chat template.
    """

    policy: Callable[[Policy, Conditioning, Any], Policy]
    settings: type[Any] = NoSettings
    told: bool = True


def prompted(base: Policy, words: Conditioning, settings: NoSettings) -> Policy:
    """Let the base answer prompts that end with the same sentences as those of `--template words`."""
    return replace(base, card=card_of(base, words, PROMPTED))


def card_of(base: Policy, words: Conditioning, name: str) -> Card:
    """Make the card of a policy whose weights are the base's."""
    return Card(base.name, "", MERGED, name, template=words.template, attributes=words.names, schema=words.schema)


def chats(base: Policy) -> bool:
    """Whether a model has a chat template of its own, so that it can be told what is wanted."""
    return bool(base.tokenizer.chat_template != PLAIN)


UNTRAINED = {PROMPTED: Untrained(prompted)}
