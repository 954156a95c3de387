"""Plan of the rounds, printed before any of them runs: `steer iterate --dry-run`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from steer.errors import SteerError
from steer.generation.pace import measured
from steer.iteration.round import training_of_round
from steer.iteration.rounds import Rounds
from steer.iteration.watch import watched_requests
from steer.progress import duration
from steer.report.cells import counted
from steer.training.pace import forecast, lengths_of, unforeseeable
from steer.training.prepare import Hashes
from steer.training.train import Training, prepare


def planned(rounds: Rounds) -> str:
    """Describe what the rounds draw and train on, and estimate how long that takes."""
    s, t = rounds.settings, rounds.training
    policy = rounds.load(rounds.policy_of(0))
    _, watched = watched_requests(rounds, policy)
    prompts = len(rounds.drawn_prompts(1))
    fresh, draws = prompts * s.n, prompts * s.n * s.rounds + len(watched) * (s.rounds + 1)
    pool = s.pool or rounds.method.pool
    logs = round(s.log_share * len(rounds.logs[: t.limit or None])) if pool == "all" else 0
    sizes = [logs + fresh * (1 if pool == "last" else i + 1) for i in range(s.rounds)]
    drawing = "not estimated: vLLM draws at a speed of its own"
    if s.engine == "hf":
        drawing = measured(policy, watched, rounds.sampling(s.seed)).foreseen(draws, s.max_new_tokens)
    return "\n".join(
        [
            f"Plan: {counted(s.rounds, 'round')} of {t.method} from {policy.name}; nothing is written.",
            f"draws       {fresh:,} responses in each round ({prompts:,} prompts x {s.n}), and one to each of "
            f"{len(watched):,} held-out prompts before the first and after every one",
            f"rows        to train on, at most: {', '.join(f'{size:,}' for size in sizes)}",
            f"drawing     {drawing}",
            f"training    {_training_time(rounds, sizes)}; loading, scores, log-probs and saving come on top.",
        ]
    )


def _training_time(rounds: Rounds, sizes: list[int]) -> str:
    """Estimate the time of all trainings: that of a training on the logged rows, times the size of each pool."""
    try:
        training = _on_logs(rounds)
    except SteerError as error:
        return f"not estimated, for the logged rows alone cannot be trained on: {error}"
    loop = training.loop
    if reason := unforeseeable(loop):
        return reason
    lengths = lengths_of(loop.plan)
    time = forecast(training.policy, loop, lengths)
    shares = [size / len(lengths) for size in sizes]
    if loop.options.max_steps:  # the same for every pool, and so are the groups that they see
        most = loop.options.max_steps * loop.options.batch_size / len(loop.plan.groups)
        seconds = time.steps * len(sizes) + time.before * sum(min(most, share) for share in shares) / min(most, 1)
    else:
        seconds = (time.steps + time.before) * sum(shares)
    return f"up to about {duration(seconds)}: {time.pace.basis}"


def _on_logs(rounds: Rounds) -> Training:
    """Prepare the training of the first round on the logged rows alone."""
    config = replace(training_of_round(rounds, 1, Path(rounds.rows)), limit=rounds.training.limit)
    hashes = Hashes.of(config.model, config.init)
    return prepare(rounds.labelled, config.model, config.method, config, hashes)
