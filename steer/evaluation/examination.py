"""Examination: prompts, scorers and annotators that all systems under evaluation share, and their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from steer.conditioning.targets import Target, drawn_targets
from steer.errors import SteerError
from steer.evaluation.annotators import Annotator, annotators, guessed
from steer.evaluation.court import Court, fitting
from steer.evaluation.drawn import Choice, Decoding, Reference, drawn, over_grid
from steer.evaluation.result import Case
from steer.evaluation.settings import AnswerSettings
from steer.evaluation.sources import Contestant
from steer.evaluation.systems import Answers, System
from steer.generation.drawing import WHOLE, Split
from steer.generation.generate import answers
from steer.generation.requests import Request, longest_condition, with_room
from steer.generation.settings import Sampling
from steer.labelling.scorer import Scorer, load_scorer, rewarder
from steer.methods import foreign
from steer.models.card import Card
from steer.models.policy import Policy, load_policy
from steer.progress import note, note_once
from steer.rows import Reading, Row, Source, named_side, prompt_key, read
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.run_folder import slugs

S = TypeVar("S", bound=AnswerSettings)
Attempt = Callable[[str, Decoding, Callable[[], Answers]], Answers | None]
PLAIN = Decoding()
RANDOM = "random"  # the control: targets that nobody asked for, drawn as often as they occur in the logs


class Examinee(NamedTuple):
    """A policy that answers, the folder for its answers, its seed, and the model that its KL is measured from.

    `split`: by which processes its answers are drawn.
    """

    policy: Policy
    folder: Path
    seed: int
    reference: Reference | None
    split: Split = WHOLE


@dataclass
class Examination(Generic[S]):
    """Rows, prompts, scorers and annotators of one evaluation, each loaded when it is first used.

    `source`: labelled rows. `contestants`: the systems that exist before anything is answered; a comparison has none,
    for it trains its own. `first_seed` is added to the seed of every examinee when it answers.
    """

    settings: S
    source: Source | Labelled | None = None
    gold: str = ""
    scorer: str = ""
    contestants: Sequence[Contestant] = ()
    first_seed: int = 0
    needs_gold: bool = False  # even where annotators judge
    trust_remote_code: bool = False  # of scorers, annotators and models
    bases: Sequence[str] = ()  # that a comparison trains from

    @property
    def path(self) -> str:
        """Path of the rows; empty if there are none, or they are in memory."""
        return str(self.source) if isinstance(self.source, str | Path) else ""

    @cached_property
    def rows(self) -> list[Row]:
        """Labelled rows; those without a response count too."""
        if self.source is None:
            return []
        if isinstance(self.source, Labelled):
            return list(self.source.rows)
        return list(read(self.source, reading=Reading(blank=True)))

    @cached_property
    def stored(self) -> Labelled:
        """The schema and scorer that are stored with the rows, if any."""
        return Labelled.without_rows(self.source or ())

    @cached_property
    def schema(self) -> Schema:
        """Schema of the rows, else of the first policy that has one, else of the scorer; empty where none judges."""
        if not self.judge:
            return Schema(())
        if self.stored.schema.attributes:
            return self.stored.schema
        for card in (contestant.card for contestant in self.contestants):
            if card and card.schema and not foreign(card.method):
                return card.schema
        scorer = load_scorer(self.judge, trust_remote_code=self.trust_remote_code)
        return scorer.schema or (guessed(scorer) if scorer.attributes else Schema(()))

    @cached_property
    def court(self) -> Court:
        """Gold beside the proxy; without rows, the unit of the reward is that of all responses together."""
        trust = {"trust_remote_code": self.trust_remote_code}
        flag = "--gold" if self.gold else "--scorer"  # that names the judge
        gold = fitting(self.judge, flag, self.schema, **trust) if self.judge else Scorer("", ())
        proxy = gold if self.proxy in ("", self.judge) else fitting(self.proxy, "--scorer", self.schema, **trust)
        answered = [row for row in self.rows if _answered(row)]
        train = [row for row in answered if named_side(row) != "test"] or answered
        return Court(self.schema, gold, proxy, train or [row for c in self.contestants for row in c.rows or ()])

    @cached_property
    def annotators(self) -> list[Annotator]:
        """Annotators, by default the gold scorer, who prefer one of two responses."""
        return annotators(self.settings.annotator, self.gold, self.schema, trust_remote_code=self.trust_remote_code)

    @property
    def proxy(self) -> str:
        """The scorer that training saw; empty where nothing names it."""
        return self.scorer or ("" if self.stored.spec == "human" else self.stored.spec)

    @property
    def judge(self) -> str:
        """The scorer that judges; empty where annotators alone do."""
        judge = self.gold or self.proxy
        if not judge and (not self.settings.annotator or self.needs_gold or self.settings.controls):
            raise SteerError(
                '--gold is missing: name the scorer that judges, such as a folder of "steer fit", or who says which '
                "response is better (--annotator) for win-rates alone. In Python: gold=, annotator=."
            )
        return judge

    @cached_property
    def held_out(self) -> list[Row]:
        """Rows of held-out prompts."""
        return [row for row in self.rows if named_side(row) == "test"]

    @cached_property
    def prompts(self) -> list[Row]:
        """One row for each held-out prompt of the rows, else for each prompt of the responses that are evaluated."""
        policies = not self.contestants or any(c.rows is None for c in self.contestants)
        if policies and self.rows and not self.held_out:
            if self.path or any(row.get("split") for row in self.rows):
                name = self.source.name if isinstance(self.source, Labelled) else self.path or "prompts"
                raise SteerError(
                    f"{name}: no prompt is held out, so a policy may have trained on all of them. "
                    'Run "steer label" with --held-out above 0, or name rows of other prompts whose split is "test".'
                )
            note("the prompts name no split; give labelled rows if a policy may have trained on them.")
        rows = self.held_out or self.rows or [row for c in self.contestants for row in c.rows or ()]
        if not rows:
            raise SteerError("--rows is missing: policies need prompts to answer. In Python: prompts=.")
        first: dict[str, Row] = {}
        for row in rows:
            first.setdefault(prompt_key(row), row)
        asked, readers = list(first.values()), list(self.readers)
        most = self.settings.num_prompts if len(readers) == 1 else 0  # several may each pass over others
        for policy in readers:
            asked = with_room(policy, asked, most, self._spare(policy))
        return asked[: self.settings.num_prompts or None]

    @property
    def readers(self) -> Iterator[Policy]:
        """Yield what answers the prompts, without weights: policies under evaluation, or the bases of trainings."""
        for contestant in self.contestants:
            if contestant.policy:
                yield contestant.policy
        paths = dict.fromkeys(c.path for c in self.contestants if c.rows is None and not c.policy)
        for name in (*paths, *self.bases):
            yield load_policy(name, device="meta", trust_remote_code=self.trust_remote_code)

    def _spare(self, policy: Policy) -> int:
        """Return the tokens that a condition in words, the longest there is, can take in front of a base's answers."""
        schema = self.stored.schema
        return longest_condition(policy, schema, schema.own, "words") if self.bases and schema.levelled else 0

    def check(self) -> None:
        """Raise SteerError now for all that would be refused later."""
        _ = self.court, self.prompts, self.annotators

    def answers(
        self, examinee: Examinee, requests: Sequence[Request], name: str, decoding: Decoding = PLAIN
    ) -> Answers:
        """Draw a response to each request and score it; those in the examinee's folder are read back."""
        s = self.settings
        sampling = Sampling(
            temperature=s.temperature,
            max_new_tokens=s.max_new_tokens,
            guidance=decoding.guidance,
            batch_size=s.batch_size,
            seed=self.first_seed + examinee.seed,
        )
        choice = None
        if decoding.best_of > 1:
            reward = None if decoding.at_random else rewarder(self.court.proxy, self.schema, partial=True)
            choice = Choice(decoding.best_of, reward)
        folder = examinee.folder / name
        rows = drawn(examinee.policy, requests, sampling, folder, examinee.reference, choice, examinee.split)
        return self.court.scored(rows)

    def at_targets(
        self,
        examinee: Examinee,
        targets: Sequence[str],
        *,
        n: int = 1,
        decodings: Sequence[Decoding] = (PLAIN,),
        control: Schema | None = None,
        attempt: Attempt | None = None,
    ) -> dict[tuple[str, Decoding], Answers]:
        """Answers of a policy to every prompt, `n` each, at each target and decoding; unconditioned, at target "".

        `control`: the schema that the random targets of the control are drawn from; default: the policy's. `attempt`
        draws at a target and a decoding, or returns None where that fails and the others are to go on.
        """
        aims = self._aims(examinee, targets, control)
        # One folder for both choices of a decoding.
        texts = {(t, d): ",".join(filter(None, (t, d.best.text))) for t, d in product(aims, decodings)}
        names, answers = slugs(texts.values()), {}
        for (target, levels), decoding in product(aims.items(), decodings):
            name = names[texts[target, decoding]] or "plain"
            requests = [Request(prompt, aim) for prompt, aim in zip(self.prompts, levels) for _ in range(n)]
            draw = partial(self.answers, examinee, requests, f"answers-{name}", decoding)
            given = attempt(target, decoding, draw) if attempt else draw()
            if given is not None:
                answers[target, decoding] = given
        return answers

    def _aims(self, examinee: Examinee, targets: Sequence[str], control: Schema | None) -> dict[str, list[Target]]:
        """The levels that each prompt is answered at, for each target."""
        policy, card, count = examinee.policy, examinee.policy.card, len(self.prompts)
        if card is None or card.schema is None or not card.attributes:
            return {"": [{}] * count}
        aims = {target: policy.targets([target]) * count for target in targets}
        if self.settings.controls:
            aims[RANDOM] = drawn_targets(control or card.schema, card.attributes, count, examinee.seed)
        return aims

    def over_grid(self, examinee: Examinee) -> Answers | None:
        """Answers over the factorial grid of the attributes that a policy is conditioned on; None without one.

        A policy whose targets are no levels of what is scored has none.
        """
        card, size = examinee.policy.card, self.settings.grid
        names = [n for n in card.attributes if n in self.schema.own] if card else []
        if not names or not size:
            return None
        if not self.alike(card):
            note_once(f"{examinee.policy.name}: its targets are no levels of the rows that are scored: it has no dial.")
            return None
        if unseen := self.schema.unseen(names):
            note_once(f"{examinee.policy.name}: has no dial, for {unseen}.")
            return None
        requests = over_grid(self.prompts, self.schema, names, size, examinee.seed)
        return self.answers(examinee, requests, "grid")

    def alike(self, card: Card | None) -> bool:
        """Whether the targets of a policy are levels as they are scored: neither weights nor on a scale of its own."""
        if card is None or card.schema is None or foreign(card.method):
            return False
        return card.schema.alike(self.schema, (n for n in card.attributes if n in self.schema.names))

    def case(
        self, systems: Sequence[System], baseline: str, grids: Mapping[str, Mapping[int, Answers]], dial: str = ""
    ) -> Case:
        """Gather what is judged: the systems' answers beside the logged responses to the same prompts.

        `baseline`: the system, and `dial` the name in `grids`, that the others are compared with.
        """
        keys = {prompt_key(row) for row in self.prompts}
        logged = [row for row in self.held_out or self.rows if prompt_key(row) in keys and _answered(row)]
        return Case(
            self.court,
            systems,
            baseline,
            self.settings.resamples,
            self.court.scored(logged) if logged else None,
            grids,
            self.annotators,
            self.settings.pairs,
            self.settings.controls,
            dial,
            held_out=bool(self.held_out),
            blind=not self.proxy,
        )


def _answered(row: Row) -> bool:
    return "response" in row and answers(row)
