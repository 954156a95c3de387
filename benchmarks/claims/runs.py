"""The runs that the claims compare: what is trained on which rows, and its answers to the held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steer.comparison.comparison import Comparison
from steer.comparison.entry import Entry
from steer.comparison.rates import read_rates
from steer.comparison.runs import permuted
from steer.config.comparison import CompareConfig
from steer.config.generation import GenerateConfig
from steer.config.iteration import IterateConfig
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.training import TrainConfig
from steer.generation.command import generate_command
from steer.generation.drawing import generate_rows
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.iteration.command import iterate_command
from steer.labelling.command import fit_command, label_command
from steer.labelling.scorer import placed
from steer.methods import peak_rate
from steer.methods.groups import prompts
from steer.models.policy import load_policy
from steer.rows import Row, prompt_key, read_back, read_rows, write_rows
from steer.rows.schema import REWARD
from steer.run_folder import write_json
from steer.training.command import train_command

POOL = "pool"
K, PROMPTS = 8, 600  # responses to each of so many training prompts, from which methods choose
FEW = 100  # ratings that the scorer which is to be over-optimised is fitted on
ROUNDS = 3
SHARES = (8, 4, 2, 1)  # on-policy runs take the steps of the others divided by these
LOSSES = ("sigmoid-norm", "hinge-norm", "hinge")
# Settings that a loop chooses itself, and `limit`, which would drop the fresh rows: they follow the logs.
OF_A_LOOP = ("rows", "model", "output", "method", "set", "init", "limit")
STEERED = {"attribute": (REWARD,)}


class Task(NamedTuple):
    """One training run: a method on rows (POOL: those of its repetition); `flags` of `steer train` beside those of all.

    `once`: in the first repetition only. `after`: the run whose policy it goes on from.
    """

    name: str
    rows: str
    method: str
    flags: Mapping[str, Any] = {}  # never written to
    once: bool = False
    after: str = ""


class RoundsTask(NamedTuple):
    """Rounds of `steer iterate`: n responses a prompt."""

    name: str
    method: str
    relative: bool = False
    n: int = 1


LOOPS = (
    RoundsTask("rounds-absolute", "conditional"),
    RoundsTask("rounds-relative", "conditional", relative=True),
    RoundsTask("rounds-rrhf", "rrhf", n=4),
)


@dataclass
class Bench:
    """Everything that the runs share."""

    shared: Comparison

    def folder(self, name: str, seed: int) -> Path:
        """Folder of a run."""
        return self.shared.folder / "runs" / f"{name}-seed{seed}"

    @property
    def rows(self) -> str:
        """Path of the labelled rows."""
        return self.shared.config.rows

    @property
    def steps(self) -> tuple[int, ...]:
        """Optimizer steps after which on-policy runs are judged."""
        return tuple(max(1, self.shared.settings.max_steps // share) for share in SHARES)

    @property
    def top(self) -> dict[str, float]:
        """Target of the highest level of the reward."""
        return self.shared.labelled.schema.best((REWARD,))

    def settings(self, task: Task, seed: int) -> TrainConfig:
        """Settings of a run: one number of optimizer steps for all that name none."""
        out = str(self.folder(task.name, seed))
        start = str(self.folder(task.after, seed)) if task.after else ""
        shared = replace(self.shared.settings, model=self.shared.model(seed))
        rate = peak_rate(task.method, self.shared.likelihood, self.tuned(task))
        rows = self.pool(seed) if task.rows == POOL else task.rows
        fixed = replace(shared, rows=rows, output=out, method=task.method, init=start, seed=seed)
        return replace(fixed, **{"learning_rate": rate, **task.flags})

    @cached_property
    def rates(self) -> dict[str, float]:
        """Shares of the learning rate that were tuned, by method with its settings; empty: every method has its own."""
        path = self.shared.config.rates
        return read_rates(path) if path else {}

    def tuned(self, task: Task) -> float | None:
        """The share that was tuned with the task's settings, else with any; None if its method was not tuned."""
        tuned = [(Entry.of(spec), share) for spec, share in self.rates.items()]
        own = [
            (set(e.settings) == set(task.flags.get("set", ())), share) for e, share in tuned if e.method == task.method
        ]
        return next((share for same, share in own if same), own[0][1] if own else None)

    def trained(self, task: Task, seed: int) -> None:
        """Train one policy and let it answer."""
        train_command(self.settings(task, seed))
        self.answers(task.name, seed)
        if task.name == "short":
            self.answers(task.name, seed, self.top)
        if task.name == "mle":
            self.pool(seed)

    def answers(self, name: str, seed: int, asked: Mapping[str, float] | None = None) -> list[Row]:
        """Answers of a run to the held-out prompts, drawn once: at target `asked`, else at its policy's best."""
        where = "beyond" if asked else "held-out"
        path = self.folder(name, seed) / where / "answers.jsonl"
        if not path.is_file():
            write_rows(self._drawn(name, seed, asked, path.parent), path)
        return read_back(path)

    def _drawn(self, name: str, seed: int, asked: Mapping[str, float] | None, folder: Path) -> list[Row]:
        config, settings = self.shared.config, self.shared.settings
        policy = load_policy(
            self.shared.model(seed) if name == "base" else str(folder.parent),
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
        )
        card = policy.card
        known = card.schema.best(card.attributes) if card and card.schema and card.attributes else {}
        jobs = [Request(row, dict(asked or known)) for row in self.shared.examination.prompts]
        sampling = Sampling(
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
            seed=seed,
        )
        return generate_rows(policy, jobs, sampling, folder)

    def rounds(self, loop: RoundsTask, seed: int) -> None:
        """Run a loop without guards, because all its rounds are compared."""
        config, fixed = self.shared.config, self.settings(Task(loop.name, self.rows, loop.method), seed)
        settings = {key: value for key, value in asdict(fixed).items() if key not in OF_A_LOOP}
        conditioned = loop.method == "conditional"
        path = self.shared.folder / f"{loop.name}-seed{seed}.json"
        write_json(path, settings | (STEERED if conditioned else {}))
        iterate_command(
            IterateConfig(
                self.rows,
                self.shared.model(seed),
                self.proxy,
                fixed.output,
                str(self.folder("reward", seed)) if conditioned else "",
                method=loop.method,
                gold=config.gold,
                guard=("off",),
                watch=len(self.shared.examination.prompts),  # those that all runs answer
                relative_levels=loop.relative,
                rounds=ROUNDS,
                prompts_per_round=PROMPTS if loop.n == 1 else PROMPTS // 2,
                n=loop.n,
                explore=1.0,
                temperature=config.temperature,
                max_new_tokens=fixed.max_new_tokens,
                batch_size=config.batch_size,
                train=str(path),
                seed=seed,
            )
        )

    @property
    def proxy(self) -> str:
        """The scorer that training may see."""
        return placed(self.shared.proxy)

    @cached_property
    def few(self) -> str:
        """Folder of a scorer that is fitted on few ratings."""
        rated, out = self.shared.folder / "few-ratings", self.shared.folder / "few"
        if not (rated / "schema.json").is_file():
            known = [row for row in self._logs if any(score is not None for score in row["scores"].values())]
            write_rows(known[:FEW], rated / "rows.jsonl")
            self.shared.labelled.schema.save(rated / "schema.json")
        fit_command(FitConfig(str(rated), str(out)))
        return str(out)

    def pool(self, seed: int) -> str:
        """Rows: K responses of a repetition's mle policy to training prompts, labelled by the proxy."""
        folder = self.shared.folder / "pools" / str(seed)
        asked, drawn, out = folder / "prompts.jsonl", folder / "drawn", str(folder / "rows")
        if (folder / "rows" / "done.json").is_file():
            return out
        if not asked.is_file():
            write_rows([group.rows[0] for group in prompts(self._logs)[:PROMPTS]], asked)
        config = self.shared.config
        how: dict[str, Any] = {"max_new_tokens": config.max_new_tokens, "batch_size": config.batch_size, "seed": seed}
        policy = str(self.folder("mle", seed))
        how |= {"target": ("none",), "sampling": "own"}  # RSO and best-of-n speak of the policy's own distribution
        generate_command(GenerateConfig(policy, input=str(asked), output=str(drawn), n=K, **how))
        schema = str(Path(self.rows) / "schema.json")
        label_command(LabelConfig(str(drawn), out, scorer=self.proxy, schema=schema, held_out=0.0))
        return out

    @cached_property
    def rewards(self) -> list[np.ndarray[Any, Any]]:
        """Rewards of the pools by the proxy: [S][P, K]."""
        return [self._rewards(seed) for seed in self.shared.seeds]

    def _rewards(self, seed: int) -> np.ndarray[Any, Any]:
        by: dict[str, list[float]] = {}
        for row in read_rows(self.pool(seed)):
            by.setdefault(prompt_key(row), []).append(row["reward"])
        return np.array([each for each in by.values() if len(each) == K])

    @cached_property
    def short(self) -> str:
        """The training rows without those of the highest level of the reward."""
        folder = self.shared.folder / "short"
        if not (folder / "schema.json").is_file():
            rows = [row for row in self._logs if row["levels"].get(REWARD) != self.top[REWARD]]
            write_rows(rows, folder / "rows.jsonl")
            self.shared.labelled.schema.recounted(rows).save(folder / "schema.json")
        return str(folder)

    @property
    def _logs(self) -> list[Row]:
        return [row for row in self.shared.labelled.rows if row["split"] == "train"]

    def first(self) -> list[Task]:
        """Runs that others start from."""
        return [Task("mle", self.rows, "mle"), Task("reward", self.rows, "conditional", STEERED)]

    def offline(self) -> list[Task]:
        """The runs without rounds."""
        logs, pool = self.rows, POOL
        tasks = [Task("permuted", permuted(self.shared), "conditional", STEERED)]
        tasks += [Task("short", self.short, "conditional", STEERED)]
        tasks += [Task(f"rwr-beta{beta}", logs, "rwr", {"set": (f"beta={beta}",)}) for beta in ("3", "1", "0.5")]
        tasks += [Task(f"raft-k{k}", pool, "raft", {"set": (f"k={k}",)}) for k in (1, 2, 4, 8)]
        for loss in LOSSES:
            for source, at, beta in (("logs", logs, "inf"), ("policy", pool, "inf"), ("rso", pool, "0.5")):
                how = (f"loss={loss}", f"beta={beta}", "keep=4")
                tasks.append(Task(f"{loss}-{source}", at, "rso", {"set": how}))
        return [*tasks, Task("rrhf-no-sft", pool, "rrhf", {"set": ("sft=0",)}), Task("rrhf-logs", logs, "rrhf")]

    def on_policy(self) -> list[Task]:
        """ReMax against both proxies at one constant learning rate, judged after growing numbers of steps, and PPO.

        Each point is a run that continues from the policy of the point before, with its own order of prompts. There is
        no KL penalty: it would be from that policy, not from the base, and over-optimisation is what we look for.
        """
        fixed = {"lr_scheduler_type": "constant"}
        tasks = [Task(f"ppo-{self.steps[-1]}", self.rows, "ppo", {**fixed, "scorer": self.proxy}, once=True)]
        for name, scorer in (("clean", self.proxy), ("few", self.few)):
            for i, (before, n) in enumerate(pairwise((0, *self.steps))):
                more = {**fixed, "scorer": scorer, "max_steps": n - before, "seed": i, "set": ("kl=0",)}
                last = f"{name}-{before}" if before else ""
                tasks.append(Task(f"{name}-{n}", self.rows, "remax", more, once=True, after=last))
        return tasks


def run_chain(config: CompareConfig, folder: Path, chain: Sequence[Task], seed: int) -> None:
    """Do runs one after the other; called in a process of its own."""
    bench = Bench(Comparison(config, folder))
    for task in chain:
        bench.trained(task, seed)


def run_rounds(config: CompareConfig, folder: Path, loop: RoundsTask, seed: int) -> None:
    """Do one loop; called in a process of its own."""
    Bench(Comparison(config, folder)).rounds(loop, seed)


def chains(tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
    """Group runs so that each continues from the one before it; most groups hold one."""
    grouped: dict[str, tuple[Task, ...]] = {}
    for task in tasks:
        grouped[task.name] = (*grouped.pop(task.after, ()), task)
    return list(grouped.values())


def seeds_of(task: Task, seeds: Sequence[int]) -> Sequence[int]:
    """Seeds that a run is repeated with."""
    return seeds[:1] if task.once else seeds
