"""Labelled rows and a model -> what the loop needs; whatever cannot be trained on is refused here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from steer.conditioning.condition import NUMBERS, OWN
from steer.config import TrainConfig
from steer.errors import SteerError
from steer.labelling.scorer import Scorer, rewarder
from steer.methods.base import Method
from steer.methods.groups import Group
from steer.models import attention
from steer.models.card import MERGED, Card
from steer.models.log_probs import ResponseLogps
from steer.models.lora import Lora, adapter_rank, add_control_tokens, add_lora, start_from
from steer.models.policy import Policy, load_policy
from steer.models.tokenization import Tokens
from steer.rows import Row, read_all, split_of
from steer.rows.binning import exact
from steer.rows.labelled import schema_of, training_rows
from steer.rows.schema import REWARD
from steer.training.batches import Conditioning, Plan
from steer.training.held_out import HeldOut
from steer.training.loop import Loop
from steer.training.memory import micro_batch
from steer.training.onpolicy import FreshPlan


class Prepared(NamedTuple):
    """A run before its first step: nothing has been written yet."""

    policy: Policy
    loop: Loop
    conditioning: Conditioning | None
    facts: dict[str, Any]


def prepared(
    config: TrainConfig,
    method: Method,
    settings: Any,
    of_levels: Conditioning | None,
    scorer: Scorer | None,
    inputs: Mapping[str, str],
    accelerator: Any,
) -> Prepared:
    """Rows, groups, model, adapter and plan; refuses what cannot be trained on.

    `of_levels`: the conditions before a method reframes them; `inputs`: identities by name.
    """
    given, held_out = training_rows(config)
    rows, groups, conditioning = _grouped(given, method, settings, of_levels, f"{config.rows}: {config.method}")
    reward = rewarder(scorer, schema_of(config.rows)) if scorer else None
    policy = _base(config, accelerator)
    start = _start(config, policy, inputs, accelerator)
    levels = [] if config.condition_tokens == "text" or conditioning is None else conditioning.control_tokens()
    token_ids = add_control_tokens(policy.model, policy.tokenizer, levels, config.seed)
    tokens = Tokens(rows, policy.tokenizer, policy.end)
    longest = min(config.max_length, policy.longest or config.max_length)
    if method.on_policy:
        short = [g for g in groups if len(tokens.prompts[g.rows[0]["id"]]) + config.max_new_tokens <= longest]
        if not short:
            raise SteerError(f"no prompt leaves {config.max_new_tokens} of {longest} tokens free. Raise --max-length.")
    else:
        short = _short_enough(groups, tokens, conditioning, longest)
    if config.adapter != "none":
        lora = Lora(config.lora_r, config.lora_alpha, config.lora_dropout)
        policy.model = add_lora(policy.model, lora, config.seed, token_ids)
    if config.init:
        start_from(policy.model, config.init)
    together = _together(config, policy)
    plan = Plan(short, tokens, conditioning, config.batch_size, micro_batch(config), config.seed, together)
    watched = _held_out(config, method, settings, plan, longest, of_levels)
    if method.on_policy and reward:
        plan = FreshPlan(
            **vars(plan),
            policy=policy,
            method=method,
            settings=settings,
            reward=reward,
            max_new_tokens=config.max_new_tokens,
        )
    loop = Loop(config, method, settings, plan, accelerator, watched, start)
    if "curriculum" in method.needs:
        loop = dataclasses.replace(loop, plan=dataclasses.replace(plan, curriculum=loop.steps))
    used = {row["id"] for g in groups for row in g.rows}
    facts = {"rows": len(short), "too_long": len(groups) - len(short), "held_out": held_out}
    facts["unused"] = 0 if method.on_policy else len({row["id"] for row in given} - used)
    return Prepared(policy, loop, conditioning, {**facts, "ess": effective_share(short)})


def conditioned(config: TrainConfig, method: Method) -> Conditioning | None:
    """What a conditioned method prints, from the schema beside the rows; None for the others."""
    if not method.conditioned:
        return None
    schema = schema_of(config.rows)
    names = config.attribute or ((REWARD,) if config.template in NUMBERS else schema.own)
    names = tuple(schema[name].name for name in names)
    ordered = tuple(n for n in schema.names if n in names)
    if "whole condition" in method.needs:
        return Conditioning(schema, ordered, config.template, 0.0, 0.0)
    return Conditioning(schema, ordered, config.template, config.attribute_dropout, config.condition_dropout)


def effective_share(groups: Sequence[Group]) -> float:
    """(sum |w|)^2 / (n sum w^2) over all weights: 1 where all are alike."""
    w = np.abs([x for g in groups for x in g.weights])
    return float(w.sum() ** 2 / (len(w) * (w**2).sum()))


def _grouped(
    rows: list[Row], method: Method, settings: Any, conditioning: Conditioning | None, where: str
) -> tuple[list[Row], list[Group], Conditioning | None]:
    """Rows as the method's conditions see them, their groups, and the conditions."""
    try:
        if method.reframes and method.condition and conditioning:
            rows, schema = method.condition(rows, conditioning.schema, settings)
            conditioning = conditioning.reframed(schema)
        elif conditioning and conditioning.template == OWN:
            rows, schema = exact(rows, conditioning.schema, conditioning.names)
            conditioning = conditioning.reframed(schema)
        groups = method.groups(rows, settings)
        return rows, agreeing(groups, conditioning) if conditioning else groups, conditioning
    except SteerError as error:
        raise SteerError(f"{where}: {error}") from None


def agreeing(groups: Sequence[Group], conditioning: Conditioning) -> list[Group]:
    """The groups without those that stand in the opposite order too, behind conditions that read alike."""
    read = [tuple((r["id"], conditioning.text(r["levels"])) for r in g.rows) if len(g.rows) > 1 else () for g in groups]
    known = set(read)
    kept = [g for g, each in zip(groups, read) if not each or each[::-1] not in known]
    if not kept:
        raise SteerError(
            f"the conditions of every pair read alike ({', '.join(conditioning.names)}). Name more with --attribute."
        )
    return kept


def _base(config: TrainConfig, accelerator: Any) -> Policy:
    """The model that training starts from; one that is to be sharded stays on the CPU until then."""
    folder = Path(config.model)
    card = Card.load(folder) if (folder / "steer.json").is_file() else None
    if card and card.adapter not in ("none", MERGED):
        raise SteerError(f"--model {config.model}: is itself an adapter; train from its base {card.base}.")
    device = "cpu" if accelerator.is_fsdp2 else ""
    four_bit, trust = config.adapter == "qlora", config.trust_remote_code
    policy = load_policy(config.model, dtype=config.dtype, trust_remote_code=trust, quantised=four_bit, device=device)
    if config.adapter != "none" and (same := _twins(policy)):
        end = policy.tokenizer.convert_ids_to_tokens(policy.end)
        raise SteerError(
            f"--model {config.model}: its end token '{end}' was never trained ({same} other tokens have the same "
            "output row), so LoRA cannot learn to end a response. Name the token that ends its texts as eos_token in "
            "tokenizer_config.json, or use --adapter none."
        )
    return policy


def _twins(policy: Policy) -> int:
    """How many other tokens have the output row of the end token: LoRA trains no rows, so it cannot tell them apart."""
    rows = policy.model.get_output_embeddings().weight.detach()
    end = rows[policy.end].float()
    far = torch.cat([(part.float() - end).norm(dim=1) for part in rows.split(4096)])
    return int((far < 1e-2 * end.norm()).sum()) - 1


def _start(config: TrainConfig, policy: Policy, inputs: Mapping[str, str], accelerator: Any) -> str:
    """What the starting policy is, for reference log-probs that are kept: weights, precision and device."""
    weights = inputs["model"] or policy.revision
    how = f"{policy.model.dtype} {accelerator.device.type} {config.adapter == 'qlora'} {inputs.get('init', '')}"
    return f"{'' if inputs['model'] else config.model} {weights} {how}" if weights else ""


def check_init(config: TrainConfig, conditioning: Conditioning | None, base: str) -> None:
    """Refuse to start from a policy that reads other conditions or whose adapter would not fit; `base`: identity."""
    folder = Path(config.init)
    if not (folder / "steer.json").is_file():
        raise SteerError(f'--init {folder}: is no policy (it has no steer.json). Train one: "steer train".')
    card = Card.load(folder)
    own = (config.adapter, base or config.model, config.template if conditioning else "tags")
    if own != (card.adapter, card.base_hash or card.base, card.template if conditioning else "tags"):
        raise SteerError(f"--init {folder}: has another base, adapter or template than this run would have.")
    tokens = config.condition_tokens if conditioning else "text"
    names = conditioning.names if conditioning else ()
    if tokens != card.condition_tokens or (conditioning and names != card.attributes):
        raise SteerError(
            f"--init {folder}: reads conditions of {', '.join(card.attributes) or 'nothing'} as "
            f"{card.condition_tokens}; this run would have {', '.join(names) or 'nothing'} as {tokens}."
        )
    rank = adapter_rank(folder)
    if rank != config.lora_r:
        raise SteerError(f"--init {folder}: has rank {rank}, this run {config.lora_r}. Use --lora-r {rank}.")


def _together(config: TrainConfig, policy: Policy) -> bool:
    """Whether a prompt is computed once for all its candidates and rows are packed; says so where the model cannot."""
    if config.plain_layout:
        return False
    inner = policy.model.get_base_model() if config.adapter != "none" else policy.model
    if not ResponseLogps(inner).shares_prompts():
        what = type(inner).__name__
        click.echo(f"steer: {what} takes no mask per candidate; each has its own prompt and row.", err=True)
        return False
    attention.cut(inner)
    return True


def _short_enough(
    groups: Sequence[Group], tokens: Tokens, conditioning: Conditioning | None, longest: int
) -> list[Group]:
    """The groups whose sequences, under their whole condition, are not longer; none is cut."""
    texts = [[conditioning.text(row["levels"]) if conditioning else "" for row in g.rows] for g in groups]
    unique = {text for each in texts for text in each}
    if conditioning and not any(unique):
        raise SteerError(f"none of the {len(groups)} rows has a level of {', '.join(conditioning.names)}.")
    if len({tuple(tokens.condition(text)) for text in unique}) < len(unique):
        raise SteerError(f"the model's tokenizer reads different conditions as one, such as {min(unique)!r}.")
    short = [g for g, each in zip(groups, texts) if all(tokens.length(r, t) <= longest for r, t in zip(g.rows, each))]
    if not short:
        raise SteerError(f"all {len(groups)} rows are longer than {longest} tokens (--max-length, or the model's own).")
    return short


def _held_out(
    config: TrainConfig, method: Method, settings: Any, plan: Plan, longest: int, of_levels: Conditioning | None
) -> HeldOut | None:
    """The held-out rows as one step without dropout, where a loss on them is asked for."""
    if config.early_stopping and not config.eval_steps:
        raise SteerError("--early-stopping watches the loss on held-out rows. Say how often: --eval-steps 50.")
    if not config.eval_steps:
        return None
    if method.on_policy:
        raise SteerError(f"--eval-steps: {config.method} draws its own responses, so held-out rows give no loss.")
    rows = [r for r in read_all(config.rows) if split_of(r, config.held_out, config.seed) != "train"]
    if not rows:
        raise SteerError(f"--eval-steps: {config.rows} has no held-out rows. Give --held-out, or label with one.")
    rows, groups, _ = _grouped(
        rows, method, settings, of_levels, f"--eval-steps: the held-out rows of {config.rows}: {config.method}"
    )
    tokens = Tokens(rows, plan.tokens.tokenizer, plan.tokens.end)
    whole = plan.conditioning and dataclasses.replace(plan.conditioning, attribute_dropout=0.0, condition_dropout=0.0)
    groups = _short_enough(groups, tokens, whole, longest)
    changed: dict[str, Any] = {"groups": groups, "tokens": tokens, "conditioning": whole, "batch_size": len(groups)}
    return HeldOut(dataclasses.replace(plan, **changed), method, settings)
