"""The steps of `prepare`: method, conditions, groups, base model, adapter. Each refuses what cannot be trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from steer import device
from steer.conditioning.condition import NUMBERS, OWN, TEMPLATES, worded
from steer.conditioning.turns import unreadable
from steer.errors import SteerError
from steer.labelling.scorer import Scorer, scorer_of_new
from steer.methods import METHODS, likelihood_rate, method_of, peak_rate
from steer.methods.base import Method
from steer.methods.groups import Group, conversations
from steer.models import attention
from steer.models.card import MERGED, Card
from steer.models.log_probs import ResponseLogps
from steer.models.lora import Lora, adapter_settings, add_control_tokens, add_lora, lora_weights, start_from
from steer.models.parts import freeze_towers
from steer.models.policy import Policy, load_policy
from steer.models.quantization import BASES
from steer.models.tokenization import Tokens
from steer.progress import note
from steer.rows import Row, prompt_key, split_of
from steer.rows.binning import exact
from steer.rows.identity import drawn
from steer.rows.labelled import Labelled
from steer.rows.schema import REWARD, Schema
from steer.run_folder import identity
from steer.settings import THINKS, overridden, said
from steer.training.baselines import ONE_PROMPT
from steer.training.batches import Conditioning, Plan, weight_of
from steer.training.lengths import short_enough
from steer.training.settings import CONDITION, TrainSettings
from steer.training.thinking import check_thinking
from steer.training.tracking import HeldOut

S = TypeVar("S", bound=TrainSettings)


def chosen(name: str, pairs: Sequence[str]) -> tuple[Method, Any]:
    """Return a method and its settings from NAME=VALUE texts; an unknown name raises SteerError with the known ones."""
    method = method_of(name)
    return method, overridden(method.settings, pairs, name, f' "steer methods {name}" explains them.')


class Hashes(NamedTuple):
    """Fingerprints of the folders that a training starts from: computed once, for weights are large."""

    model: str  # empty for a model of the hub
    init: str = ""  # of the policy of --init

    @staticmethod
    def of(model: str, init: str) -> Hashes:
        """Compute both; empty for what is no folder."""
        return Hashes(identity(model), identity(init) if init else "")


def scorer_for(name: str, spec: str, *, trust_remote_code: bool = False) -> Scorer | None:
    """Load the scorer that an on-policy method gets rewards from; None for a method that draws nothing."""
    if not METHODS[name].on_policy:
        return None
    if not spec:
        raise SteerError(
            f"{name}: needs a scorer of fresh responses, and these rows name none that can be loaded again. Give "
            "--scorer (scorer=)."
        )
    return scorer_of_new(spec, "--scorer", trust_remote_code=trust_remote_code)


def check_start(
    name: str, method: Method, conditioning: Conditioning | None, options: TrainSettings, base: str
) -> None:
    """Refuse a start that does not fit the method or `base`, a fingerprint or hub name."""
    lora_of(options)
    if options.init:
        _check_init(base, method, conditioning, options)
    check_thinking(name, method, conditioning, options.thinking)
    if (method.on_policy or "kl" in method.needs) and options.adapter == "none":
        raise SteerError(f"{name}: its reference is the model without its adapter. Use --adapter lora.")
    if method.importance and not options.init:
        raise SteerError(
            f"{name}: needs --init, the policy that drew the responses at their targets. Train one with --method "
            'conditional; "steer generate POLICY --input ROWS --n 8 --sampling own" draws from it.'
        )


def _check_init(base: str, method: Method, conditioning: Conditioning | None, options: TrainSettings) -> None:
    """Refuse to start from a policy that reads other conditions or does not fit `base`, a fingerprint or hub name.

    One that reads none can learn to: only a method that weighs its draws at targets needs its conditions before.
    """
    folder = Path(options.init)
    if not (folder / "steer.json").is_file():
        raise SteerError(f'--init {folder}: is no policy (it has no steer.json). Train one: "steer train".')
    card = Card.load(folder)
    conditioning = conditioning if card.attributes or method.importance else None
    own = (options.adapter, base, options.template if conditioning else "tags")
    if own != (card.adapter, card.base_hash or card.base, card.template if conditioning else "tags"):
        raise SteerError(f"--init {folder}: has another base, adapter or template than this run would have.")
    tokens = options.condition_tokens if conditioning else "text"
    names = conditioning.names if conditioning else ()
    if tokens != card.condition_tokens or (conditioning and names != card.attributes):
        raise SteerError(
            f"--init {folder}: reads conditions of {', '.join(card.attributes) or 'nothing'} as "
            f"{card.condition_tokens}; this run would have {', '.join(names) or 'nothing'} as {tokens}."
        )
    saved = adapter_settings(folder)
    if other := [setting for setting, value in saved.items() if value != getattr(options, setting)]:
        said = ", ".join(f"{setting} {saved[setting]}" for setting in other)
        this = ", ".join(f"{setting} {getattr(options, setting)}" for setting in other)
        raise SteerError(f"--init {folder}: its adapter has {said}, this run {this}. Use the same.")


def started_from(config: S, policy: str) -> S:
    """Return settings that start from a policy's adapter, and take over its rank, scale and kind."""
    saved = adapter_settings(Path(policy)) if (Path(policy) / "adapter_config.json").is_file() else {}
    return dataclasses.replace(config, init=policy, init_lora_weights="default", **saved)


def rated(name: str, method: Method, options: TrainSettings, width: int) -> tuple[TrainSettings, str]:
    """Choose a learning rate if the user gave none; return the settings and why it was chosen (empty: given).

    `width`: of the base's states.
    """
    if options.learning_rate:
        return options, ""
    whole = likelihood_rate(options.adapter, width)
    rate = peak_rate(name, whole)
    share = f", of which {name} takes {method.rate:g}" if method.rate != 1 else ""
    trained = "all weights" if options.adapter == "none" else "adapters"
    why = (
        f"learning rate {rate:g}: likelihood methods train {trained} of a base of width {width} at {whole:g}{share} "
        "(--learning-rate sets another)"
    )
    return dataclasses.replace(options, learning_rate=rate), why


def templated(model: str, method: Method, options: TrainSettings) -> tuple[TrainSettings, str]:
    """Choose how conditions are written if the user left it open; return the settings and why (empty: given).

    A method without conditions says what was given for them in vain.
    """
    vain = "" if method.conditioned else _in_vain(options)
    if options.template != "auto":
        return options, vain
    name, why = "tags", ""
    if options.init and method.conditioned and (card := Card.find(options.init)) and card.attributes:
        name = card.template
    elif options.condition_tokens == "special":
        why = "special tokens stand for them"
    elif method.conditioned and options.thinking in THINKS:
        name, why = "words", f"with --thinking {options.thinking} nothing can stand between a thought and its answer"
    elif method.conditioned:
        why = unreadable(load_policy(model, trust_remote_code=options.trust_remote_code, device="meta").tokenizer)
        name, why = ("tags", why) if why else ("words", "the base is a chat model")
    return dataclasses.replace(options, template=name), f"--template {name}: {why}" if why else vain


def _in_vain(options: TrainSettings) -> str:
    """Say which settings of conditions were given to a method that has none; empty if none was."""
    given = [
        f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(options)
        if field.metadata.get("panel") == CONDITION
        and field.name not in ("thinking", "template_option")  # of every chat
        and getattr(options, field.name) != field.default
    ]
    return f"{', '.join(given)}: does nothing, the method takes no conditions" if given else ""


def conditioned(labelled: Labelled, method: Method, options: TrainSettings) -> Conditioning | None:
    """Return how a conditioned method conditions responses, or None for an unconditioned one."""
    if not method.conditioned:
        return None
    if options.phrase and method.reframes:
        raise SteerError("--phrase says how levels are asked for, and this method asks for none. Leave --phrase out.")
    schema = phrased(labelled.require_levels(), options)
    names = options.attribute or ((REWARD,) if options.template in NUMBERS else schema.own)
    names = tuple(schema[name].name for name in names)
    ordered = tuple(n for n in schema.names if n in names)
    whole = "whole condition" in method.needs
    dropout = (0.0, 0.0) if whole else (options.attribute_dropout, options.condition_dropout)
    return Conditioning(schema, ordered, options.template, *dropout)


def phrased(schema: Schema, options: TrainSettings) -> Schema:
    """Return the schema with the sentences of conditions in words, by --phrase where it is given."""
    if options.phrase and options.template != "words":
        raise SteerError("--phrase says how levels are asked for in words. Add --template words.")
    phrases = dict(text.partition("=")[::2] for text in options.phrase)
    for name, text in phrases.items():
        if not text.strip():
            raise SteerError(f"--phrase {name}: write NAME=SENTENCE.")
        _ = schema[name]
    return worded(schema, phrases) if TEMPLATES[options.template].in_turn else schema


def grouped(
    rows: list[Row], method: Method, settings: Any, conditioning: Conditioning | None, where: str
) -> tuple[list[Row], list[Group], Conditioning | None]:
    """Return rows as the method's conditions see them, their groups, and the conditions; `where` begins messages."""
    try:
        if method.reframes and method.condition and conditioning:
            rows, schema = method.condition(rows, conditioning.schema, settings)
            conditioning = conditioning.reframed(schema)
        elif conditioning and conditioning.template == OWN:
            rows, schema = exact(rows, conditioning.schema, conditioning.names)
            conditioning = conditioning.reframed(schema)
        if conditioning and "named levels" in method.needs:
            names = conditioning.names
            rows = [r | {"levels": {n: x for n, x in (r.get("levels") or {}).items() if n in names}} for r in rows]
        groups = method.groups(rows, settings)
        if "mismatched" in method.needs and len({prompt_key(row) for group in groups for row in group.rows}) < 2:
            raise SteerError(ONE_PROMPT)
        known = {row["id"] for row in rows}
        rows = [*rows, *(row for group in groups for row in group.rows if row["id"] not in known)]
        return rows, agreeing(groups, conditioning) if conditioning else groups, conditioning
    except SteerError as error:
        raise SteerError(f"{where}: {error}") from None


def agreeing(groups: Sequence[Group], conditioning: Conditioning) -> list[Group]:
    """Drop groups that also exist in the opposite order under conditions that read alike."""
    texts = [tuple((r["id"], conditioning.text(r["levels"])) for r in g.rows) if g.rows[1:] else () for g in groups]
    orders = set(texts)
    kept = [g for g, text in zip(groups, texts) if not text or text[::-1] not in orders]
    if not kept:
        raise SteerError(
            f"the conditions of every pair read alike ({', '.join(conditioning.names)}). Name more with --attribute."
        )
    return kept


def base_policy(model: str, options: TrainSettings, *, on_cpu: bool) -> Policy:
    """Load the model that training starts from; `on_cpu`: it is sharded later."""
    card = Card.find(model)
    if card and card.adapter not in ("none", MERGED):
        raise SteerError(f"--model {model}: is itself an adapter; train from its base {card.base}.")
    if card and Card.place(Path(model)) != Path(model):
        raise SteerError(f'--model {model}: its training is not finished. Finish it, or "steer export" it first.')
    policy = load_policy(
        model,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        quantised=BASES.get(options.adapter, ""),
        attn_implementation=options.attn_implementation,
        device="cpu" if on_cpu else "",
    )
    if options.adapter != "none" and (same := _twins(policy)):
        end = policy.tokenizer.convert_ids_to_tokens(policy.end[-1])
        raise SteerError(
            f"--model {model}: its end token '{end}' was never trained ({same} other tokens have the same "
            "output row), so LoRA cannot learn to end a response. Name the token that ends its texts as eos_token in "
            "tokenizer_config.json, or use --adapter none."
        )
    return policy


def _twins(policy: Policy) -> int:
    """Count other tokens with the output row of the end token: LoRA trains no rows, so it cannot tell them apart."""
    rows = policy.model.get_output_embeddings().weight.detach()
    end = rows[policy.end[-1]].float()
    far = torch.cat([(part.float() - end).norm(dim=1) for part in rows.split(4096)])
    return int((far < 1e-2 * end.norm()).sum()) - 1


def starting_point(
    policy: Policy, conditioning: Conditioning | None, options: TrainSettings, device: str, hashes: Hashes
) -> str:
    """Identify the starting policy (weights, precision, device) for cached reference log-probs; empty: do not cache."""
    weights = hashes.model or policy.revision
    numbers = f"{policy.model.dtype} {device} {BASES.get(options.adapter, '')} {hashes.init}"
    if not (lora := lora_of(options)).starts_at_zero:
        numbers += f" {lora}"
    if conditioning and options.condition_tokens == "special":  # they take their share of the probability
        numbers += f" {conditioning.control_tokens()} {options.seed}"
    return f"{'' if hashes.model else policy.name} {weights} {numbers}" if weights else ""


def lora_of(options: TrainSettings) -> Lora:
    """Return the settings of the adapter; SteerError for those that do not go together."""
    fields = dataclasses.fields(Lora)
    if options.adapter == "none":
        given = [f.name for f in fields if said(options, f)]
        if given:
            flag = "--" + given[0].replace("_", "-")
            raise SteerError(f"{flag}: --adapter none trains all weights, without an adapter. Leave one of them out.")
    else:
        init, quantised = options.init_lora_weights, options.adapter in BASES
        if options.init and init != "default":
            raise SteerError(f"--init-lora-weights {init}: --init says where the adapter starts. Leave one out.")
        if init == "loftq" and options.adapter != "qlora":
            raise SteerError("--init-lora-weights loftq: corrects a base in 4 bits. Add --adapter qlora.")
        if init == "loftq" and device.kind() not in ("cuda", "xpu"):
            raise SteerError("--init-lora-weights loftq: PEFT computes it on a GPU of NVIDIA, AMD or Intel only.")
        if init.startswith(("pissa", "olora")) and quantised:
            raise SteerError(f"--init-lora-weights {init}: changes the base, which must be whole. Use --adapter lora.")
    return Lora(
        r=options.lora_r,
        alpha=options.lora_alpha,
        dropout=options.lora_dropout,
        **{f.name: getattr(options, f.name) for f in fields if hasattr(options, f.name)},
    )


def add_trained(policy: Policy, conditioning: Conditioning | None, options: TrainSettings) -> None:
    """Add to the base what is trained: tokens of the levels, and an adapter, fresh or the one of --init."""
    levels = conditioning.control_tokens() if conditioning and options.condition_tokens == "special" else []
    token_ids = add_control_tokens(policy.model, policy.tokenizer, levels, options.seed)
    lora = lora_of(options)
    if options.adapter == "none":
        freeze_towers(policy.model)
    else:
        policy.model = add_lora(policy.model, lora, options.seed, token_ids)
        policy.start = lora_weights(policy.model) if lora.changes_base else {}
    if options.init:
        start_from(policy.model, options.init)


def shares_prompts(policy: Policy, options: TrainSettings) -> bool:
    """Whether a prompt is computed once for all its candidates and rows are packed; note it if the model cannot."""
    if options.plain_layout:
        return False
    inner = policy.model.get_base_model() if options.adapter != "none" else policy.model
    if not ResponseLogps(inner).shares_prompts():
        note(f"{type(inner).__name__} takes no mask per candidate; each has its own prompt and row.")
        return False
    attention.cut(inner)
    return True


def joined(groups: Sequence[Group], method: Method) -> list[Group]:
    """Join the turns of a conversation, for methods whose loss sees every row by itself and draws none."""
    return conversations(groups) if method.per != "prompt" and not method.on_policy else list(groups)


def undrawn(method: Method, rows: Sequence[Row]) -> bool:
    """Whether a method wants responses that the policy drew, and no row records that one was."""
    return method.wants_draws and not any(map(drawn, rows))


def caveat(name: str, method: Method, rows: Sequence[Row], groups: Sequence[Group]) -> str:
    """Say what a method wants of rows and does not get, though it can train on them; empty: nothing."""
    clauses = [method.caveat(groups)] if method.caveat else []
    if undrawn(method, rows):
        clauses.append(
            f"none of these {len(rows)} rows records that the policy drew it, so the logs stand for its draws: "
            f'"steer iterate --method {name} --scorer SCORER" draws'
        )
    return "; ".join(filter(None, clauses))


def weighed(plan: Plan, method: Method) -> tuple[Plan, str]:
    """Let the weights of rows multiply their loss, as shares of the mean; also say so (empty: no row has one)."""
    rows = {row["id"]: row for group in plan.groups for row in group.rows}
    given = [float(row["weight"]) for row in rows.values() if row.get("weight") is not None]
    if not given or {*given} == {1.0}:
        return plan, ""
    some = f"{len(given)} of {len(rows)} rows have one, from {min(given):g} to {max(given):g}"
    if method.on_policy:
        return plan, f"the column weight is not used: responses are drawn ({some})"
    mean = float(np.mean([weight_of(row) for row in rows.values()]))
    if not mean:
        raise SteerError("the weight of every row is 0, so there is nothing to learn. Change the column weight.")
    told = f"the loss of every row is multiplied by its weight: {some}, divided by their mean {mean:.3g}"
    return dataclasses.replace(plan, mean_weight=mean), told


def held_out_of(
    labelled: Labelled, name: str, conditioning: Conditioning | None, options: TrainSettings, plan: Plan, longest: int
) -> HeldOut | None:
    """Make one step of the held-out rows, under whole conditions, if a loss on them is asked for.

    They are weighed among the training rows: what is good, or how good, is not to depend on who is held out.
    `conditioning`: before the method reframes it; `plan`: that of the training rows.
    """
    method, own = chosen(name, options.set)
    if options.early_stopping and not options.eval_steps:
        raise SteerError("--early-stopping watches the loss on held-out rows. Say how often: --eval-steps 50.")
    if not options.eval_steps:
        return None
    if method.on_policy:
        raise SteerError(f"--eval-steps: {name} draws its own responses, so held-out rows give no loss.")
    share, seed = options.held_out, options.seed
    rows = labelled.held_out(share, seed)
    if not rows:
        raise SteerError(f"--eval-steps: {labelled.name} has no held-out rows. Give --held-out, or label with one.")
    where = f"--eval-steps: the held-out rows of {labelled.name}: {name}"
    every = [*labelled.training(share, seed, options.limit), *rows]
    groups = grouped(every, method, own, conditioning, where)[1]
    groups = [g for g in groups if all(split_of(row, share, seed) != "train" for row in g.rows)]
    if not groups:
        raise SteerError(f"{where} trains on none of them, so they give no loss.")
    template = conditioning.template if conditioning else None
    rows = list({row["id"]: row for group in groups for row in group.rows}.values())
    tokens = Tokens(rows, plan.tokens.tokenizer, plan.tokens.ends, template, options.thinking)
    whole = plan.conditioning and plan.conditioning.whole
    groups = joined(short_enough(groups, tokens, whole, longest, options.truncate)[0], method)
    changed: dict[str, Any] = {"groups": groups, "tokens": tokens, "conditioning": whole, "batch_size": len(groups)}
    return HeldOut(dataclasses.replace(plan, **changed), method, own)


def counts(
    labelled: Labelled,
    rows: Sequence[Row],
    groups: Sequence[Group],
    short: Sequence[Group],
    method: Method,
    options: TrainSettings,
) -> dict[str, Any]:
    """Count what is trained on, too long, held out and unused.

    `rows`: each once, in however many `samples` of the method (pairs, lists of candidates) it stands; what a method
    makes of them, such as the second answers of chains, counts as no other row. `ess`: effective
    sample size as a share, (sum |w|)^2 / (n sum w^2); 1 if all weights are alike.
    """
    given = {row["id"] for row in rows}
    used, trained = ({row["id"] for g in some for row in g.rows} & given for some in (groups, short))
    w = np.abs([x for g in short for x in g.weights])
    w = np.exp(-w) if method.importance else w  # what `weigh` reads are logarithms
    return {
        "rows": len(trained),
        "samples": len(short),
        "too_long": len(groups) - len(short),
        "held_out": len(labelled.held_out(options.held_out, options.seed)),
        "unused": 0 if method.on_policy else len(given - used),
        "ess": float(w.sum() ** 2 / (len(w) * (w**2).sum())),
    }


def _loftq(options: TrainSettings) -> str:
    """Return "loftq" if the adapter began as a correction of its 4-bit base, in this training or the one before."""
    before = Card.load(Path(options.init)).init_lora_weights if options.init else ""
    return before or ("loftq" if options.init_lora_weights == "loftq" else "")


def card_of(
    policy: Policy,
    name: str,
    options: TrainSettings,
    conditioning: Conditioning | None,
    base_hash: str,
    labelled: Labelled,
    template_options: Mapping[str, Any],
) -> Card:
    """Return the card of what will be trained from `policy` by the method `name` on labelled rows."""
    return Card(
        base=str(Path(policy.name).resolve()) if Path(policy.name).exists() else policy.name,
        base_hash=base_hash,
        base_revision=policy.revision,
        adapter=options.adapter,
        method=name,
        settings=dataclasses.asdict(chosen(name, options.set)[1]),
        template=options.template,
        thinking=options.thinking,
        template_options=template_options,
        attributes=conditioning.names if conditioning else (),
        schema=conditioning.schema if conditioning else None,
        scorer=labelled.scorer,
        scorer_spec=labelled.spec,
        condition_tokens=options.condition_tokens if conditioning else "text",
        init_lora_weights=_loftq(options),
    )
