"""Train a policy: rows -> groups -> base model with adapter -> the loop -> a policy that knows how it was trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.labelling.scorer import Scorer, rewarder
from steer.models import attention
from steer.models.parts import coverage
from steer.models.policy import Policy, end_tokens, load_policy
from steer.models.precision import trainable
from steer.models.tokenization import Tokens
from steer.progress import note, note_once
from steer.rows import Source
from steer.rows.labelled import Labelled
from steer.run_folder import fingerprint, folder_errors, follows, origin_of, workplace, write_json
from steer.settings import settings_of
from steer.training import checkpoint
from steer.training.amount import amount
from steer.training.batches import Plan
from steer.training.lengths import prompts_with_room, short_enough
from steer.training.loop import Loop
from steer.training.memory import enough_memory, micro_batch
from steer.training.prepare import (
    Hashes,
    add_trained,
    base_policy,
    card_of,
    caveat,
    check_start,
    chosen,
    conditioned,
    counts,
    grouped,
    held_out_of,
    joined,
    rated,
    scorer_for,
    shares_prompts,
    starting_point,
    templated,
    weighed,
)
from steer.training.processes import accelerated
from steer.training.settings import TrainSettings
from steer.training.thinking import give_options, say_thoughts
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
    chosen(method, options.set)
    hashes = Hashes.of(model, options.init)
    scorer = scorer_for(method, options.scorer or labelled.spec, trust_remote_code=options.trust_remote_code)
    weights = f"{model} {hashes.model}" if hashes.model else origin_of(model) or model
    inputs = {"rows": labelled.content, "model": weights, "method": method, "init": hashes.init}
    inputs |= {"scorer": scorer.identity} if scorer else {}
    with workplace(folder, options, inputs, main=not follows()) as place:
        if (place / "done.json").is_file():
            return load_policy(str(place), dtype=options.dtype, trust_remote_code=options.trust_remote_code)
        policy = prepare(labelled, model, method, options, hashes, scorer).run(place)
        write_json(place / "done.json", {"summary": "", **policy.facts})
        checkpoint.clear(place)
        policy.loaded = ""
        if folder is None:
            policy.content = fingerprint(place)  # the name stays the base's: nothing else is left
        else:
            policy.name = str(place)
        return policy


@dataclass(frozen=True)
class Training:
    """A training before its first step: all is checked, nothing is written."""

    policy: Policy
    loop: Loop
    rate: str = ""  # why the learning rate was chosen; empty if the user gave one
    template: str = ""  # and why the template was, or which settings of conditions do nothing
    weighted: str = ""  # what rows' own weights do; empty if they have none
    amount: str = ""  # why it takes so many steps; empty if rows are many or the user said
    caveat: str = ""  # what the method wants of the rows and does not get; empty if nothing

    def run(self, folder: Path) -> Policy:
        """Train, from the resume point in `folder` if there is one, and save the policy there."""
        policy, options, accelerator = self.policy, self.loop.options, self.loop.accelerator
        main, dtype = accelerator.is_main_process, policy.model.dtype
        told = (self.template, self.rate, self.amount, self.weighted, self.caveat, self.unseen, self._undropped)
        if main:
            note_once(f"{self.trained}.")  # the same in all runs of a comparison
            for text in filter(None, told):
                note(f"{text}.")
        with enough_memory(options), attention.restored(policy.model):
            policy.facts |= self.loop.run(policy, folder)
        policy.facts["learning_rate"] = options.learning_rate
        if options.adapter == "none":
            policy.model.to(dtype=dtype)  # from the float32 it was trained in
        weights = checkpoint.gathered(dict(trainable(policy.model)), main) if accelerator.is_fsdp2 else None
        policy.model.eval()
        if main:
            with folder_errors(folder):
                policy.save(folder, weights)
        return policy

    @property
    def trained(self) -> str:
        """Say which weights are trained, and which parts of the model have no adapter."""
        return coverage(self.policy.model)

    @property
    def unseen(self) -> str:
        """Say that no combination of the attributes has enough rows to be asked for; empty if some have."""
        card = self.policy.card
        return card.schema.unseen(card.attributes) if card and card.schema and card.attributes else ""

    @property
    def _undropped(self) -> str:
        """Say that --lora-dropout is ignored, if the method forbids dropout; else empty."""
        dropout = self.loop.options.lora_dropout
        if not (dropout and self.loop.method.still and self.policy.card):
            return ""
        return f"--lora-dropout {dropout:g} is off: {self.policy.card.method} compares the policy with a frozen one"

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
    """Load and check everything that the training needs; `name`: the method's, `scorer`: what `scorer_for` returned."""
    installed(options.track)
    method, own = chosen(name, options.set)
    options, template = templated(model, method, options)
    conditions = conditioned(labelled, method, options)
    check_start(name, method, conditions, options, hashes.model or model)
    reward = rewarder(scorer, labelled.require_levels()) if scorer else None
    accelerator = accelerated(name, method, options)
    with enough_memory(options):
        given = labelled.training(options.held_out, options.seed, options.limit)
        rows, groups, conditioning = grouped(given, method, own, conditions, f"{labelled.name}: {name}")
        policy = base_policy(model, options, on_cpu=accelerator.is_fsdp2)
        template_options = give_options(policy, given, options)
        options, why = rated(name, method, options, policy.width)
        start = starting_point(policy, conditioning, options, accelerator.device.type, hashes)
        add_trained(policy, conditioning, options)
        written = conditioning.template if conditioning else None
        tokens = Tokens(rows, policy.tokenizer, end_tokens(policy), written, options.thinking)
        say_thoughts(rows, options.thinking, tokens)
        longest = min(options.max_length, policy.longest or options.max_length)
        if reward:
            short, cut = prompts_with_room(groups, tokens, longest, options.max_new_tokens, options.truncate)
        else:
            short, cut = short_enough(groups, tokens, conditioning, longest, options.truncate)
        budget, shared = micro_batch(options.micro_batch_tokens), shares_prompts(policy, options)
        whole = joined(short, method)
        options, long = amount(options, len(whole), draws=method.on_policy)
        plan = Plan(whole, tokens, conditioning, options.batch_size, budget, options.seed, shared)
        plan, weighted = weighed(plan, method)
        clause = caveat(name, method, given, groups)
        held_out = held_out_of(labelled, name, conditions, options, plan, longest)
        if reward:
            from steer.training.onpolicy import FreshPlan  # generation is loaded for methods that draw

            more = {"policy": policy, "method": method, "settings": own, "reward": reward}
            plan = FreshPlan(**vars(plan), **more, max_new_tokens=options.max_new_tokens)
        loop = Loop(options, method, own, plan, accelerator, held_out, start)
        if "curriculum" in method.needs:
            loop = dataclasses.replace(loop, plan=dataclasses.replace(plan, curriculum=loop.steps))
    policy.facts = counts(labelled, given, groups, short, method, options) | {
        "groups": len(plan.groups),
        "truncated": cut,
    }
    policy.card = card_of(policy, name, options, conditioning, hashes.model, labelled, template_options)
    return Training(policy, loop, why, template, weighted, long, f"{name}: {clause}" if clause else "")
