"""The field's claims about sampling and rounds, tried on the embedded world: `python benchmarks/claims.py demo OUT`.

`demo` is the folder of `make demo`, OUT that of the runs. Everything is trained on the proxy and judged by the gold
scores of the same held-out prompts, in standard deviations of the logs; intervals are over prompts. A third argument is
the number of seeds. Run it again and it goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from steer.config import GenerateConfig, IterateConfig, LabelConfig, TrainConfig
from steer.evaluate.statistics import across_seeds, best_of, best_of_n_kl, best_of_n_mean, interval
from steer.evaluate.systems import Judge
from steer.generate import Job, Sampling, answer, generate, held_out_prompts
from steer.iterate import iterate
from steer.label import label, load_scorer
from steer.options import resolve
from steer.policy import load
from steer.rows import prompt_key, read_all, write
from steer.run import read_json, write_json
from steer.schema import AttributeSchema
from steer.train import train

GOLD = "data_recipes.world_text:Gold"
K, PROMPTS, HELD_OUT = 8, 600, 245
SLOW = 3e-4  # preference losses diverge at the learning rate of likelihood


class Task(NamedTuple):
    """One run: a method on rows, or rounds of it."""

    name: str
    rows: str
    method: str
    settings: tuple[str, ...] = ()
    learning_rate: float = 0.0
    attributes: tuple[str, ...] = ()


def settings(demo: Path, task: Task, out: Path, seed: int) -> TrainConfig:
    """The demo's settings with one number of optimizer steps for all."""
    steps = read_json(demo / "compare" / "runs" / "mle-seed0" / "policy" / "done.json")["steps"]
    flags: dict[str, Any] = {"rows": task.rows, "model": str(demo / "base"), "output": str(out), "method": task.method}
    flags |= {"set": task.settings, "attributes": task.attributes, "max_steps": steps, "seed": seed}
    if task.learning_rate:
        flags["learning_rate"] = task.learning_rate
    return resolve(TrainConfig, flags, str(demo / "train.json"))


def trained(demo: str, out: str, task: Task, seed: int) -> str:
    """Train one policy; its folder."""
    torch.set_num_threads(1)
    folder = Path(out) / f"{task.name}-seed{seed}"
    train(settings(Path(demo), task, folder, seed))
    rewards(demo, str(folder), folder, seed)
    return str(folder)


def rewards(demo: str, policy: str, folder: Path, seed: int) -> list[float]:
    """Gold reward of a policy on each held-out prompt; a conditioned one is asked for its best."""
    schema = AttributeSchema.load(Path(demo) / "labels" / "schema.json")
    file = folder / f"gold-{seed}.json"
    if not file.is_file():
        scorer, logs = load_scorer(GOLD), read_all(f"{demo}/labels")
        judge = Judge.of(schema, scorer.score([r for r in logs if r["split"] == "train"], schema.own))
        loaded = load(policy)
        names = loaded.card.attributes if loaded.card else ()
        aim = loaded.card.schema.best(names) if loaded.card and loaded.card.schema and names else {}
        jobs = [Job(p, aim) for p in held_out_prompts(f"{demo}/labels", 0.1, 0, HELD_OUT)]
        rows = answer(loaded, jobs, Sampling(1.0, 1.0, 120, 128, seed), folder / f"held-out-{seed}", schema, "held-out")
        write_json(file, judge.reward(scorer.score(rows, schema.own)).tolist())
    return [float(x) for x in read_json(file)]


def rounds(demo: str, out: str, task: Task, levels: str, number: int, n: int) -> str:
    """Rounds of iterate; the folder."""
    torch.set_num_threads(1)
    folder = Path(out) / f"rounds-{task.name}"
    config = Path(out) / f"{task.name}.json"
    fixed = settings(Path(demo), task, folder, 0)
    keys = ("lora_r", "lora_alpha", "learning_rate", "batch_size", "micro_batch_tokens", "max_steps", "attributes")
    write_json(config, {k: getattr(fixed, k) for k in keys})
    policy = f"{out}/reward-seed0" if task.method == "conditional" else ""
    how = IterateConfig(
        f"{demo}/labels",
        f"{demo}/base",
        f"{demo}/scorer",
        str(folder),
        policy,
        method=task.method,
        set=task.settings,
        gold=GOLD,
        levels=levels,
        rounds=number,
        prompts=PROMPTS if n == 1 else 300,
        n=n,
        explore=1.0,
        max_new_tokens=120,
        batch_size=128,
        train=str(config),
    )
    iterate(how)
    return str(folder)


def pool(demo: Path, out: Path) -> tuple[str, np.ndarray[Any, Any]]:
    """K responses of the mle policy to training prompts, labelled by the proxy: rows, and proxy rewards [P, K]."""
    prompts, drawn = out / "prompts.jsonl", out / "drawn"
    if not prompts.is_file():
        first = {prompt_key(r): r for r in reversed(read_all(demo / "labels")) if r["split"] == "train"}
        write(prompts, list(reversed(first.values()))[:PROMPTS])
    policy = demo / "compare" / "runs" / "mle-seed0" / "policy"
    generate(
        GenerateConfig(
            str(policy),
            input=str(prompts),
            output=str(drawn),
            target=("none",),
            n=K,
            max_new_tokens=120,
            batch_size=128,
        )
    )
    labels = out / "pool"
    schema, scorer = str(demo / "labels" / "schema.json"), str(demo / "scorer")
    label(LabelConfig(str(drawn), str(labels), scorer=scorer, schema=schema, held_out=0.0))
    by: dict[str, list[float]] = {}
    for row in read_all(labels):
        by.setdefault(prompt_key(row), []).append(row["reward"])
    return str(labels), np.array([r for r in by.values() if len(r) == K])


def main(demo: Path, out: Path, seeds: int) -> None:
    """Run all parts and print their tables."""
    out.mkdir(parents=True, exist_ok=True)
    logs = str(demo / "labels")
    rows, scores = pool(demo, out)
    tasks = [Task(f"raft-k{k}", rows, "raft", (f"k={k}",)) for k in (1, 2, 4, 8)]
    for loss in ("sigmoid-norm", "hinge-norm", "hinge"):
        for source, at, beta in (("logs", logs, "inf"), ("policy", rows, "inf"), ("rso", rows, "0.5")):
            tasks.append(Task(f"{loss}-{source}", at, "rso", (f"loss={loss}", f"beta={beta}", "keep=4"), SLOW))
    tasks += [Task("rrhf-no-sft", rows, "rrhf", ("sft=0",)), Task("rrhf-logs", logs, "rrhf")]
    tasks += [Task("reward", logs, "conditional", (), 0.0, ("reward",))]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as workers:
        todo = [workers.submit(trained, str(demo), str(out), t, s) for t in reversed(tasks) for s in range(seeds)]
        for future in todo:
            future.result()
        conditional = Task("absolute", logs, "conditional", (), 0.0, ("reward",))
        loops = [
            workers.submit(rounds, str(demo), str(out), conditional, "absolute", 3, 1),
            workers.submit(rounds, str(demo), str(out), conditional._replace(name="relative"), "relative", 3, 1),
            workers.submit(rounds, str(demo), str(out), Task("rrhf", logs, "rrhf"), "absolute", 3, 4),
        ]
        found = [read_json(Path(f.result()) / "done.json")["rounds"] for f in loops]
    base = interval(rewards(str(demo), str(demo / "base"), out / "base", 0), np.arange(HELD_OUT))
    print(f"Table: seeds 0 to {seeds - 1}; base and rounds: seed 0. {HELD_OUT} held-out prompts. base: {base.text()}\n")
    _table(demo, out, tasks, seeds)
    _best_of(scores)
    for name, story in zip(("conditional, absolute levels", "conditional, relative levels", "rrhf"), found):
        line = ", ".join(f"{r['gold']['mean']:.2f} [{r['gold']['low']:.2f}, {r['gold']['high']:.2f}]" for r in story)
        texture = ", ".join(f"{r['distinct_2']:.2f}" for r in story)
        print(f"- rounds of {name}: gold {line}; distinct-2 {texture}")


def _table(demo: Path, out: Path, tasks: list[Task], seeds: int) -> None:
    print("| run | gold reward, sd |\n| --- | --- |")
    for task in tasks:
        folders = [out / f"{task.name}-seed{s}" for s in range(seeds)]
        each = [rewards(str(demo), str(folder), folder, s) for s, folder in enumerate(folders)]
        found = across_seeds([(x, np.arange(len(x))) for x in each])
        print(f"| {task.name} | {found.text()} |")
    print()


def _best_of(scores: np.ndarray[Any, Any]) -> None:
    """Proxy reward of the best of n draws beside what normal rewards would give."""
    mean, sd = float(scores.mean()), float(scores.std(axis=1, ddof=1).mean())
    print("| best of n | proxy reward | normal order statistic | KL, nats |\n| --- | --- | --- | --- |")
    for n in (1, 2, 4, 8):
        found = interval(best_of(scores, n), np.arange(len(scores)))
        print(f"| {n} | {found.text()} | {mean + sd * best_of_n_mean(n):.2f} | {best_of_n_kl(n):.2f} |")
    print()


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
