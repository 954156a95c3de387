"""Rounds of generation, scoring, relabelling and retraining, until all are done or a guard stops them.

Every stage of a round runs as its own command on its own folder, so killed rounds resume stage by stage.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from steer.conditioning.targets import parse_weights
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.generation.requests import BLOCK
from steer.iteration import refresh
from steer.iteration.guards import Figures, alarm, best, limits
from steer.iteration.round import run_round
from steer.iteration.rounds import Rounds, check_engine, check_method, start_from
from steer.iteration.settings import IterateSettings
from steer.iteration.watch import figures, line, measured
from steer.labelling.scorer import Scorer, readable, scorer_of_new
from steer.methods import METHODS
from steer.models.card import Card
from steer.models.policy import Policy
from steer.options import resolve
from steer.progress import note, progress
from steer.rows import Source, content_hash
from steer.rows.directions import SAY_END
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.run_folder import HOW, origin_of, rows_fingerprint, write_json
from steer.settings import settings_of
from steer.training.prepare import chosen

FREE = ("rounds", "guard")  # when the rounds end, not what they are


@dataclass(frozen=True)
class Iteration:
    """Finished rounds.

    `rounds`: figures of each, round 0 being the policy they started from; `kept`: number of the best one; `stopped`:
    the guard's reason to stop, empty if none did.
    """

    rounds: list[dict[str, Any]] = field(repr=False)
    kept: int
    stopped: str
    plan: Rounds = field(repr=False)

    @cached_property
    def policy(self) -> Policy:
        """The policy of the round that is kept."""
        return self.plan.load(self.plan.policy_of(self.kept))


def iterate(
    labelled: Source | Labelled,
    *,
    model: str,
    scorer: str,
    policy: str = "",
    folder: str | Path | None = None,
    **settings: Any,
) -> Iteration:
    """Improve a policy in rounds: draw fresh responses, score and relabel them, retrain.

    `labelled`: rows with levels and held-out prompts, or where `steer label` wrote them; `model`: the base; `scorer`: a
    scorer as `load_scorer` takes it; `policy`: folder of the policy that draws first (default: the base); `settings`:
    those of IterateSettings, where `train` may be a mapping of training settings. Given a `folder`, killed rounds
    resume there and a higher `rounds` goes on; without one they work in a temporary folder. SteerError where a method
    has no rounds, or there are no prompts to watch.
    """
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        root = Path(place)
        if isinstance(train := settings.get("train"), Mapping):
            write_json(root / "train.json", train)
            settings["train"] = str(root / "train.json")
        checked = settings_of(IterateSettings, settings)
        rounds = prepare_rounds(_saved(labelled, root), model, scorer, policy, root, checked)
        rounds.check()
        iteration = run_rounds(rounds)
        _ = iteration.policy  # loaded while its folder is there
    return iteration


def prepare_rounds(rows: str, model: str, scorer: str, policy: str, root: Path, settings: IterateSettings) -> Rounds:
    """Load the scorers and check that the settings fit the rows; nothing is written, and no model is loaded."""
    limits(settings.guard)
    specs = {"scorer": scorer, "gold": settings.gold, "annotator": settings.annotator}
    training = training_of(rows, model, policy, settings)
    trust = training.trust_remote_code
    scorers = {name: scorer_of_new(spec, f"--{name}", trust_remote_code=trust) for name, spec in specs.items() if spec}
    origin = origin_of(model)
    inputs = {"rows": rows_fingerprint(rows), "model": origin, "policy": origin_of(policy) if policy else origin}
    inputs |= {name: scorer.identity for name, scorer in scorers.items()}
    trained = {k: v for k, v in asdict(training).items() if k not in ("rows", "model", "output")}
    inputs["training"] = content_hash([trained])
    schema = Labelled.without_rows(rows).require_levels()
    _check(rows, scorer, settings, scorers, schema)
    if policy and (strange := [n for n in Card.load(Path(policy)).attributes if n not in schema.names]):
        raise SteerError(
            f"--policy {policy}: is conditioned on {', '.join(strange)}, of which {rows} has no levels. Name one that "
            "was trained on such rows, or label the rows again with these attributes."
        )
    own = {f.name: getattr(settings, f.name) for f in fields(IterateSettings) if f.name not in (*FREE, *HOW)}
    own["start_from"] = start_from(METHODS[training.method], settings)
    for name, value in (("shard_size", BLOCK), ("engine", "hf")):
        if own[name] == value:
            del own[name]  # folders of rounds keep the names that they had before there was a choice
    return Rounds(
        rows=rows,
        model=model,
        policy=policy,
        scorer=scorer,
        root=root,
        settings=settings,
        training=training,
        schema=schema,
        scorers=scorers,
        key=content_hash([{"model": model, "policy": policy, "settings": own, "inputs": inputs}]),
        inputs=inputs,
    )


def run_rounds(rounds: Rounds) -> Iteration:
    """Run the rounds that are missing, measure each, and choose the one to keep."""
    settings, bounds = rounds.settings, limits(rounds.settings.guard)
    judges = {
        name: rounds.judge(rounds.scorers[key])
        for name, key in (("proxy", "scorer"), ("gold", "gold"))
        if key in rounds.scorers
    }
    words = [len(readable(row)["response"].split()) for row in rounds.logs]
    facts: list[dict[str, Any]] = []
    history: list[Figures] = []
    stopped = ""
    for number in progress(range(settings.rounds + 1), what="iterate", unit="rounds"):
        if number:
            run_round(rounds, number)
        facts.append(measured(rounds, number, judges))
        history.append(figures(facts[-1]))
        note(line(facts[-1]))
        if stopped := alarm(history, bounds, settings.rounds, words):
            break
    kept = best(history[:-1] if stopped else history)  # a round that a guard stopped is not kept, whatever its reward
    short = [{key: value for key, value in fact.items() if key != "rewards"} for fact in facts]
    return Iteration(short, kept, stopped, rounds)


def training_of(rows: str, model: str, policy: str, settings: IterateSettings) -> TrainConfig:
    """Training settings of the rounds: from the file of `train`, else as the policy was trained.

    `init` and `seed` of the file are ignored: rounds start as `start_from` says, with the seed of the iteration. Its
    `limit` counts logged rows only.
    """
    trained = (Path(policy) / "steer.json").is_file() if policy else False
    if policy and not trained:
        raise SteerError(f'--policy {policy}: is no policy (it has no steer.json). Train one: "steer train".')
    file = settings.train or (str(Path(policy) / "config.json") if trained else None)
    flags = {"rows": rows, "model": model, "output": "."}
    before = resolve(TrainConfig, flags, file)
    training = replace(before, method=settings.method or before.method, init="", seed=settings.seed)
    if settings.set or training.method != before.method:  # the settings of another method mean nothing here
        training = replace(training, set=settings.set)
    method, _ = chosen(training.method, training.set)
    if (
        training.template == "auto" and method.conditioned and trained
    ):  # conditions are written as the policy reads them
        training = replace(training, template=Card.load(Path(policy)).template)
    if training.learning_rate and training.method != before.method and method.rate < 1:
        note(
            f"learning rate {training.learning_rate:g} is what {file} says for {before.method}; {training.method} "
            f"wants about {method.rate:g} of what suits likelihood methods (learning_rate in --train)."
        )
    check_method(training.method, settings)
    check_engine(settings.engine, method, training)
    if "quantiles" in method.needs and (
        not settings.relative_levels or (settings.explore < 1 and settings.goals != "best")
    ):
        raise SteerError(
            f"iterate with '{training.method}' asks for the best quantile of every round's pool, and for nothing else. "
            "Add --relative-levels --explore 1."
        )
    if method.conditioned and not (trained and Card.load(Path(policy)).attributes):
        raise SteerError(
            f"iterate with '{training.method}' draws at targets, so it needs --policy with a policy that reads them. "
            'Train one: "steer train --method conditional".'
        )
    return training


def _check(rows: str, scorer: str, settings: IterateSettings, scorers: Mapping[str, Scorer], schema: Schema) -> None:
    """Raise SteerError for scorers, rows and weights that do not fit the settings."""
    for loaded in scorers.values():
        if missing := set(schema.own) - set(loaded.attributes):
            raise SteerError(
                f"scorer {loaded.id}: does not score {', '.join(sorted(missing))}, as the rows are labelled. Fit it on "
                "these attributes, or label again with it."
            )
    if "annotator" in scorers:
        refresh.check(scorer)
        if "gold" not in scorers:
            raise SteerError("--annotator: every round has a scorer of its own, so --gold must say which is best.")
    if not schema.counted:
        raise SteerError(
            f"{rows}: none of its attributes has a better end, so no round is better than another. {SAY_END}"
        )
    if settings.weights:
        if settings.goals != "weights":
            raise SteerError(f"--weights: are for --goals weights, not --goals {settings.goals}.")
        parse_weights(settings.weights, schema, schema.names)


def _saved(labelled: Source | Labelled, root: Path) -> str:
    """Return the path of the rows; rows in memory are saved first, for each stage reads them from disk."""
    if isinstance(labelled, str | Path):
        return str(labelled)
    rows = Labelled.of(labelled)
    rows.require_levels()
    rows.require_labels()
    rows.save(root / "labels")
    return str(root / "labels")
