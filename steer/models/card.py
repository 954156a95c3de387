"""steer.json: the card of a policy, so that it can be steered on another machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from steer import __version__
from steer.conditioning.condition import TEMPLATES, control_tokens
from steer.errors import SteerError
from steer.rows.schema import Schema
from steer.run_folder import read_json, resume_point, write_json
from steer.settings import THINKING

CARD = "steer.json"
FULL = "model"  # folder of full weights inside the run: a model's config.json must not replace the run's
MERGED = "merged"  # adapter of an exported policy: its weights are in the folder itself
KNOWN = {
    "adapter": ("lora", "qlora", "qlora8", "none", MERGED),
    "template": tuple(TEMPLATES),
    "condition_tokens": ("text", "special"),
    "thinking": THINKING,
}

OBJECTS = ("settings", "template_options")  # fields that are JSON objects


@dataclass(frozen=True)
class Card:
    """Card: all that a policy needs to be steered on another machine.

    `attributes` are the ones it was conditioned on (empty: not conditioned); with `condition_tokens` "special" every
    level of them is a token.
    """

    base: str
    base_hash: str
    adapter: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    template: str = "tags"
    attributes: tuple[str, ...] = ()
    schema: Schema | None = None
    scorer: str = ""  # identity of what labelled the rows
    scorer_spec: str = ""  # what `load_scorer` finds it by; "human" for people, "" if unknown
    condition_tokens: str = "text"
    thinking: str = "drop"  # what training did with thoughts before answers
    template_options: Mapping[str, Any] = field(default_factory=dict)  # values that the chat template is always given
    base_revision: str = ""  # the commit of a base on the hub; one in a folder has a hash
    init_lora_weights: str = ""  # how the adapter began, where it matters for a merge: "loftq"
    version: str = __version__

    def save(self, folder: Path) -> None:
        """Write steer.json."""
        write_json(folder / CARD, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the content of steer.json."""
        value = {k: v for k, v in asdict(self).items() if k != "schema"}
        value["settings"] = {k: str(v) if v in (math.inf, -math.inf) else v for k, v in self.settings.items()}
        return {**value, "schema": self.schema.to_json() if self.schema else None}

    def without_paths(self) -> Card:
        """Return the card without folders of this machine: of a base its name stays, of a scorer its identity."""
        base = Path(self.base).name if Path(self.base).is_absolute() else self.base
        local = Path(self.scorer_spec.rpartition(":")[2]).is_absolute()
        return replace(self, base=base, scorer_spec="" if local else self.scorer_spec)

    def control_tokens(self) -> list[list[str]]:
        """Tokens added to the base's [attribute][level]; none if conditions are text."""
        if self.condition_tokens == "text" or self.schema is None:
            return []
        return control_tokens(self.schema, self.attributes, self.template)

    @staticmethod
    def place(folder: Path) -> Path | None:
        """Find where the card of a policy's folder is: there, or in the last resume point of an unfinished training."""
        if (folder / CARD).is_file():
            return folder
        point = None if (folder / "done.json").is_file() else resume_point(folder)
        return point if point and (point / CARD).is_file() else None

    @staticmethod
    def find(name: str | Path) -> Card | None:
        """Read the card of a policy's folder; None for a plain model, in a folder or by its name on the hub."""
        place = Card.place(Path(name))
        return Card.load(place) if place else None

    @staticmethod
    def load(folder: Path) -> Card:
        """Read steer.json."""
        value = read_json(folder / CARD)
        try:
            return _card(value)
        except (KeyError, TypeError, ValueError, SteerError) as error:
            path = folder / CARD
            raise SteerError(f'{path}: not what "steer train" writes ({error}). Train again.') from None


def _card(value: Any) -> Card:
    """Make a card of JSON; an error for a value of another type or an unknown name."""
    if not isinstance(value, dict):
        raise TypeError("it is no object")
    texts = [f.name for f in fields(Card) if f.name not in (*OBJECTS, "attributes", "schema")]
    if wrong := [name for name in texts if not isinstance(value.get(name, ""), str)]:
        raise TypeError(f"{wrong[0]} is no text")
    names = value["attributes"]
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise TypeError("attributes is no list of texts")
    for name in OBJECTS:
        if not isinstance(value.get(name, {}), dict):
            raise TypeError(f"{name} is no object")
    schema = Schema.from_json(value["schema"]) if value["schema"] is not None else None
    card = Card(**{**value, "attributes": tuple(names), "schema": schema})
    for name, known in KNOWN.items():
        if getattr(card, name) not in known:
            raise ValueError(f"{name} '{getattr(card, name)}' is none of {', '.join(known)}")
    if (names and schema is None) or (schema and not set(names) <= {a.name for a in schema.attributes if a.shown}):
        raise ValueError("the schema has no levels of its attributes")
    return card
