"""One method of a comparison as the user wrote it, `rwr:beta=3/1/0.5`, and what it may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from steer.compare.drawn import Decoding
from steer.condition import TEMPLATES
from steer.config import CompareConfig, TrainConfig
from steer.errors import SteerError
from steer.methods import METHODS
from steer.options import did_you_mean
from steer.train import chosen

PERMUTED = "conditional, permuted labels"
DECODING = ("guidance", "best_of")  # knobs that are turned when a policy answers; the same policy serves all of them


@dataclass(frozen=True)
class Entry:
    """One method with its settings; `training` differs from the others', `decodings` are how its policy answers."""

    spec: str
    method: str
    settings: tuple[str, ...]
    training: tuple[tuple[str, Any], ...] = ()
    permuted: bool = False
    decodings: tuple[Decoding, ...] = (Decoding(),)

    @staticmethod
    def of(spec: str) -> Entry:
        """Parse and check; `template=` and `learning_rate=` belong to training, everything else to the method."""
        name, _, rest = spec.partition(":")
        settings: list[str] = []
        training: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            key, _, value = part.partition("=")
            if key == "template":
                if value not in TEMPLATES:
                    raise SteerError(f"{spec}: unknown template '{value}'; {did_you_mean(value, TEMPLATES)}")
                training[key] = value
            elif key == "learning_rate":
                training[key] = _number(spec, key, value)
            else:
                settings.append(part)
        method, _ = chosen(name, settings)
        if method.importance or method.reframe:
            raise SteerError(f"{spec}: its targets are no levels of the logs, so it cannot stand in this comparison.")
        return Entry(spec, name, tuple(settings), tuple(training.items()))

    @property
    def slug(self) -> str:
        """Folder name of its training."""
        text = PERMUTED if self.permuted else self.spec
        return "".join(c if c.isalnum() or c in ".-=" else "-" for c in text.replace(", ", "-"))

    @property
    def family(self) -> str:
        """What entries share that differ in the settings of the method only: points of one frontier."""
        return ":".join([self.method, *(f"{k}={v}" for k, v in self.training)])

    def name(self, target: str, decoding: Decoding) -> str:
        """Of one of its systems."""
        spec = self.spec + (("," if ":" in self.spec else ":") + decoding.text if decoding.text else "")
        return f"{spec} @ {target}" if target else spec


def swept(spec: str) -> list[Entry]:
    """An entry for every combination of the values that a slash separates; those of DECODING share one policy."""
    name, _, rest = spec.partition(":")
    knobs = [part.partition("=")[::2] for part in filter(None, rest.split(","))]
    trained = [[f"{k}={v}" for v in values.split("/")] for k, values in knobs if k not in DECODING]
    asked = {k: [_number(spec, k, v) for v in values.split("/")] for k, values in knobs if k in DECODING}
    decodings = tuple(Decoding(g, int(n)) for g, n in product(*(asked.get(k, [1.0]) for k in DECODING)))
    if any(d.best_of < 1 or d.guidance < 0 for d in decodings):
        raise SteerError(f"{spec}: wanted guidance of 0 or more and best_of of 1 or more.")
    if any(d.guidance != 1 for d in decodings) and name in METHODS and not METHODS[name].conditioned:
        raise SteerError(f"{spec}: guidance wants a method with a condition.")
    found = [Entry.of(":".join(filter(None, (name, ",".join(parts))))) for parts in product(*trained)]
    return [Entry(e.spec, e.method, e.settings, e.training, decodings=decodings) for e in found]


def _number(spec: str, key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SteerError(f"{spec}: {key}={text} is not a number.") from None


class Cost(NamedTuple):
    """What training draws and has scored beyond the logs: responses, at most so many tokens, scorer calls."""

    responses: int = 0
    tokens: int = 0
    scored: int = 0


def cost(entry: Entry, settings: TrainConfig) -> Cost:
    """Known before training: offline methods draw nothing, on-policy ones K (and a greedy one) a prompt and draw."""
    rule = METHODS[entry.method].on_policy
    if rule is None:
        return Cost()
    _, own = chosen(entry.method, entry.settings)
    draws = math.ceil(settings.max_steps / getattr(own, "epochs", 1))
    responses = draws * settings.batch_size * (own.k + rule.greedy)
    return Cost(responses, responses * settings.max_new_tokens, responses)


def over_budget(entry: Entry, settings: TrainConfig, config: CompareConfig) -> str:
    """Why an entry may not run under the budget of the comparison; empty where it may."""
    taken = cost(entry, settings)
    for what, used, most in (
        ("generated tokens", taken.tokens, config.budget_tokens),
        ("scorer calls", taken.scored, config.budget_calls),
    ):
        if most and used > most:
            return f"over budget: training takes up to {used:,} {what}, and {most:,} are allowed."
    return ""


SUITES: dict[str, dict[str, Any]] = {
    "quick": {"methods": ("mle", "filtered", "rwr:beta=3/1/0.5", "conditional"), "prompts": 100, "grid": 300},
    "full": {
        "methods": (
            "mle",
            "filtered:keep=0.5/0.2/0.1",
            "rwr:beta=3/1/0.5",
            "awr",
            "raft",
            "rrhf",
            "pro",
            "dpo",
            "ipo",
            "slic",
            "rso",
            "mle:best_of=4/16",
            "conditional:guidance=1/1.5/2",
            "remax",
            "rloo",
        ),
        "seeds": 3,
        "controls": True,
        "grid": 2000,
    },
}


def preset(config: CompareConfig) -> dict[str, Any]:
    """What the suite says where the user said nothing."""
    plain = CompareConfig("", "", "")
    said = SUITES.get(config.suite, {})
    return {name: value for name, value in said.items() if getattr(config, name) == getattr(plain, name)}


def unique(specs: Sequence[str]) -> list[Entry]:
    """All entries of a comparison; a policy that two specs share is trained once and answers in all their ways."""
    found: dict[str, Entry] = {}
    for entry in (e for spec in specs for e in swept(spec)):
        held = found.get(entry.spec)
        if held and set(held.decodings) & set(entry.decodings):
            raise SteerError(f"--method: the same method is given twice, {entry.spec}.")
        ways = (*held.decodings, *entry.decodings) if held else entry.decodings
        found[entry.spec] = Entry(entry.spec, entry.method, entry.settings, entry.training, decodings=ways)
    return list(found.values())
