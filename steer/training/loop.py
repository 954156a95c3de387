"""The training loop, on accelerate: resumable, with metrics.jsonl."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from steer.device import widest
from steer.errors import SteerError
from steer.methods.base import Method
from steer.models.log_probs import ResponseLogps, seen
from steer.models.lora import Lora
from steer.models.policy import Policy
from steer.models.precision import compute_in, keep_masters, optimizer_for, trainable
from steer.progress import quiet
from steer.training import checkpoint
from steer.training.amount import steps_of
from steer.training.baselines import Baseline, compared
from steer.training.batches import Known, Plan
from steer.training.references import base_states, importance_share, known_of
from steer.training.settings import TrainSettings
from steer.training.tracking import HeldOut, Log, Patience
from steer.training.trial import fastest


def learning_rate(step: int, steps: int, options: TrainSettings) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then the chosen decay to zero."""
    assert options.learning_rate  # `prepare` chooses one if the user gave none
    peak = options.learning_rate
    warm = options.warmup_steps if options.warmup_steps >= 1 else options.warmup_steps * steps
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    left = (steps - step) / max(1.0, steps - warm)
    shape = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}
    return peak * shape[options.lr_scheduler_type]


@dataclass(frozen=True)
class Loop:
    """The optimizer steps of one run, in one process of several."""

    options: TrainSettings
    method: Method
    settings: Any  # the method's own
    plan: Plan
    accelerator: Any
    held_out: HeldOut | None = None
    start: str = ""  # identity of the starting policy, the cache key of reference log-probs; empty: no cache

    @property
    def steps(self) -> int:
        """Number of optimizer steps of the whole run."""
        return steps_of(self.options, len(self.plan.groups), self.plan.repeats)

    def run(self, policy: Policy, folder: Path) -> dict[str, Any]:
        """Train, from the resume point in `folder` if there is one; return the facts of the run."""
        options, accelerator, steps = self.options, self.accelerator, self.steps
        main = accelerator.is_main_process
        plain = self.module(policy)
        ways = fastest(policy, plain, self, folder)
        module, optimizer = self._spread(plain)
        named = trainable(plain)
        start = self.start and f"{self.start}{ways or ''}"  # other kernels round otherwise
        source = (self.method, self.settings, accelerator, start)
        known = known_of(plain, self.plan, steps, *source)
        baseline = Baseline.of(self.method, self.plan, steps, plain, accelerator, start)
        if self.held_out:
            watched = known_of(plain, self.held_out.plan, 1, *source)
            own = Baseline.of(self.method, self.held_out.plan, 1, plain, accelerator, start)
            own = replace(own, middle=baseline.middle)
        resumed = checkpoint.restore(folder, named, optimizer) or {"step": 0, "tokens": 0, "seconds": 0.0}
        patience = Patience(**resumed.pop("patience", {}))
        baseline.restore(resumed.pop("baseline", {}))
        resumed.pop("ways", {})
        self.plan.start(plain)
        module.train()
        log = Log(folder, options, accelerator, step=resumed["step"], steps=steps)
        facts: dict[str, Any] = {"trainable": sum(p.numel() for _, p in named), **resumed, **ways}
        began = time.monotonic() - resumed["seconds"]
        for step in range(resumed["step"], steps):
            loss, norm, count = self._step(module, optimizer, step, known, baseline)
            facts |= {"step": step + 1, "loss": loss, "tokens": facts["tokens"] + count}
            facts["seconds"] = time.monotonic() - began
            last = step + 1 == steps
            if (step + 1) % options.logging_steps == 0 or last:
                lr, seconds = learning_rate(step, steps, options), round(facts["seconds"], 2)
                more = {"grad_norm": norm, "learning_rate": lr, "tokens": facts["tokens"], "seconds": seconds}
                log.write(step + 1, loss=loss, **more, **self.plan.facts())
            if self.held_out and ((step + 1) % options.eval_steps == 0 or last):
                figure = own.at(plain, 0, accelerator)
                facts["held_out_loss"] = self.held_out.loss(plain, accelerator, watched, figure)
                log.write(step + 1, held_out_loss=facts["held_out_loss"])
                if patience.see(facts["held_out_loss"], step + 1) and options.early_stopping:
                    checkpoint.keep_best(folder, named, main)
                last = last or 0 < options.early_stopping <= patience.since
            log.step(facts)
            if last:
                break
            if self.plan.resume_point(step + 1, options.save_steps):
                state = {k: facts[k] for k in ("step", "tokens", "seconds")}
                state |= {"steps": steps, "patience": vars(patience), "baseline": baseline.state, "ways": ways}
                checkpoint.save(folder, policy, named, optimizer, state, main)
        log.close()
        accelerator.wait_for_everyone()
        if options.early_stopping:
            checkpoint.take_best(folder, named)
            accelerator.wait_for_everyone()  # the main process clears it away next
        if self.held_out:
            facts |= {"best_held_out_loss": patience.best, "best_step": patience.step}
        facts["steps"] = facts.pop("step")
        if known.weights:
            facts["ess"] = importance_share(known.weights.values())
        return {**facts, "processes": accelerator.num_processes}

    def module(self, policy: Policy) -> ResponseLogps:
        """Wrap the policy's model to give log-probs, and check them against the model's own."""
        if self.options.gradient_checkpointing:
            with quiet():
                policy.model.gradient_checkpointing_enable({"use_reentrant": False})
            policy.model.enable_input_require_grads()
        dtype = policy.model.dtype
        keep_masters(policy.model)
        module = ResponseLogps(policy.model, still=self.method.still)
        if not self.accelerator.is_fsdp2:  # FSDP moves the shards itself
            module.to(self.accelerator.device)
        module.check()
        zero = Lora(init_lora_weights=self.options.init_lora_weights).starts_at_zero and not self.options.init
        if not zero and (self.method.on_policy or "kl" in self.method.needs):
            module.remember()
        compute_in(module, dtype, self.accelerator.device.type)
        if "value" in self.method.needs:
            module.add_critic()
        return module

    def _spread(self, plain: ResponseLogps) -> tuple[Any, Any]:
        """Prepare module and optimizer for all processes; FSDP replaces the parameters with shards."""
        options = self.options
        rate, ratio = learning_rate(0, self.steps, options), options.loraplus_lr_ratio
        optimizer = optimizer_for(options.optimizer, trainable(plain), rate, options.weight_decay, ratio)
        module, optimizer = self.accelerator.prepare(plain, optimizer)
        if self.accelerator.is_fsdp2:  # else a pass without gradients would leave whole weights that go stale
            module.set_reshard_after_forward(True, recurse=False)
            if plain.remembers:
                plain.remember()  # shards in the place of whole weights
        return module, optimizer

    def _step(
        self, module: Any, optimizer: Any, step: int, known: Known, baseline: Baseline
    ) -> tuple[float, float, int]:
        """Make one optimizer step, a sum over micro-batches and processes divided once: loss, gradient norm, tokens."""
        accelerator, options = self.accelerator, self.options
        rank, world = accelerator.process_index, accelerator.num_processes
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, options) * group.get("ratio", 1.0)  # DeepSpeed has none
        # Dropout follows from seed, step and rank, so a resumed run draws what the whole one would have drawn.
        torch.manual_seed(hash((options.seed, step, rank)) & 0x7FFFFFFF)
        optimizer.zero_grad(set_to_none=True)
        batches = list(self.plan.batches(step, rank, world, known))
        figure = baseline.at(module, step, accelerator)
        if self.method.on_policy:
            module.train()  # the plan asked the policy for responses
        own = torch.tensor(sum(int(self.method.counted(b.candidates.mask).sum()) for _, b in batches))
        count = max(int(accelerator.reduce(own.to(accelerator.device), "sum")), 1)
        sums = torch.zeros(2, dtype=torch.float64)
        bad: list[int] = []
        for i, (indices, batch) in enumerate(batches):
            batch = batch.to(accelerator.device)
            last = i + 1 == len(batches)
            accelerator.sync_gradients = last  # DeepSpeed makes its step then
            # Under FSDP, whole gradients summed before they are shared out would need the memory that sharding saves.
            with nullcontext() if last or accelerator.is_fsdp2 else accelerator.no_sync(module):
                kl = "kl" in self.method.needs
                base = base_states(module, self.plan, indices, batch, accelerator) if kl else None
                logps, c = seen(module, batch, base)
                c = compared(c, figure)
                baseline.see(logps, c)
                loss = self.method.total(logps, c, self.settings)
                accelerator.backward(loss * (world / count))  # processes are averaged
            sums += torch.tensor([float(loss.detach()), batch.tokens], dtype=torch.float64)
            if not torch.isfinite(loss):
                lost = (~torch.isfinite(logps.detach().sum((1, 2)))).tolist()
                bad += [index for index, isnan in zip(indices, lost) if isnan] or indices
        baseline.move(accelerator)
        total, tokens = accelerator.reduce(sums.to(accelerator.device, widest(accelerator.device)), "sum").tolist()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = float(accelerator.clip_grad_norm_(parameters, options.max_grad_norm or math.inf))
        if not (math.isfinite(total) and math.isfinite(norm)):
            self._refuse(step, total, norm, bad)
        optimizer.step()
        return total / count, norm, int(tokens)

    def _refuse(self, step: int, total: float, norm: float, bad: list[int]) -> None:
        """Stop before the weights are spoiled; the last resume point stays."""
        indices = bad or self.plan.step(step)[1]
        names = [self.plan.groups[i].rows[0]["id"] for i in indices]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise SteerError(
            f"step {step + 1}: the loss is {total} and its gradient {norm}, in rows {', '.join(names[:8])}{more}. "
            "Lower --learning-rate, or look at these rows."
        )
