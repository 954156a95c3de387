"""Train a policy: rows -> groups -> base model with adapter -> the loop -> a policy that knows how it came about."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.labelling.scorer import Scorer, rewarder
from steer.models.card import Card
from steer.models.policy import Policy, load_policy
from steer.models.precision import trainable
from steer.models.tokenization import Tokens
from steer.progress import note
from steer.rows import Source, content_hash
from steer.rows.labelled import Labelled
from steer.run_folder import folder_errors, workplace, write_json
from steer.settings import settings_of
from steer.training import checkpoint
from steer.training.batches import Plan
from steer.training.dry_run import described
from steer.training.loop import Loop
from steer.training.memory import enough_memory, micro_batch
from steer.training.onpolicy import FreshPlan
from steer.training.prepare import (
    Hashes,
    base_policy,
    check_init,
    chosen,
    conditioned,
    effective_share,
    grouped,
    prompts_with_room,
    rated,
    require_start,
    scorer_for,
    shares_prompts,
    short_enough,
    starting_point,
    watched,
    with_adapter,
)
from steer.training.processes import accelerated
from steer.training.settings import TrainSettings
from steer.training.sharded import gathered
from steer.training.tracking import installed


def train(
    labelled: Labelled | Source,
    *,
    model: str,
    method: str = "conditional",
    folder: str | Path | None = None,
    **settings: Any,
) -> Policy:
    """Train a policy on labelled rows; return it with its `facts`: rows, steps, tokens, loss, seconds and more.

    `labelled`: what `label` returned, or the folder that it wrote; methods that need no levels take plain rows.
    `model`: a Hugging Face name or folder. `method`: a name in METHODS. `settings` are those of `TrainSettings`. A
    training that is given a `folder` resumes there after an interruption and leaves the policy in it; called again it
    loads that. Raises SteerError for what cannot be trained on, and for a folder that holds another training.
    """
    labelled, options = Labelled.of(labelled), settings_of(TrainSettings, settings)
    hashes = Hashes.of(model, options.init)
    content = content_hash([*labelled.rows, {"schema": labelled.schema.to_json(), "scorer": labelled.scorer}])
    inputs = {"rows": content, "model": f"{model} {hashes.model}", "method": method, "init": hashes.init}
    with workplace(folder, options, inputs) as place:
        if (place / "done.json").is_file():
            return load_policy(str(place), dtype=options.dtype, trust_remote_code=options.trust_remote_code)
        training = prepare(labelled, model, method, options, hashes)
        policy = training.run(place)
        write_json(place / "done.json", {"summary": "", **policy.facts})
        checkpoint.clear(place)
        return policy


@dataclass(frozen=True)
class Training:
    """A training before its first step: all is checked, nothing is written."""

    policy: Policy
    loop: Loop
    rate: str = ""  # why the learning rate was chosen; empty where the user gave one

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.loop.accelerator.is_main_process)

    def run(self, folder: Path) -> Policy:
        """Train, from the resume point in `folder` if there is one, and save the policy there."""
        policy, accelerator = self.policy, self.loop.accelerator
        dtype = policy.model.dtype
        for text in (self.rate, self._undropped) if self.main else ():
            if text:
                note(f"{text}.")
        with enough_memory(self.loop.options):
            policy.facts |= self.loop.run(policy, folder)
        policy.facts["learning_rate"] = self.loop.options.learning_rate
        if self.loop.options.adapter == "none":
            policy.model.to(dtype=dtype)  # from the float32 it was trained in
        weights = gathered(dict(trainable(policy.model)), self.main) if accelerator.is_fsdp2 else None
        policy.model.eval()
        if self.main:
            with folder_errors(folder):
                policy.save(folder, weights)
        return policy

    @property
    def _undropped(self) -> str:
        """Say that a dropout the user gave is off, if the method cannot have it."""
        dropout = self.loop.options.lora_dropout
        if not (dropout and self.loop.method.still and self.policy.card):
            return ""
        return f"--lora-dropout {dropout:g} is off: {self.policy.card.method} compares the policy with a frozen one"

    def described(self) -> str:
        """Describe the plan and the first sample, for a dry run."""
        with enough_memory(self.loop.options):
            return described(self.policy, self.loop, self.policy.facts, self.rate)

    def wait(self) -> None:
        """Wait for all processes of the training."""
        self.loop.accelerator.wait_for_everyone()


def prepare(
    labelled: Labelled,
    model: str,
    name: str,
    options: TrainSettings,
    hashes: Hashes,
    scorer: Scorer | None = None,
) -> Training:
    """Load and check everything that the training needs; `name`: the method's, `scorer`: for on-policy methods."""
    installed(options.track)
    method, own = chosen(name, options.set)
    conditions = conditioned(labelled, method, options)
    if options.init:
        check_init(hashes.model or model, conditions, options)
    require_start(name, method, options)
    if method.on_policy:
        scorer = scorer or scorer_for(name, options.scorer or labelled.spec)
    options, why = rated(name, method, options)
    accelerator = accelerated(name, method, options)
    with enough_memory(options):
        given = labelled.training(options.held_out, options.seed, options.limit)
        rows, groups, conditioning = grouped(given, method, own, conditions, f"{labelled.name}: {name}")
        reward = rewarder(scorer, labelled.require_levels()) if scorer and method.on_policy else None
        policy = base_policy(model, options, on_cpu=accelerator.is_fsdp2)
        start = starting_point(model, policy, options, accelerator.device.type, hashes)
        with_adapter(policy, conditioning, options)
        tokens = Tokens(rows, policy.tokenizer, policy.end)
        longest = min(options.max_length, policy.longest or options.max_length)
        if method.on_policy:
            short = prompts_with_room(groups, tokens, longest, options.max_new_tokens)
        else:
            short = short_enough(groups, tokens, conditioning, longest)
        shared = shares_prompts(policy, options)
        plan = Plan(short, tokens, conditioning, options.batch_size, micro_batch(options), options.seed, shared)
        held_out = watched(labelled, name, conditions, options, plan, longest)
        if reward:
            new = options.max_new_tokens
            plan = FreshPlan(
                **vars(plan), policy=policy, method=method, settings=own, reward=reward, max_new_tokens=new
            )
        loop = Loop(options, method, own, plan, accelerator, held_out, start)
        if "curriculum" in method.needs:
            loop = dataclasses.replace(loop, plan=dataclasses.replace(plan, curriculum=loop.steps))
    used = {row["id"] for g in groups for row in g.rows}
    policy.facts = {
        "rows": len(short),
        "too_long": len(groups) - len(short),
        "held_out": len(labelled.held_out(options.held_out, options.seed)),
        "unused": 0 if method.on_policy else len({row["id"] for row in given} - used),
        "ess": effective_share(short),
    }
    policy.card = Card(
        base=str(Path(model).resolve()) if Path(model).is_dir() else model,
        base_hash=hashes.model,
        base_revision=policy.revision,
        adapter=options.adapter,
        method=name,
        settings=dataclasses.asdict(own),
        template=options.template,
        attributes=conditioning.names if conditioning else (),
        schema=conditioning.schema if conditioning else None,
        scorer=labelled.scorer,
        condition_tokens=options.condition_tokens if conditioning else "text",
    )
    return Training(policy, loop, why)
