"""One round: draw, filter, score, label with what was obtained, pool, train.

Training starts from the base (or from its --init), or from the weights of the round before. A round is a folder of
finished stages whose name changes with everything that determines it: killed rounds resume, and more rounds keep those
before.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

from steer.config.training import TrainConfig
from steer.iteration.draw import fresh_rows
from steer.iteration.launch import train_by
from steer.iteration.pool import mixed, pooled
from steer.iteration.rounds import Rounds
from steer.rows import read
from steer.training.prepare import started_from


def run_round(rounds: Rounds, number: int) -> None:
    """Run the stages of a round that are not finished."""
    folder, settings = rounds.folder(number), rounds.settings
    if (folder / "policy" / "done.json").is_file():
        return
    fresh = fresh_rows(rounds, number)
    pool = settings.pool or rounds.method.pool
    parts = [fresh] if pool == "last" else [rounds.folder(i) / "fresh.jsonl" for i in range(1, number + 1)]
    share, limit = settings.log_share, rounds.training.limit
    logs = mixed(rounds.rows, share, settings.seed, limit) if pool == "all" else iter(())
    rows = pooled(
        chain(logs, *map(read, parts)),
        folder / "rows",
        rounds.schema,
        rounds.scorer_of(number),
        relative=settings.relative_levels,
        relabel=rounds.refits,
    )
    rounds.report(number, train_by(settings.launch, training_of_round(rounds, number, rows)))


def training_of_round(rounds: Rounds, number: int, rows: Path) -> TrainConfig:
    """Return the training config of a round, without a limit: the logs in the pool are limited already."""
    output = str(rounds.folder(number) / "policy")
    config = replace(rounds.training, rows=str(rows), output=output, limit=0)
    before = rounds.policy_of(number - 1)
    if rounds.method.importance:  # its weights compare with the policy that drew
        return started_from(config, before)
    fresh = before == config.model  # a base that is a policy itself has no weights but those that training starts from
    if rounds.start_from == "last" and not fresh and (Path(before) / "steer.json").is_file():
        return continued(config, before)
    return config


def continued(config: TrainConfig, policy: str) -> TrainConfig:
    """Return the config of a training that starts from a policy: from its adapter, or from all of its weights."""
    return replace(config, model=policy) if config.adapter == "none" else started_from(config, policy)
