"""Entries of a comparison, parsed from specs such as `rwr:beta=3/1/0.5`, and their cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from steer.comparison.untrained import UNTRAINED, Untrained
from steer.conditioning.condition import TEMPLATES
from steer.config.comparison import CompareConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.drawn import Decoding
from steer.iteration.rounds import check_method
from steer.iteration.settings import IterateSettings
from steer.methods import METHODS, peak_rate
from steer.methods.base import Method
from steer.run_folder import slug
from steer.settings import check, did_you_mean, overridden
from steer.training.prepare import chosen

PERMUTED = "conditional, permuted labels"
DECODING = ("guidance", "best_of")  # knobs of answering: one policy serves all their values
OF_ROUNDS = ("rounds", "n", "prompts_per_round", "start_from")  # knobs that are settings of `steer iterate`
CHOICES = 8  # responses a prompt and round for a method that compares them or chooses among them, but for its `draws`


@dataclass(frozen=True)
class Entry:
    """One method, or system without training, with its settings and the decodings that its policy answers with.

    `training`: training settings that differ from those of the comparison. `rate` and `front_rate`: the shares of the
    learning rate of likelihood methods that tuning chose for it, and for the method in front; None: their own.
    """

    spec: str
    method: str
    settings: tuple[str, ...]
    training: tuple[tuple[str, Any], ...] = ()
    permuted: bool = False
    decodings: tuple[Decoding, ...] = (Decoding(),)
    iterate: IterateSettings | None = None  # the rounds that the policy goes through, if any
    after: str = ""
    rate: float | None = None
    front_rate: float | None = None

    @staticmethod
    def of(spec: str) -> Entry:
        """Parse and check NAME:KNOB=VALUE,...; knobs are settings of the method but for those named here.

        `template`, `learning_rate` and `rate` belong to training, OF_ROUNDS to iteration; `after` names the method that
        trains on the logs first, and whose policy training continues from, in every round.
        """
        name, _, rest = spec.partition(":")
        if name in UNTRAINED:
            own = tuple(filter(None, rest.split(",")))
            overridden(UNTRAINED[name].settings, own, spec)
            return Entry(spec, name, own)
        if name not in METHODS:
            raise SteerError(f"unknown method '{name}'; {did_you_mean(name, [*METHODS, *UNTRAINED])}")
        settings: list[str] = []
        training: dict[str, Any] = {}
        rounds: list[str] = []
        after = ""
        for part in filter(None, rest.split(",")):
            key, _, value = part.partition("=")
            if key == "template":
                if value not in TEMPLATES:
                    raise SteerError(f"{spec}: unknown template '{value}'; {did_you_mean(value, TEMPLATES)}")
                training[key] = value
            elif key in ("learning_rate", "rate"):
                training[key] = _number(spec, key, value)
            elif key in OF_ROUNDS:
                rounds.append(part)
            elif key == "after":
                after = value
            else:
                settings.append(part)
        method, _ = chosen(name, settings)
        if method.importance:  # it weighs draws of a conditioned policy, so it needs a first policy and a round
            after, rounds = after or "conditional", ["rounds=1", *rounds]
        if method.needs & {"quantiles", "draws"} and not any(part.startswith("rounds=") for part in rounds):
            rounds = ["rounds=2", *rounds]  # what it trains on is drawn in them
        if after:
            _first(spec, method, after)
        iterate = _iterate(spec, name, rounds) if rounds else None
        return Entry(spec, name, tuple(settings), tuple(training.items()), iterate=iterate, after=after)

    @property
    def untrained(self) -> Untrained | None:
        """Return the system that needs no training and that this entry names, or None."""
        return UNTRAINED.get(self.method)

    @property
    def conditioned(self) -> bool:
        """Whether it can be asked for targets."""
        return self.untrained is not None or METHODS[self.method].conditioned

    @property
    def reads_conditions(self) -> bool:
        """Whether it reads targets as text, so that guidance is possible."""
        return self.untrained.told if self.untrained else METHODS[self.method].conditioned

    @property
    def reframes(self) -> bool:
        """Whether its targets are something else than levels of the attributes."""
        return self.untrained is None and METHODS[self.method].reframes

    @property
    def start(self) -> Entry:
        """Return the entry without its rounds."""
        if not self.iterate:
            return self
        name, _, rest = self.spec.partition(":")
        parts = [part for part in rest.split(",") if part.partition("=")[0] not in OF_ROUNDS]
        return replace(
            self, spec=":".join(filter(None, (name, ",".join(parts)))), iterate=None, decodings=(Decoding(),)
        )

    @property
    def stage(self) -> Entry | None:
        """Return the entry that `after` names: it trains on the logs, and all trainings of this one start from it."""
        if not self.after:
            return None
        text = ",".join(f"{k}={v}" for k, v in self.training if k == "template" and METHODS[self.after].conditioned)
        return replace(Entry.of(":".join(filter(None, (self.after, text)))), rate=self.front_rate)

    @property
    def front(self) -> Entry | None:
        """Return the entry that is trained directly before: its stage, or what draws at targets for its first round."""
        reads = bool(self.after) and METHODS[self.after].conditioned
        return self.start if self.iterate and self.conditioned and not reads else self.stage

    @property
    def own_trainings(self) -> int:
        """Number of its own trainings: one, or one in each of its rounds."""
        return 0 if self.untrained else self.iterate.rounds if self.iterate else 1

    @property
    def trainings(self) -> int:
        """Number of its trainings with all that stand in front of them."""
        return self.own_trainings + (self.front.trainings if self.front else 0)

    def settings_from(self, shared: TrainConfig) -> TrainConfig:
        """Return the shared settings with the entry's own; the shared learning rate is that of likelihood methods.

        A method takes its own share of that rate, or `rate` of it where the entry or its tuning says so. One that asks
        for no levels takes none of the shared phrases for them.
        """
        own = {**({"phrase": ()} if self.reframes else {}), **dict(self.training)}
        share = own.pop("rate", 1.0 if "learning_rate" in own else self.rate)
        likelihood = own.pop("learning_rate", shared.learning_rate)
        rate = peak_rate(self.method, likelihood, share) if likelihood else None  # open before the base is known
        return replace(shared, learning_rate=rate, **own)

    @property
    def slug(self) -> str:
        """Folder name of the training."""
        text = PERMUTED if self.permuted else self.spec
        shares = (("rate", self.rate), ("front-rate", self.front_rate if self.after else None))
        tuned = "".join(f"-{name}={share:g}" for name, share in shares if share is not None)
        return slug(text.replace(", ", "-")) + tuned

    def run(self, seed: int) -> str:
        """Name one run, for failures and progress."""
        return f"{PERMUTED if self.permuted else self.spec}, seed {seed}"

    @property
    def family(self) -> str:
        """Name shared by entries that differ only in the method's settings: points of one frontier."""
        front = [f"after={self.after}"] if f"after={self.after}" in self.spec else []
        return ":".join([self.method, *front, *(f"{k}={v}" for k, v in self.training)])

    def name(self, target: str, decoding: Decoding) -> str:
        """Name one system of the entry, at a target and a decoding."""
        spec = self.spec + (("," if ":" in self.spec else ":") + decoding.text if decoding.text else "")
        return f"{spec} @ {target}" if target else spec


def _first(spec: str, method: Method, after: str) -> None:
    """Refuse a first stage that is no likelihood method on the logs, or whose conditions the method does not read."""
    stage, _ = chosen(after, ())
    if method.importance and not stage.conditioned:
        raise SteerError(
            f"{spec}: it weighs what the policy in front drew at targets, and after={after} reads none. Use "
            "after=conditional."
        )
    reads = method.conditioned and not method.reframes
    if stage.still or stage.reframes or (stage.conditioned and not reads):
        wanted = "conditional" if method.importance else "mle"
        raise SteerError(f"{spec}: after={after} is no likelihood stage in front of this method. Use after={wanted}.")


def _iterate(spec: str, method: str, knobs: Sequence[str]) -> IterateSettings:
    """Parse the settings of an entry's rounds, with as many responses a prompt as the method wants."""
    if not any(knob.startswith("rounds=") for knob in knobs):
        raise SteerError(f"{spec}: {', '.join(OF_ROUNDS[1:])} are of rounds, and there is no rounds=. Add rounds=2.")
    m = METHODS[method]
    draws = m.draws or (CHOICES if m.compares else 1)
    settings = overridden(IterateSettings, [f"n={draws}", *knobs], spec)
    try:
        check(settings)
        check_method(method, settings, knob="n")
    except SteerError as error:
        raise SteerError(f"{spec}: {error}") from None
    return settings


def swept(spec: str) -> list[Entry]:
    """Make an entry for every combination of values separated by slashes; values of DECODING share one policy.

    For each best of n, a random one of the same n responses is evaluated too.
    """
    name, _, rest = spec.partition(":")
    knobs = [part.partition("=")[::2] for part in filter(None, rest.split(","))]
    if twice := [key for key, count in Counter(key for key, _ in knobs).items() if count > 1]:
        raise SteerError(f"{spec}: {twice[0]} is given twice. Give one, or a sweep with a slash between its values.")
    trained = [[f"{k}={v}" for v in values.split("/")] for k, values in knobs if k not in DECODING]
    decoded = {k: [_number(spec, k, v) for v in values.split("/")] for k, values in knobs if k in DECODING}
    best = [Decoding(g, int(n)) for g, n in product(*(decoded.get(k, [1.0]) for k in DECODING))]
    decodings = tuple(d for one in best for d in (one, *([one._replace(at_random=True)] if one.best_of > 1 else [])))
    entries = [Entry.of(":".join(filter(None, (name, ",".join(parts))))) for parts in product(*trained)]
    if any(d.guidance != 1 for d in decodings) and not entries[0].reads_conditions:
        raise SteerError(f"{spec}: guidance wants a method with a condition.")
    return [replace(e, decodings=decodings) for e in entries]


def _number(spec: str, key: str, text: str) -> float:
    """Read a number of a decoding, or a rate; refuse what it cannot be."""
    try:
        number = float(text)
    except ValueError:
        raise SteerError(f"{spec}: {key}={text} is not a number.") from None
    if key == "best_of":
        fits, wanted = number.is_integer() and number >= 1, "a whole number of 1 or more"
    elif key == "guidance":
        fits, wanted = 0 <= number < math.inf, "a number of 0 or more"
    else:
        fits, wanted = 0 < number < math.inf, "a number above 0"
    if not fits:
        raise SteerError(f"{spec}: {key}={text}: wanted {wanted}.")
    return number


class Cost(NamedTuple):
    """Cost of training beyond the logs: responses generated, tokens at most, scorer calls."""

    responses: int = 0
    tokens: int = 0
    scored: int = 0


def cost(entry: Entry, settings: TrainConfig, prompts: int) -> Cost:
    """Compute the cost before training: offline methods draw nothing, on-policy ones K (and a greedy one) per prompt.

    `prompts`: number of prompts in an epoch of on-policy methods, whose last batch may be smaller, and at most of a
    round.
    """
    if i := entry.iterate:
        responses = i.rounds * i.n * min(i.prompts_per_round, prompts)
        return Cost(responses, responses * settings.max_new_tokens, responses)
    method = METHODS[entry.method]
    if not method.on_policy:
        return Cost()
    _, own = chosen(entry.method, entry.settings)
    draws = math.ceil(settings.max_steps / getattr(own, "epochs", 1))
    epochs, rest = divmod(draws, max(1, math.ceil(prompts / settings.batch_size)))
    responses = (epochs * prompts + rest * settings.batch_size) * (own.k + ("greedy" in method.needs))
    return Cost(responses, responses * settings.max_new_tokens, responses)


def over_budget(taken: Cost, config: CompareConfig) -> str:
    """Return why a run exceeds the budget of the comparison; empty if it does not."""
    for unit, used, most in (
        ("generated tokens", taken.tokens, config.budget_tokens),
        ("scorer calls", taken.scored, config.budget_calls),
    ):
        if most and used > most:
            return f"over budget: training takes up to {used:,} {unit}, and {most:,} are allowed."
    return ""


def unique(specs: Sequence[str]) -> list[Entry]:
    """Parse all specs; a policy that two of them share is trained once and answers with the decodings of both."""
    entries: dict[str, Entry] = {}
    for entry in (e for spec in specs for e in swept(spec)):
        before = entries[entry.spec].decodings if entry.spec in entries else ()
        if set(before) & set(entry.decodings):
            raise SteerError(f"--method: the same method is given twice, {entry.spec}.")
        entries[entry.spec] = replace(entry, decodings=(*before, *entry.decodings))
    return list(entries.values())
