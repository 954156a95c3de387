"""One run of a comparison up to its policy: trained on the logs, or through rounds of `steer iterate`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from steer.comparison.comparison import Comparison
from steer.comparison.entry import Entry, cost
from steer.config.training import TrainConfig
from steer.iteration.launch import train_by
from steer.iteration.round import continued, run_round
from steer.iteration.rounds import Rounds, start_from
from steer.iteration.settings import IterateSettings
from steer.methods import METHODS
from steer.report.cells import counted
from steer.rows import prompt_key, read
from steer.run_folder import fingerprint, read_done, read_json, write_json

SUMMED = ("steps", "tokens", "seconds", "drawn", "scored")


def trained(comparison: Comparison, entry: Entry, seed: int, rows: str) -> tuple[Path, dict[str, Any]]:
    """Train the policy of an entry; return its path and done.json with the responses `drawn` and `scored`.

    A policy in front is trained once for all entries, and its cost counted for each.
    """
    settings = replace(
        entry.settings_from(comparison.rated),
        rows=rows,
        model=comparison.model(seed),
        output=str(_policy(comparison, entry.start, seed)),
        method=entry.method,
        set=entry.settings,
        seed=seed,
        scorer=comparison.proxy,  # whatever the file of --train names: that may be gold
    )
    first, spent = "", []
    if entry.front:
        policy, facts = trained(comparison, entry.front, seed, rows)
        first, spent = str(policy), [facts]
    if entry.stage:
        settings = continued(settings, str(_policy(comparison, entry.stage, seed)))
    if entry.iterate:
        policy, more = _looped(comparison, entry, entry.iterate, settings, first)
    else:
        policy, more = Path(settings.output), [_logged(entry, settings, comparison.launch(entry))]
    spent += more
    summary = spent[-1]["summary"]
    if entry.iterate:
        summary = f"{counted(entry.iterate.rounds, 'round')}, the last: {summary}"
    if comparison.alone:
        click.echo(f"[{entry.run(seed)}] {summary}", err=True)
    summed = {key: sum(taken[key] for taken in spent) for key in SUMMED}
    return policy, {**spent[-1], **summed, "summary": summary, "hash": fingerprint(policy)}


def _policy(comparison: Comparison, entry: Entry, seed: int) -> Path:
    """Return the folder of a policy that is trained on the logs."""
    return comparison.run_folder(entry, seed) / "policy"


def _logged(entry: Entry, settings: TrainConfig, launch: str) -> dict[str, Any]:
    """Train on the logs, in this process or by a launcher."""
    train_by(launch, settings)
    done = read_done(Path(settings.output))
    taken = cost(entry, settings, done["rows"])
    return {**done, "drawn": taken.responses, "scored": taken.scored}


def _looped(
    comparison: Comparison, entry: Entry, iterate: IterateSettings, training: TrainConfig, first: str
) -> tuple[Path, list[dict[str, Any]]]:
    """Do the rounds that are missing, beside the policy of `training`: fewer rounds are on the way to more.

    `first` draws first: a policy trained on the logs, or (empty) the base. Every round trains from where `training`
    does, unless its settings say otherwise. Nothing stops the rounds and gold is not
    asked, for a round that gold chose would be judged by what chose it.
    """
    relative = "quantiles" in METHODS[entry.method].needs
    settings = replace(
        iterate,
        relative_levels=relative,
        explore=1.0 if relative else 0.5,
        temperature=comparison.config.temperature,
        max_new_tokens=training.max_new_tokens,
        batch_size=comparison.config.batch_size,
        seed=training.seed,
        engine=comparison.config.engine,
        launch=comparison.launch(entry),
        num_proc=comparison.workers.number,
        workers=comparison.config.workers,
        shard_size=comparison.config.shard_size,
    )
    rounds = Rounds(
        rows=training.rows,
        model=training.model,
        policy=first,
        scorer=comparison.proxy,
        root=Path(training.output).parent,
        settings=settings,
        training=training,
        schema=comparison.labelled.schema,
        scorers={"scorer": comparison.examination.court.proxy},
        key=f"{iterate.n}:{iterate.prompts_per_round}:{start_from(METHODS[entry.method], iterate)}",
        name=entry.run(training.seed),
    )
    facts = [_turned(rounds, number) for number in range(1, iterate.rounds + 1)]
    return Path(rounds.policy_of(iterate.rounds)), facts


def _turned(rounds: Rounds, number: int) -> dict[str, Any]:
    """Do a round; return done.json of its training with its whole time and the responses drawn and scored."""
    folder = rounds.folder(number)
    if not (folder / "took.json").is_file():
        began = time.monotonic()
        run_round(rounds, number)
        drawn = (
            min(rounds.settings.prompts_per_round, len({prompt_key(row) for row in rounds.logs})) * rounds.settings.n
        )
        scored = sum(1 for _ in read(folder / "fresh.jsonl"))
        # A round killed after its training ends at once now, but took at least as long as the training.
        seconds = max(time.monotonic() - began, read_done(folder / "policy")["seconds"])
        write_json(folder / "took.json", {"drawn": drawn, "scored": scored, "seconds": seconds})
    return {**read_done(folder / "policy"), **read_json(folder / "took.json")}
