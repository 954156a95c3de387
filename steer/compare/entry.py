"""One method of a comparison as the user wrote it, `rwr:beta=3/1/0.5`, and what it may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from steer.condition import TEMPLATES
from steer.config import CompareConfig, TrainConfig
from steer.drawn import Decoding
from steer.errors import SteerError
from steer.iterate.rounds import goes_round
from steer.methods import METHODS, peak_rate
from steer.options import did_you_mean
from steer.run import slug
from steer.train import chosen

PERMUTED = "conditional, permuted labels"
DECODING = ("guidance", "best_of")  # knobs that are turned when a policy answers; the same policy serves all of them
CHOICES = 8  # responses a prompt and round for a method that chooses among them or compares them


class Turns(NamedTuple):
    """The rounds of `steer iterate` that a policy went through: how many, and what each of them draws."""

    rounds: int
    n: int
    prompts: int = 1000


@dataclass(frozen=True)
class Entry:
    """One method with its settings; `training` differs from the others', `decodings` are how its policy answers."""

    spec: str
    method: str
    settings: tuple[str, ...]
    training: tuple[tuple[str, Any], ...] = ()
    permuted: bool = False
    decodings: tuple[Decoding, ...] = (Decoding(),)
    turns: Turns | None = None

    @staticmethod
    def of(spec: str) -> Entry:
        """Parse and check; `template=`, `learning_rate=` and `rate=` are of training, the fields of Turns of a loop."""
        name, _, rest = spec.partition(":")
        settings: list[str] = []
        training: dict[str, Any] = {}
        turns: dict[str, int] = {}
        for part in filter(None, rest.split(",")):
            key, _, value = part.partition("=")
            if key == "template":
                if value not in TEMPLATES:
                    raise SteerError(f"{spec}: unknown template '{value}'; {did_you_mean(value, TEMPLATES)}")
                training[key] = value
            elif key in ("learning_rate", "rate"):
                training[key] = _number(spec, key, value)
            elif key in Turns._fields:
                turns[key] = _whole(spec, key, value)
            else:
                settings.append(part)
        method, _ = chosen(name, settings)
        if method.importance or method.reframe:
            raise SteerError(f"{spec}: its targets are no levels of the logs, so it cannot stand in this comparison.")
        return Entry(spec, name, tuple(settings), tuple(training.items()), turns=_turns(spec, name, turns))

    @property
    def start(self) -> Entry:
        """What it is before its first round."""
        if not self.turns:
            return self
        name, _, rest = self.spec.partition(":")
        parts = [part for part in rest.split(",") if part.partition("=")[0] not in Turns._fields]
        return replace(self, spec=":".join(filter(None, (name, ",".join(parts)))), turns=None, decodings=(Decoding(),))

    def settings_from(self, shared: TrainConfig) -> TrainConfig:
        """What all train with, and its own in place of that; the learning rate of all is that of likelihood methods.

        A method takes its own share of that rate, or `rate` of it where the entry says so.
        """
        own = dict(self.training)
        share = own.pop("rate", 1.0 if "learning_rate" in own else None)
        likelihood = own.pop("learning_rate", shared.learning_rate)
        return replace(shared, learning_rate=peak_rate(self.method, shared.adapter, likelihood, share), **own)

    @property
    def slug(self) -> str:
        """Folder name of its training."""
        text = PERMUTED if self.permuted else self.spec
        return slug(text.replace(", ", "-"))

    def run(self, seed: int) -> str:
        """One of its runs, as failures and progress call it."""
        return f"{PERMUTED if self.permuted else self.spec}, seed {seed}"

    @property
    def family(self) -> str:
        """What entries share that differ in the settings of the method only: points of one frontier."""
        return ":".join([self.method, *(f"{k}={v}" for k, v in self.training)])

    def name(self, target: str, decoding: Decoding) -> str:
        """Of one of its systems."""
        spec = self.spec + (("," if ":" in self.spec else ":") + decoding.text if decoding.text else "")
        return f"{spec} @ {target}" if target else spec


def _turns(spec: str, name: str, given: dict[str, int]) -> Turns | None:
    """The rounds of an entry, none where it has no `rounds=`."""
    if not given:
        return None
    if "rounds" not in given:
        raise SteerError(f"{spec}: n and prompts say what a round draws, and there is no rounds=.")
    method = METHODS[name]
    several = method.fresh == "rounds" and not method.conditioned  # it compares or chooses responses to a prompt
    turns = Turns(**{"n": CHOICES if several else 1} | given)
    try:
        goes_round(name, turns.n, knob="n")
    except SteerError as error:
        raise SteerError(f"{spec}: {error}") from None
    return turns


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
    return [replace(e, decodings=decodings) for e in found]


def _number(spec: str, key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SteerError(f"{spec}: {key}={text} is not a number.") from None


def _whole(spec: str, key: str, text: str) -> int:
    if (value := _number(spec, key, text)) < 1 or value % 1:
        raise SteerError(f"{spec}: wanted {key} to be a whole number of 1 or more.")
    return int(value)


class Cost(NamedTuple):
    """What training draws and has scored beyond the logs: responses, at most so many tokens, scorer calls."""

    responses: int = 0
    tokens: int = 0
    scored: int = 0


def cost(entry: Entry, settings: TrainConfig, prompts: int) -> Cost:
    """Known before training: offline methods draw nothing, on-policy ones K (and a greedy one) a prompt and draw.

    `prompts`: to train on, which on-policy methods go through again and again, the last draw of an epoch smaller.
    Rounds draw for all their own, of which the logs may have fewer.
    """
    if entry.turns:
        responses = math.prod(entry.turns)
        return Cost(responses, responses * settings.max_new_tokens, responses)
    rule = METHODS[entry.method].on_policy
    if rule is None:
        return Cost()
    _, own = chosen(entry.method, entry.settings)
    draws = math.ceil(settings.max_steps / getattr(own, "epochs", 1))
    epochs, more = divmod(draws, max(1, math.ceil(prompts / settings.batch_size)))
    responses = (epochs * prompts + more * settings.batch_size) * (own.k + rule.greedy)
    return Cost(responses, responses * settings.max_new_tokens, responses)


def over_budget(taken: Cost, config: CompareConfig) -> str:
    """Why what takes so much may not run under the budget of the comparison; empty where it may."""
    for what, used, most in (
        ("generated tokens", taken.tokens, config.budget_tokens),
        ("scorer calls", taken.scored, config.budget_calls),
    ):
        if most and used > most:
            return f"over budget: training takes up to {used:,} {what}, and {most:,} are allowed."
    return ""


def unique(specs: Sequence[str]) -> list[Entry]:
    """All entries of a comparison; a policy that two specs share is trained once and answers in all their ways."""
    found: dict[str, Entry] = {}
    for entry in (e for spec in specs for e in swept(spec)):
        held = found.get(entry.spec)
        if held and set(held.decodings) & set(entry.decodings):
            raise SteerError(f"--method: the same method is given twice, {entry.spec}.")
        ways = (*held.decodings, *entry.decodings) if held else entry.decodings
        found[entry.spec] = replace(entry, decodings=ways)
    return list(found.values())
