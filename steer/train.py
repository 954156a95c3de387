"""The one training loop, on accelerate; resumable, with metrics.jsonl."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steer import checkpoint
from steer.batch import Batch, Conditioning, Sequence_, Tokens, collate, micro_batches
from steer.config import TrainConfig
from steer.errors import SteerError
from steer.groups import Group, Row
from steer.methods import METHODS
from steer.objective import Method
from steer.options import did_you_mean
from steer.policy import Card, Lora, Policy, ResponseLogps, add_lora, flat, load, save, trainable
from steer.progress import progress
from steer.rows import read_all, split_of
from steer.run import Run, fingerprint
from steer.schema import REWARD, AttributeSchema


def train(config: TrainConfig) -> str:
    """Fine-tune a policy on labelled rows; the summary line."""
    method, settings = chosen(config.method, config.set)
    conditioning = conditioned(config, method)
    run = Run(config.output, config, {"rows": fingerprint(config.rows), "model": identity(config.model)})
    if run.done:
        return str(run.done["summary"])
    rows, counts = training_rows(config)
    groups = method.groups(rows, settings)
    policy = load(config.model, dtype=config.dtype, trust_remote_code=config.trust_remote_code)
    if policy.card and policy.card.adapter != "none":
        raise SteerError(f"--model {config.model}: is itself an adapter; train from its base {policy.card.base}.")
    tokens = Tokens(rows, policy.tokenizer)
    groups, too_long = _short_enough(groups, tokens, conditioning, config)
    run.start()
    if config.adapter == "lora":
        add_lora(policy, Lora(config.lora_r, config.lora_alpha, config.lora_dropout), config.seed)
    card = Card(
        base=base_name(config.model),
        base_hash=identity(config.model),
        adapter=config.adapter,
        method=config.method,
        settings=dataclasses.asdict(settings),
        template=config.template,
        attributes=conditioning.names if conditioning else (),
        schema=conditioning.schema if conditioning else None,
        scorer=scorer_of(config.rows),
    )
    job = Job(config, method, settings, groups, tokens, conditioning)
    facts = job.run(policy, run.folder)
    facts |= {"rows": len(groups), "too_long": too_long, **counts, "ess": effective_share(groups)}
    if job.main:
        save(policy, run.folder, card)
        checkpoint.clear(run.folder)
        return run.finish(_summary(config.method, facts), **facts)
    return ""


def _summary(method: str, facts: dict[str, Any]) -> str:
    ess = f", effective sample size {facts['ess']:.0%}" if facts["ess"] < 0.999 else ""
    return (
        f"{method}: trained on {facts['rows']} rows ({facts['held_out']} held out, {facts['too_long']} too long{ess}), "
        f"{facts['steps']} steps, {facts['tokens']} tokens, loss {facts['loss']:.4f}, {facts['trainable']} trainable "
        f"parameters, {facts['seconds']:.0f} s ({facts['tokens'] / max(facts['seconds'], 1e-9):.0f} tokens/s)."
    )


def chosen(name: str, pairs: Sequence[str]) -> tuple[Method, Any]:
    """A method and its settings from NAME=VALUE texts; unknown names list the known ones."""
    if name not in METHODS:
        raise SteerError(f"unknown method '{name}'; {did_you_mean(name, METHODS)}")
    method = METHODS[name]
    kinds = {f.name: type(f.default) for f in dataclasses.fields(method.settings)}
    values: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in kinds:
            known = did_you_mean(key, kinds) if kinds else "it has none."
            raise SteerError(f"{name}: unknown setting '{key}'; {known}")
        try:
            values[key] = kinds[key](text)  # type: ignore[misc]  # the type of a default, such as float
        except ValueError:
            raise SteerError(f"{name}: {key}={text} is not a {kinds[key].__name__}.") from None
    return method, method.settings(**values)


def conditioned(config: TrainConfig, method: Method) -> Conditioning | None:
    """What a conditioned method prints, from the schema beside the rows; None for the others."""
    if not method.conditioned:
        return None
    schema = AttributeSchema.load(beside(config.rows, "schema.json"))
    dt = config.template == "decision-transformer"
    names = config.attributes or ((REWARD,) if dt else schema.own)
    for name in names:
        if not schema[name].counts:
            raise SteerError(
                f"attribute '{name}' has no levels in the schema of {config.rows}. Run \"steer label\" first."
            )
    ordered = tuple(n for n in schema.names if n in names)
    return Conditioning(schema, ordered, config.template, config.attribute_dropout, config.condition_dropout)


def beside(rows: str, name: str) -> Path:
    """A file in the run folder that holds the rows."""
    path = Path(rows) / name if Path(rows).is_dir() else Path(rows).parent / name
    if not path.is_file():
        raise SteerError(f'{rows}: has no {name} beside it. Run "steer label" first.')
    return path


def scorer_of(rows: str) -> str:
    """Identity of the scorer that labelled the rows, where their folder knows it."""
    done = Path(rows) / "done.json"
    return str(json.loads(done.read_text()).get("scorer", "")) if done.is_file() else ""


def identity(model: str) -> str:
    """Fingerprint of a local model; empty for a hub name."""
    return fingerprint(model) if Path(model).exists() else ""


def base_name(model: str) -> str:
    """Absolute folder of a local model, else the name as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def training_rows(config: TrainConfig) -> tuple[list[Row], dict[str, int]]:
    """The rows of the training split, and how many are held out."""
    rows = read_all(config.rows)
    kept = [r for r in rows if split_of(r, config.held_out, config.seed) == "train"]
    if not kept:
        raise SteerError(f"{config.rows}: all {len(rows)} rows are held out; nothing is left to train on.")
    return kept[: config.limit or None], {"held_out": len(rows) - len(kept)}


def _short_enough(
    groups: list[Group], tokens: Tokens, conditioning: Conditioning | None, config: TrainConfig
) -> tuple[list[Group], int]:
    def fits(row: Row) -> bool:
        text = conditioning.text(row.get("levels", {})) if conditioning else ""
        return tokens.length(row, text) <= config.max_length

    short = [g for g in groups if all(fits(row) for row in g.rows)]
    if not short:
        raise SteerError(f"all {len(groups)} rows are longer than --max-length {config.max_length} tokens.")
    return short, len(groups) - len(short)


def effective_share(groups: Sequence[Group]) -> float:
    """(sum w)^2 / (n sum w^2) over all weights: 1 where all are alike."""
    w = np.array([x for g in groups for x in g.weights])
    return float(w.sum() ** 2 / (len(w) * (w**2).sum()))


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then the chosen decay to zero; `step` counts from 0."""
    warm = config.warmup_steps if config.warmup_steps >= 1 else config.warmup_steps * steps
    if step < warm:
        return config.learning_rate * (step + 1) / (warm + 1)
    left = (steps - step) / max(1.0, steps - warm)
    shape = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}
    return config.learning_rate * shape[config.lr_scheduler_type]


@dataclass
class Job:
    """A planned training run: which groups in which step, and how they become batches."""

    config: TrainConfig
    method: Method
    settings: Any
    groups: list[Group]
    tokens: Tokens
    conditioning: Conditioning | None
    main: bool = True

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        c = self.config
        per_epoch = math.ceil(len(self.groups) / c.batch_size)
        return c.max_steps or max(1, round(c.num_train_epochs * per_epoch))

    def step_groups(self, step: int) -> tuple[int, list[int]]:
        """Epoch and group indices of an optimizer step: a pure function of the seed."""
        per_epoch = math.ceil(len(self.groups) / self.config.batch_size)
        epoch, at = divmod(step, per_epoch)
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.groups))
        size = self.config.batch_size
        return epoch, [int(i) for i in order[at * size : (at + 1) * size]]

    def sequences(self, epoch: int, index: int) -> list[Sequence_]:
        """The candidates of a group with this epoch's conditions."""
        if not self.conditioning:
            return [self.tokens.sequence(row) for row in self.groups[index].rows]
        rng = np.random.default_rng([self.config.seed, epoch, index])
        c = self.conditioning
        levels = [c.dropped(row["levels"], rng) for row in self.groups[index].rows]
        return [self.tokens.sequence(row, c.text(kept)) for row, kept in zip(self.groups[index].rows, levels)]

    def batches(self, step: int, rank: int, world: int, refs: Sequence[Sequence[float]] | None) -> Iterator[Batch]:
        """This rank's micro-batches of a step; a rank without any gets one whose mask is empty."""
        epoch, indices = self.step_groups(step)
        sequences = {i: self.sequences(epoch, i) for i in indices}
        costs = [len(s) * max(len(x.prefix) + len(x.response) for x in s) for s in sequences.values()]
        parts = list(micro_batches(costs, self.config.micro_batch_tokens, world))
        for part in parts[rank::world] or parts[:1]:
            at = [indices[i] for i in part]
            batch = collate(
                [sequences[i] for i in at],
                pad=self.tokens.tokenizer.pad_token_id,
                rewards=[[float(r.get("reward") or 0.0) for r in self.groups[i].rows] for i in at],
                weights=[self.groups[i].weights for i in at],
                refs=[refs[i] for i in at] if refs else None,
            )
            yield batch if rank < len(parts) else _empty(batch)

    def run(self, policy: Policy, folder: Path) -> dict[str, Any]:
        """Train; resumes from the last checkpoint in `folder`. What done.json says of the run."""
        from accelerate import Accelerator

        config = self.config
        torch.manual_seed(config.seed)
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.main = accelerator.is_main_process
        if config.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
            policy.model.enable_input_require_grads()
        module = ResponseLogps(policy.model)
        module.to(accelerator.device)
        module.check()
        named = trainable(policy.model)
        optimizer = torch.optim.AdamW([p for _, p in named], lr=config.learning_rate, weight_decay=config.weight_decay)
        refs = self._references(module, accelerator.device) if self.method.reference else None
        held = checkpoint.restore(folder, named, optimizer)
        facts = {"trainable": sum(p.numel() for _, p in named), **(held or {"step": 0, "tokens": 0, "seconds": 0.0})}
        module, optimizer = accelerator.prepare(module, optimizer)
        log = checkpoint.Metrics(folder, facts["step"]) if self.main else None
        steps, began, before = self.steps, time.monotonic(), facts["seconds"]
        bar = progress(total=steps, what=f"train {config.method}", unit="steps") if self.main else None
        if bar is not None:
            bar.update(facts["step"])
        module.train()
        for step in range(facts["step"], steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, config)
            # Dropout follows from seed, step and rank, so a resumed run draws what the whole one would have drawn.
            torch.manual_seed(hash((config.seed, step, accelerator.process_index)) & 0x7FFFFFFF)
            loss, norm, count = self._step(module, optimizer, accelerator, step, refs)
            facts |= {"step": step + 1, "loss": loss, "tokens": facts["tokens"] + count}
            facts["seconds"] = before + time.monotonic() - began
            last = step + 1 == steps
            if log and ((step + 1) % config.logging_steps == 0 or last):
                log.write(
                    step=step + 1,
                    loss=loss,
                    grad_norm=norm,
                    learning_rate=learning_rate(step, steps, config),
                    tokens=facts["tokens"],
                    seconds=round(facts["seconds"], 2),
                )
            if bar is not None:
                bar.update()
                bar.set_postfix_str(
                    f"loss {loss:.3f}, {facts['tokens'] / facts['seconds']:.0f} tokens/s", refresh=False
                )
            if self.main and not last and (step + 1) % config.save_steps == 0:
                checkpoint.save(folder, named, optimizer, {k: facts[k] for k in ("step", "tokens", "seconds")})
        if bar is not None:
            bar.close()
        accelerator.wait_for_everyone()
        return {
            **{k: v for k, v in facts.items() if k != "step"},
            "steps": steps,
            "processes": accelerator.num_processes,
        }

    def _step(
        self, module: Any, optimizer: Any, accelerator: Any, step: int, refs: Sequence[Sequence[float]] | None
    ) -> tuple[float, float, int]:
        """One optimizer step: sum over micro-batches and ranks, divide once. Loss, gradient norm, tokens."""
        optimizer.zero_grad(set_to_none=True)
        batches = list(self.batches(step, accelerator.process_index, accelerator.num_processes, refs))
        sums = torch.zeros(3, dtype=torch.float64)
        for i, batch in enumerate(batches):
            batch = moved(batch, accelerator.device)
            with nullcontext() if i + 1 == len(batches) else accelerator.no_sync(module):
                logps = module(batch.input_ids, batch.attention_mask, batch.positions, batch.targets)
                terms = self.method.loss(flat(logps, batch.candidates.mask), batch.candidates, self.settings)
                accelerator.backward(terms.total)
            sums += torch.tensor([float(terms.total.detach()), float(terms.weight), batch.tokens], dtype=torch.float64)
        total, weight, count = accelerator.reduce(sums.to(accelerator.device), "sum").tolist()
        if not math.isfinite(total):
            ids = [self.groups[i].rows[0]["id"] for i in self.step_groups(step)[1]]
            raise SteerError(
                f"step {step + 1}: the loss is {total}; rows {', '.join(ids[:8])}, ... Lower --learning-rate."
            )
        # DDP averages over ranks what is meant to be summed.
        scale = accelerator.num_processes / max(weight, 1e-12)
        parameters = [p for p in module.parameters() if p.grad is not None]
        for p in parameters:
            p.grad.mul_(scale)
        norm = accelerator.clip_grad_norm_(parameters, self.config.max_grad_norm)
        optimizer.step()
        return total / max(weight, 1e-12), float(norm), int(count)

    def _references(self, module: ResponseLogps, device: torch.device) -> list[list[float]]:
        """Log-probs of every candidate under the starting policy, without condition. [groups][K]"""
        sequences = [[self.tokens.sequence(row) for row in g.rows] for g in self.groups]
        sums = iter(
            response_sums(
                module,
                [s for g in sequences for s in g],
                self.tokens.tokenizer.pad_token_id,
                self.config.micro_batch_tokens,
                device,
            )
        )
        return [[next(sums) for _ in g] for g in sequences]


def _empty(batch: Batch) -> Batch:
    c = batch.candidates
    nothing = batch.positions[:0]
    return batch._replace(
        positions=nothing, targets=nothing, tokens=0, candidates=c._replace(mask=torch.zeros_like(c.mask))
    )


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    candidates = batch.candidates._replace(
        **{k: v.to(device) for k, v in batch.candidates._asdict().items() if v is not None}
    )
    tensors = {k: getattr(batch, k).to(device) for k in ("input_ids", "attention_mask", "positions", "targets")}
    return batch._replace(candidates=candidates, **tensors)


@torch.no_grad()
def response_sums(
    module: ResponseLogps, sequences: Sequence[Sequence_], pad: int, budget: int, device: torch.device
) -> list[float]:
    """Summed log-prob of each response, in the order given."""
    out = [0.0] * len(sequences)
    training = module.training
    module.eval()
    lengths = [len(s.prefix) + len(s.response) for s in sequences]
    for part in micro_batches(lengths, budget):
        ones = [[1.0]] * len(part)
        batch = moved(collate([[sequences[i]] for i in part], pad=pad, rewards=ones, weights=ones), device)
        logps = module(batch.input_ids, batch.attention_mask, batch.positions, batch.targets)
        for i, value in zip(part, flat(logps, batch.candidates.mask).sum((1, 2)).tolist()):
            out[i] = value
    module.train(training)
    return out
