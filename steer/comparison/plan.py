"""Plan of a comparison, printed before anything runs: `steer compare --dry-run`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from steer.comparison.comparison import Comparison
from steer.comparison.entry import PERMUTED, Entry
from steer.comparison.tuning import held_out, known, phases
from steer.errors import SteerError
from steer.generation import pace as drawing
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.methods import METHODS
from steer.progress import duration, note
from steer.report.cells import count, counted
from steer.training import pace
from steer.training.prepare import Hashes
from steer.training.train import prepare


def planned(comparison: Comparison, entries: Mapping[Entry, str]) -> str:
    """Format the plan: a line per entry, for one seed, and totals; the text of an entry says why it may not run."""
    config, lines, seeds = comparison.config, [], len(comparison.seeds)
    if config.engine != "hf":
        note("the time below is that of drawing with transformers; vLLM draws at a speed of its own.")
    prompts, speed = (
        len(comparison.examination.prompts),
        Speed.of(comparison, [e for e, over in entries.items() if not over]),
    )
    steps = answers = 0
    seconds, without = speed.answers(prompts, config.max_new_tokens), []
    for entry, over in entries.items():
        name, work = PERMUTED if entry.permuted else entry.spec, Work.of(comparison, entry)
        taken = comparison.cost(entry)
        draws = f", draws and has scored up to {taken.responses:,} responses" if taken.responses else ""
        training = "no training" if entry.untrained else f"{counted(work.steps, 'step')}{draws}"
        lines.append(f"  {name}: " + (over or f"{training}, {counted(work.answers, 'answer')}"))
        if over:
            continue
        steps, answers = steps + work.steps, answers + work.answers
        own, unknown = speed.seconds(comparison, entry, work)
        seconds += own
        without += [name] if unknown else []
        lines[-1] += f"; {unknown}" if unknown else f"; up to about {duration(own)}"
    tuning, once = _tuning(comparison, speed, [e for e, over in entries.items() if not over])
    first = (
        f"{counted(len(entries), 'entry', 'entries')} on {counted(len(comparison.logs), 'row')}, asked about "
        f"{counted(prompts, 'held-out prompt')}; each, with one seed:"
    )
    last = (
        f"With {counted(seeds, 'seed')} at most {count(steps * seeds)} steps of "
        f"{comparison.settings.batch_size} groups and {count(answers * seeds)} answers, beside those of the base; "
        f"{counted(1 if comparison.alone else config.num_proc, 'run')} at a time. Nothing was done or written."
    )
    return "\n".join([first, *lines, *tuning, speed.foreseen(seconds * seeds + once, without), last])


def _tuning(comparison: Comparison, speed: Speed, entries: Sequence[Entry]) -> tuple[list[str], float]:
    """Describe what tuning takes beside the repetitions, in a line; return its seconds too."""
    rates, prompts = comparison.config.tune, len(held_out(comparison))
    tried = [entry for phase in phases(entries, known(comparison), comparison) for entry in phase]
    if not rates or not tried:
        return [], 0.0
    steps = sum(entry.own_trainings for entry in tried) * comparison.settings.max_steps * rates
    each = [speed.seconds(comparison, e, Work(comparison.settings.max_steps, prompts))[0] for e in tried]
    text = (
        f"Tuning, once: {rates} learning rates for {counted(len(tried), 'method')}, {count(steps)} steps and "
        f"{count(len(tried) * rates * prompts)} answers to {counted(prompts, 'training prompt')} held out; up to about "
        f"{duration(sum(each) * rates)}."
    )
    return [text], sum(each) * rates


class Work(NamedTuple):
    """Optimizer steps and answers of an entry with one seed; rounds that entries share count for each."""

    steps: int
    answers: int

    @staticmethod
    def of(comparison: Comparison, entry: Entry) -> Work:
        """Count them."""
        config, conditioned = comparison.config, entry.conditioned
        draws = 0 if entry.permuted else sum(d.best_of for d in entry.decodings if not d.at_random)  # it draws nothing
        aims = len(config.target) + config.controls if conditioned else 1
        grid = config.grid if conditioned else 0
        answers = draws * aims * len(comparison.examination.prompts) + grid
        return Work(entry.trainings * comparison.settings.max_steps, answers)


class Speed(NamedTuple):
    """Speed of training and drawing, measured once with the first base: by likelihood on the logs, and as it answers.

    `length`: mean tokens of a logged row with its prompt, `prompt`: without the response. `loading`: seconds until a
    training can begin. `training` is None, and `unknown` says why, where nothing is trained or no estimate can be made.
    """

    draws: drawing.Pace
    training: pace.Pace | None = None
    length: float = 0.0
    prompt: float = 0.0
    loading: float = 0.0
    unknown: str = ""

    @staticmethod
    def of(comparison: Comparison, entries: list[Entry]) -> Speed:
        """Measure what the entries need."""
        config, settings = comparison.config, comparison.settings
        sampling = Sampling(
            temperature=config.temperature, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size
        )
        requests = [Request(prompt, {}) for prompt in comparison.examination.prompts]
        draws = drawing.measured(comparison.base(0).policy, requests, sampling)
        if all(entry.untrained for entry in entries):
            return Speed(draws)
        options = replace(settings, method="mle", set=(), init="")
        began = time.monotonic()
        training = prepare(comparison.labelled, config.model, "mle", options, Hashes.of(config.model, ""))
        loading = time.monotonic() - began
        if reason := pace.unforeseeable(training.loop):
            return Speed(draws, unknown=reason)
        plan = training.loop.plan
        length = float(np.mean(pace.lengths_of(plan)))
        prompt = float(np.mean([len(plan.tokens.prefix(row)) for group in plan.groups for row in group.rows]))
        return Speed(draws, pace.measured(training.policy, training.loop), length, prompt, loading)

    def answers(self, count: int, most: int) -> float:
        """Estimate the time of answers: to draw them and, where that was measured, to read them for the KL.

        The policy and its base read each once.
        """
        read = self.training.seconds(0, 2 * count * (self.prompt + most)) if self.training else 0.0
        return self.draws.seconds(count, most) + read

    def seconds(self, comparison: Comparison, entry: Entry, work: Work) -> tuple[float, str]:
        """Estimate the time of an entry with one seed, or why that of its training cannot be estimated."""
        settings, most = comparison.settings, comparison.config.max_new_tokens
        answers = self.answers(work.answers, most)
        if entry.untrained:
            return answers, ""
        needs = METHODS[entry.method].needs
        if METHODS[entry.method].on_policy:
            return answers, "the time of its fresh responses is not estimated: they end where the policy ends them"
        if self.training is None:
            return answers, self.unknown
        try:
            groups, size = comparison.groups(entry)
        except SteerError as error:
            return answers, f"its training would fail: {error}"
        tokens = work.steps * settings.batch_size * size * self.length
        read = min(settings.max_steps * settings.batch_size, groups) if "ref" in needs else 0  # once in a training
        reference = entry.own_trainings * read * size * self.length
        reference += tokens * (("kl" in needs) + 2 * ("mismatched" in needs))  # at every token that it trains on
        fresh = self.draws.seconds(comparison.cost(entry).responses, settings.max_new_tokens)
        loading = (entry.trainings + 1) * self.loading  # the policy is loaded once more, to answer
        return answers + self.training.seconds(tokens, reference) + fresh + loading, ""

    def foreseen(self, seconds: float, without: list[str]) -> str:
        """Describe the time of all runs one after the other, and what that rests on."""
        rest = f"; {', '.join(without)} as far as known" if without else ""
        basis = f"training as {self.training.basis}; " if self.training else ""
        more = "scores and judging" if self.training else "loading, scores, log-probs of answers and judging"
        return (
            f"Time: up to about {duration(seconds)} with one run at a time{rest} ({basis}answers as "
            f"{self.draws.basis}); {more} come on top."
        )
