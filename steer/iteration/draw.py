"""Fresh responses of a round: drawn by the policy before, filtered, and labelled with the levels that they obtained.

A conditioned policy draws at targets (SteerLM, 2310.05344, step 4; with relative levels as Quark, 2205.13636).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from steer.conditioning.targets import Target, parse_weights
from steer.errors import SteerError
from steer.generation.drawing import generate_rows
from steer.generation.requests import Request
from steer.iteration.fresh import above, distinct, usable
from steer.iteration.goals import goals
from steer.iteration.refresh import refreshed
from steer.iteration.rounds import Rounds
from steer.labelling.shards import scored
from steer.labelling.writer import labelled
from steer.models.policy import Policy
from steer.rows import Row, read, write_rows
from steer.rows.identity import round_source


def fresh_rows(rounds: Rounds, number: int) -> Path:
    """Write fresh.jsonl, unless it is there: responses to training prompts with the levels that they obtained."""
    folder, schema, settings = rounds.folder(number), rounds.schema, rounds.settings
    path = folder / "fresh.jsonl"
    if path.is_file():
        return path
    rows = _responses(rounds, number)
    scorer = rounds.scorer_of(number - 1)
    if rounds.refits:
        folders = [rounds.folder(i) for i in range(1, number + 1)]
        annotator = rounds.scorers["annotator"]
        scorer = refreshed(rounds.scorer, scorer, annotator, rows, settings.ratings, settings.seed, folders)
    scores = scored(rows, scorer, schema.own, folder / "scores", rounds.workers, settings.shard_size)
    if settings.keep_above:
        directions = [schema[n].direction for n in schema.own]
        kept = above(scores, scorer.score(rounds.logs, schema.own), directions, settings.keep_above)
        if not kept.any():
            raise SteerError(
                f"round {number}: no response has a score above the {settings.keep_above} quantile of the logs."
            )
        rounds.report(number, f"{len(rows) - kept.sum()} dropped by --keep-above {settings.keep_above}.")
        rows, scores = [r for r, keep in zip(rows, kept) if keep], scores[kept]
    write_rows((labelled(row, schema, s, s, scorer.id, "train") for row, s in zip(rows, scores)), path)
    return path


def _responses(rounds: Rounds, number: int) -> list[Row]:
    """Draw responses, and drop those that are malformed or, with `dedupe`, were seen already."""
    settings = rounds.settings
    split = rounds.split(rounds.policy_of(number - 1))
    policy = rounds.load(rounds.policy_of(number - 1), weights=split.opens is None)
    prompts = rounds.drawn_prompts(number)
    seed = settings.seed * 1000 + number
    aims = _aims(rounds, policy, len(prompts), seed)
    samples = (prompt for prompt in prompts for _ in range(settings.n))
    requests = [Request(prompt, aim) for prompt, aim in zip(samples, aims)]
    folder = rounds.folder(number) / "generated"
    rows = generate_rows(policy, requests, rounds.sampling(seed), folder, split, source=round_source(number))
    names = policy.card.attributes if policy.card else ()
    good, dropped = usable(rows, names or rounds.schema.own, any_form=settings.any_form)
    if settings.dedupe:
        earlier = chain(rounds.logs, *(read(rounds.folder(i) / "fresh.jsonl") for i in range(1, number)))
        count, good = len(good), distinct(good, earlier)
        dropped["seen already"] = count - len(good)
    if not good:
        raise SteerError(
            f"round {number}: none of the {len(rows)} responses can be used ({_counts(dropped)}). Raise "
            "--max-new-tokens, or start from a policy that writes better."
        )
    text = f", {len(rows) - len(good)} dropped: {_counts(dropped)}" if len(good) < len(rows) else ""
    rounds.report(number, f"{len(rows)} responses{text}.")
    # What a policy was asked for is no level of the rows, so no reader of them may take it for one.
    return [{**row, "target": {}} for row in good] if rounds.foreign else good


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)


def _aims(rounds: Rounds, policy: Policy, prompts: int, seed: int) -> Sequence[Target]:
    """Choose a target for every response, prompt by prompt; candidates that are weighed together share one."""
    settings, n = rounds.settings, rounds.settings.n
    names = policy.card.attributes if policy.card and rounds.method.conditioned else ()
    if not names:
        return [{}] * (prompts * n)
    schema, together = rounds.schema_of(policy), rounds.method.importance
    weights = parse_weights(settings.weights, schema, names) if settings.weights else None
    count = prompts if together else prompts * n
    aims = goals(schema, names, count, settings.explore, seed, settings.goals, weights)
    return [aim for aim in aims for _ in range(n)] if together else aims
