"""Tokens per second and memory of `steer train` against TRL on the same rows, model, adapter and optimizer steps.

    python benchmarks/train.py --trl-python TRL_ENVIRONMENT/bin/python [--repeats 3] [--threads 2] [--quick]
    python benchmarks/train.py ... --model FOLDER --rows FILE     (a real model on real rows)

Every run is a process of its own; the systems take turns, and ratios are those of neighbours, of which the median is
shown with the range. With --threads 1 the ratio by CPU time holds on a machine that does other work too. Only steps of
the optimizer are timed: loading, tokenising and reference log-probs are not. Losses of the systems that take the same
steps must agree. "plain layout" is steer without shared prompts and packing, with padding only. With --model also what
the arithmetic allows: the operations of LoRA training for a token, at the speed of a matrix product of the model's own
size, measured between the runs. Prints Markdown. Shared prompts: see `pairs` here and `layout.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever is installed

from benchmarks.train_trl import SETTINGS, reset_peak, status

RATE, BATCH = 1e-3, 32
HERE = Path(__file__).resolve()


@dataclass(frozen=True)
class Case:
    """One table: what is trained on what."""

    name: str
    kind: str  # sft or dpo
    vocabulary: int
    steps: int
    target: float
    adapter: str = "lora"
    model: str = ""  # a folder in place of a random model
    rows: str = ""  # real rows, of which the first are taken


CASES = (
    Case("vocabulary 2,048", "sft", 2048, 10, 2.0),
    Case("vocabulary 32,000", "sft", 32_000, 5, 4.0),
    Case("pairs with a shared long prompt, vocabulary 2,048", "dpo", 2048, 5, 2.0),
)


def make_model(folder: Path, vocabulary: int) -> None:
    """A random Llama: 0.8 million parameters and a tied embedding of 128 numbers a token; words are its tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, vocabulary)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make_rows(path: Path, case: Case) -> None:
    """Rows of random words; lengths as skewed as those of chats, or pairs behind prompts three times as long."""
    from steer.rows import write_rows

    rng = np.random.default_rng(1)

    def text(length: float) -> str:
        return " ".join(f"w{i}" for i in rng.integers(2, case.vocabulary, int(np.clip(length, 4, 480))))

    made: list[dict[str, Any]] = []
    common = {"levels": {}, "scores": {}, "split": "train"}
    for i in range(BATCH * case.steps):
        prompt = [{"role": "user", "content": text(150 if case.kind == "dpo" else rng.lognormal(3.8, 0.8))}]
        for j in range(2 if case.kind == "dpo" else 1):
            length = float(rng.integers(25, 75)) if case.kind == "dpo" else rng.lognormal(4.2, 0.8)
            made.append({"id": f"{i}:{j}", "prompt": prompt, "response": text(length), "reward": float(-j), **common})
    write_rows(made, path)


def take_rows(path: Path, case: Case) -> None:
    """Copy the first rows of a file, as many as the steps take."""
    from steer.rows import read_rows, write_rows

    rows = read_rows(case.rows, limit=BATCH * case.steps)
    write_rows([{**row, "split": "train"} for row in rows], path)


def limit(folder: Path, threads: int) -> float:
    """Tokens/s at which the arithmetic of LoRA training would be all there is to do.

    Each weight takes two operations forward and two backward for a token (it is frozen, so it has no gradient), one of
    an adapter six, and the output layer only where a response is; at the speed of the products of an MLP layer.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    lines = [json.loads(line) for line in (folder / "trl.jsonl").read_text().splitlines()]
    counted = sum(label >= 0 for line in lines for label in line["labels"]) / sum(len(x["input_ids"]) for x in lines)
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    rank = 16
    operations = sum(4 * m.weight.numel() + 6 * rank * sum(m.weight.shape) for m in layers)
    operations += 4 * counted * head.weight.numel()
    widest = max(layers, key=lambda m: m.weight.numel()).weight.detach()
    x = torch.randn(1024, widest.shape[1])
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(10):
            x @ widest.T
        rates.append(10 * 2 * x.shape[0] * widest.numel() / (time.perf_counter() - began))
    return float(max(rates) / operations)


def settings(folder: Path, case: Case, output: str, **more: Any) -> Any:
    """The run of steer that is timed."""
    from steer.config.training import TrainConfig

    how: dict[str, Any] = {
        "batch_size": BATCH,
        "max_steps": case.steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0.0,
        "adapter": case.adapter,
        "lora_r": 16,
        "lora_alpha": 32,
        "logging_steps": 1,
        "held_out": 0.0,
    }
    method = "dpo" if case.kind == "dpo" else "mle"
    return TrainConfig(str(folder / "rows.jsonl"), str(folder / "model"), output, method, **how | more)


def hand_over(folder: Path, case: Case) -> int:
    """Write the starting adapter and, in the order of our steps, the same tokens for TRL; how many there are."""
    from steer.models.lora import Lora, add_lora
    from steer.models.policy import load_policy
    from steer.models.tokenization import Tokens
    from steer.progress import quiet
    from steer.rows import read_rows
    from steer.training.batches import Plan
    from steer.training.prepare import chosen

    config = settings(folder, case, "")
    policy, rows = load_policy(config.model, dtype="float32"), read_rows(config.rows)
    method, its = chosen(config.method, ())
    plan = Plan(method.groups(rows, its), Tokens(rows, policy.tokenizer), None, BATCH, 4096, config.seed)
    ordered = [i for step in range(case.steps) for i in plan.step(step)[1]]
    with (folder / "trl.jsonl").open("w") as file:
        for i in ordered:
            group = plan.groups[i].rows
            if case.kind == "dpo":
                prompt = group[0]["prompt"][0]["content"]
                line = {"prompt": prompt, "chosen": " " + group[0]["response"], "rejected": " " + group[1]["response"]}
            else:
                (s,) = plan.sequences(0, i)
                line = {"input_ids": s.prefix + s.response, "labels": [-100] * len(s.prefix) + s.response}
            file.write(json.dumps(line) + "\n")
    if case.adapter == "lora":
        with quiet():
            made = add_lora(policy.model, Lora(config.lora_r, config.lora_alpha), config.seed)
            made.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return sum(len(s.prefix) + len(s.response) for i in ordered for s in plan.sequences(0, i))


def ours(spec: dict[str, Any]) -> None:
    """Run steer in this process and print what it took."""
    import torch

    from steer.run_folder import read_json
    from steer.training.command import train_command
    from steer.training.loop import Loop

    torch.set_num_threads(spec["threads"])
    seen: dict[str, Any] = {}
    step = Loop._step

    def watched(self: Loop, *args: Any) -> Any:
        if not seen:
            seen["held"], seen["cpu"] = reset_peak(), time.process_time()
        found = step(self, *args)
        seen["end"] = time.process_time()
        return found

    Loop._step = watched  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as place:
        case = Case(spec["case"], spec["kind"], 0, spec["steps"], 0.0, spec["how"])
        train_command(settings(Path(spec["folder"]), case, place, plain_layout=spec["setting"] == "plain layout"))
        facts = read_json(Path(place) / "done.json")
        lines = [json.loads(x) for x in (Path(place) / "metrics.jsonl").read_text().splitlines()]
    found = {"seconds": facts["seconds"], "cpu": seen["end"] - seen["cpu"], "peak": status("VmHWM") - seen["held"]}
    print(json.dumps(found | {"losses": [x["loss"] for x in lines]}))


def timed(python: str, script: Path, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a worker in a process of its own; what it printed last."""
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    threads = {"OMP_NUM_THREADS": str(spec["threads"]), "GOMP_SPINCOUNT": "1000"}
    paths = {"PYTHONPATH": str(HERE.parents[1])} if script == HERE else {}
    ran = subprocess.run(
        [python, str(script), *(["--worker"] if script == HERE else []), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "STEER_CACHE": str(folder / "cache"), **quiet, **threads, **paths},
    )
    if ran.returncode:
        sys.exit(f"{spec['setting']}: {ran.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def compare(case: Case, options: argparse.Namespace) -> None:
    """Print the table of one case."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if case.model:
            (folder / "model").symlink_to(Path(case.model).resolve())
            take_rows(folder / "rows.jsonl", case)
        else:
            make_model(folder / "model", case.vocabulary)
            make_rows(folder / "rows.jsonl", case)
        tokens = hand_over(folder, case)
        common: dict[str, Any] = {"case": case.name, "kind": case.kind, "folder": place, "model": str(folder / "model")}
        common |= {"data": str(folder / "trl.jsonl"), "steps": case.steps, "batch_size": BATCH, "learning_rate": RATE}
        common |= {"threads": options.threads, "how": case.adapter}
        common |= {"adapter": str(folder / "adapter") if case.adapter == "lora" else ""}
        systems = [(sys.executable, HERE, "steer"), (sys.executable, HERE, "plain layout")]
        if options.trl_python:
            names = ["padded"] if case.kind == "dpo" else options.setting or list(SETTINGS)
            systems += [(options.trl_python, HERE.with_name("train_trl.py"), name) for name in names]
        found: dict[str, list[dict[str, Any]]] = {name: [] for _, _, name in systems}
        limits: list[float] = []
        for repeat in range(options.repeats):
            for python, script, name in systems if repeat % 2 == 0 else systems[::-1]:
                found[name].append(timed(python, script, {**common, "setting": name}, folder))
                if case.model and name == "steer":
                    limits.append(limit(folder, options.threads))
    print(f"\n**{case.name}**: {case.kind}, {case.adapter}, {case.steps} steps of {BATCH}, {tokens:,} tokens.\n")
    print(
        "| system | tokens/s | steer is faster by | by CPU time | memory above start | last loss | largest difference |"
    )
    print("| --- " * 7 + "|")
    us = found["steer"]
    for name, runs in found.items():
        # Packed rows make other steps of other sizes, so systems are compared by tokens per second.
        for r in runs:
            count = r["tokens"] if name == "packed" else tokens
            r["rate"], r["thrift"] = count / r["seconds"], count / r["cpu"]
        ratios = [mine["rate"] / theirs["rate"] for mine, theirs in zip(us, runs)]
        thrift = statistics.median(mine["thrift"] / theirs["thrift"] for mine, theirs in zip(us, runs))
        gap = max(abs(a - b) for a, b in zip(us[0]["losses"], runs[0]["losses"]))
        print(row(name, runs, ratios, thrift, "other steps" if name == "packed" else f"{gap:.1e}"), flush=True)
    print(f"\nTarget: {case.target:g} times the fastest peer.")
    if limits:
        shares = [run["rate"] / most for run, most in zip(us, limits)]
        most = f"{statistics.median(limits):,.0f} tokens/s"
        print(
            f"The arithmetic allows {most} ({statistics.median(shares):.0%} reached, {min(shares):.0%} to "
            f"{max(shares):.0%}; target 85 %)."
        )


def row(name: str, runs: list[dict[str, Any]], ratios: list[float], thrift: float, gap: str) -> str:
    """One line of the table."""
    speed = f"{statistics.median(r['rate'] for r in runs):,.0f}"
    ratio = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
    memory = f"{statistics.median(r['peak'] for r in runs) / (1 << 20):,.0f} MiB"
    who = name if name in ("steer", "plain layout") else f"TRL, {name}"
    return f"| {who} | {speed} | {ratio} | {thrift:.2f} | {memory} | {runs[0]['losses'][-1]:.5f} | {gap} |"


def main() -> None:
    """Compare all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", default="", help="Python of an environment with TRL; without: steer alone.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adapter", default="lora", choices=("lora", "none"))
    parser.add_argument("--steps", type=int, default=0, help="Optimizer steps (0: those of the case).")
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="TRL's settings; default: all.")
    parser.add_argument("--quick", action="store_true", help="Two steps, once: only whether it works.")
    parser.add_argument("--only", default="", help="Cases whose name holds this.")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="", help="A real model in place of the random ones, with --rows.")
    parser.add_argument("--rows", default="", help="Real rows for --model: the first 32 a step.")
    options = parser.parse_args()
    if options.worker:
        ours(json.loads(Path(options.worker).read_text(encoding="utf-8")))
        return
    options.repeats = 1 if options.quick else options.repeats
    print(
        f"{platform.machine()}, {options.threads} threads, medians of {options.repeats}; [least, most] of the ratios."
    )
    real = Case(Path(options.model).name, "sft", 0, 3, 1.3, model=options.model, rows=options.rows)
    for case in (real,) if options.model else CASES:
        if options.only in case.name:
            steps = 2 if options.quick else options.steps or case.steps
            compare(Case(**vars(case) | {"steps": steps, "adapter": options.adapter}), options)


if __name__ == "__main__":
    main()
