"""A policy: a causal language model, its tokenizer and its card; loaded from and saved to a folder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor

from attribute_models.templates import kwargs_of
from steer.addresses import fetched, is_address
from steer.conditioning.chat import PLAIN, bare
from steer.conditioning.condition import markers
from steer.conditioning.switches import with_defaults
from steer.conditioning.targets import Target, opposite, parse_target
from steer.conditioning.turns import Turn, preceded
from steer.errors import SteerError
from steer.hub import held
from steer.models.card import FULL, MERGED, Card
from steer.models.loading import SAMPLED, Loading, hub_commit, pretrained
from steer.models.lora import adapted, add_control_tokens, beside_the_base, refuse_nan
from steer.models.quantization import BASES
from steer.models.steering import Steering, Weights
from steer.models.tokenization import end_ids
from steer.models.unfinished import facts_of, with_weights
from steer.progress import note, note_once, progress, quiet
from steer.rows.schema import Schema
from steer.run_folder import fingerprint, identity, is_run, read_done
from steer.settings import apart

if TYPE_CHECKING:
    from steer.generation.generate import Prompts
    from steer.rows import Row


@dataclass
class Policy:
    """A loaded model with its tokenizer; `card` is None for a plain Hugging Face model.

    `name`: the folder or hub name it was loaded from; `revision`: the commit of a model from the hub; `facts`: rows,
    steps, loss and more of its training, empty for a model that steer did not train. `before`: turns that it reads in
    front of a row's prompt at a target, such as examples. `steering`: vectors that take the place of a condition.
    `start`: weights of the fresh adapter, if it took them out of the base. `content`: fingerprint of what it is, where
    no folder of its name holds that; `loaded`: how it was loaded, if not on the base and in the bits that it names.
    """

    model: Any
    tokenizer: Any
    card: Card | None = None
    name: str = ""
    revision: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Row, Target], Sequence[Turn]] | None = None
    steering: Steering | None = None
    start: Mapping[str, Tensor] = field(default_factory=dict)
    content: str = ""
    loaded: str = ""

    @property
    def width(self) -> int:
        """Number of values in a state of its model."""
        size: int = self.model.config.get_text_config().hidden_size
        return size

    @property
    def identity(self) -> str:
        """Return its name and a fingerprint of what it answers with, which tells it from another of the same base."""
        return f"{self.name} {self.content or identity(self.name) or self.revision} {self.loaded}".rstrip()

    @property
    def schema(self) -> Schema | None:
        """The schema of the attributes that it is conditioned on, or None if it is unconditioned."""
        return self.card.schema if self.card else None

    @property
    def template(self) -> str | None:
        """The template of its conditions, or None if it has none."""
        return self.card.template if self.card and self.card.attributes and not self.steering else None

    @property
    def thinking(self) -> str:
        """How training handled thoughts, which decides where answers begin: see `finished.place_of`."""
        return self.card.thinking if self.card else "drop"

    @property
    def markers(self) -> list[str]:
        """The strings that start a condition in a response, to be blocked there; none if it is unconditioned."""
        return markers(self.card.attributes, self.template) if self.card and self.template else []

    @property
    def recommended(self) -> dict[str, Any]:
        """Return the sampling values that generation_config.json recommends: do_sample, temperature, top_p and more."""
        config = getattr(self.model, "generation_config", None)
        return {n: x for n in ("do_sample", *SAMPLED) if (x := getattr(config, n, None)) is not None}

    @property
    def chats(self) -> bool:
        """Whether it has a chat template of its own."""
        return bool(self.tokenizer.chat_template != PLAIN)

    @property
    def longest(self) -> int | None:
        """Return the number of positions that the model has, or None if it is unlimited."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit if limit and limit > 0 else None

    @property
    def end(self) -> list[int]:
        """The tokens that end a response in training, the last of which stops decoding; see `end_ids`."""
        return end_ids(self.tokenizer, end_tokens(self))

    @cached_property
    def pieces(self) -> list[str]:
        """Return the text of every token by itself; empty for special ones."""
        ids = [[i] for i in range(self.model.get_input_embeddings().weight.shape[0])]
        pieces: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        for token in (t for level in self.card.control_tokens() for t in level) if self.card else ():
            pieces[self.tokenizer.convert_tokens_to_ids(token)] = token
        return pieces

    def targets(self, texts: Sequence[str], allow_unsupported: bool = False) -> list[Target]:
        """Return the levels that users' texts ask for, one target per text; without texts the default one.

        Raises SteerError for a target that the policy's data does not support.
        """
        card = self.card
        if card is None or card.schema is None or not card.attributes:
            asked = [t for t in texts if t.strip() not in ("none", "best", "")]
            if asked:
                raise SteerError(f"{self.name}: was not conditioned on attributes, so it cannot aim at '{asked[0]}'.")
            if "best" in map(str.strip, texts):
                note_once(f"{self.name}: was not conditioned on attributes, so 'best' asks it for nothing.")
            return [{} for _ in texts or ["best"]]
        parsed = [parse_target(t, card.schema, card.attributes) for t in texts]
        unseen = "" if texts else card.schema.unseen(card.attributes)
        if not texts:
            parsed = [card.schema.unasked(card.attributes)]
        if unseen:
            note_once(f"{self.name}: is asked for nothing, for {unseen}.")
        elif not any(card.schema[n].direction for n in card.attributes) and (
            not texts or "best" in map(str.strip, texts)
        ):
            names, example = ", ".join(card.attributes), card.schema.text({card.attributes[0]: 0})
            note_once(
                f"{self.name}: 'best' asks for nothing, for neither end of {names} is better: no condition. Name a "
                f"level, such as {example}."
            )
        for target in parsed:
            if target and not allow_unsupported:
                card.schema.check(target)
        return parsed

    def weights(self, target: Mapping[str, float]) -> Weights:
        """Return the weights of its steering vectors at a target; empty if it has none."""
        return self.steering.weights(target) if self.steering else ()

    def steered(self, weights: Sequence[Weights], first: int = 0) -> AbstractContextManager[None]:
        """Add its steering vectors to each row of a batch, from position `first` on, while the block runs: [N][A]."""
        return self.steering.added(self.model, weights, first) if self.steering else nullcontext()

    @overload
    def generate(self, prompts: str, *, target: str = ..., **settings: Any) -> str: ...
    @overload
    def generate(
        self, prompts: Prompts, *, target: str | Sequence[str] = ..., n: int = ..., **settings: Any
    ) -> list[Row]: ...

    def generate(
        self, prompts: Prompts, *, target: str | Sequence[str] = (), n: int = 1, **settings: Any
    ) -> str | list[Row]:
        """Answer prompts at targets: the text for one prompt at one target, else rows as `steer.generate` gives them.

        `prompts`: a text, or a list of texts, conversations or rows. `target`: such as "helpful=5 verbosity=low", or
        several; none asks for the best. `n`: responses to each. `settings`: as `steer.generate` takes them. SteerError
        for an unknown setting, or a target that the policy's data does not support.
        """
        from steer.generation.generate import generate

        rows = generate(self, prompts, targets=target, n=n, **apart(settings, targets="target"))
        one = isinstance(prompts, str) and (isinstance(target, str) or not target) and n == 1
        return str(rows[0]["response"]) if one else rows

    def reading(self, row: Row, target: Target) -> Row:
        """Return the row with the prompt that the policy reads at a target, but for the condition."""
        return {**row, "prompt": preceded(row["prompt"], self.before(row, target))} if self.before else row

    def with_options(self, row: Row) -> Row:
        """Return the row for another model: it gives that model's chat template what this policy's is always given."""
        own = self.card.template_options if self.card else {}
        return {**row, "chat_template_kwargs": {**own, **kwargs_of(row)}} if own else row

    def against(self, text: str, aim: Target) -> Target:
        """Return the target that guidance moves away from: `none`, `opposite`, or one as users write it."""
        if text == "opposite" and aim and self.card and self.card.schema:
            return opposite(aim, self.card.schema)
        return {} if text in ("none", "opposite") else self.targets([text], allow_unsupported=True)[0]

    def leaks(self, text: str) -> bool:
        """Whether a condition begins in a response: only the engine `hf` blocks all of them."""
        return any(marker in text for marker in self.markers)

    def save(self, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write adapter or full weights, tokenizer and, last, the card. `weights`: those of a sharded model.

        A plain model is saved as Hugging Face does; `load_policy` reads either. Examples and steering vectors have no
        place in a folder: SteerError.
        """
        if self.before or self.steering:
            raise SteerError(f"{self.name}: examples or steering vectors are part of it, and no folder can hold these.")
        kind = self.card.adapter if self.card else MERGED
        target = Path(folder) / FULL if kind == "none" else Path(folder)
        # PEFT would add the whole embedding matrix because the vocabulary grew; the trained rows are in the adapter.
        adapters = getattr(self.model, "peft_config", {})
        more: dict[str, Any] = {"save_embedding_layers": False} if adapters else {}
        own = dict(adapters)
        if self.start:
            adapters["default"] = copy.deepcopy(own["default"])
            weights = beside_the_base(weights or self.model.state_dict(), self.start, adapters["default"])
        try:
            with quiet(), progress(what=f"save {folder}", unit=""):
                self.model.save_pretrained(target, **more, **({"state_dict": weights} if weights else {}))
                self.tokenizer.save_pretrained(target)
        finally:
            adapters |= own
        if self.card:
            self.card.save(Path(folder))


def end_tokens(policy: Policy) -> set[int]:
    """Return the tokens that end a response when it is drawn: the tokenizer's and those that the model names."""
    theirs = getattr(getattr(policy.model, "generation_config", None), "eos_token_id", None)
    return {policy.tokenizer.eos_token_id, *(theirs if isinstance(theirs, list) else [theirs])} - {None}


def load_policy(
    name: str,
    *,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    quantised: str | None = None,
    base: str = "",
    device: str = "",
    attn_implementation: str = "",
    revision: str = "",
) -> Policy:
    """Load a Hugging Face model by name or folder, or a policy that `train` or `export` wrote, by folder or address.

    `dtype`: "auto" (bfloat16 on a GPU that has it, else float32), "float32", "bfloat16". `trust_remote_code`: run code
    that comes with the model. `quantised`: load a plain model in 4 bits ("nf4") or 8 ("int8"); a policy loads its base
    as it was trained on. `base`: another base than the recorded one. `device`: default this process's GPU, else the
    CPU; "meta" loads no weights, only tokenizer and configuration. `attn_implementation`: attention of transformers,
    such as "flash_attention_2"; default the model's own. `revision`: the commit of a model on the hub; default the
    newest, or the one that a policy was trained on. Raises SteerError for a folder that holds no model, or the
    wrong base.
    """
    loading = Loading(dtype, trust_remote_code, quantised, base, device, revision, attn_implementation)
    policy = _load(fetched(name) if is_address(name) else name, loading)
    own = BASES.get(policy.card.adapter, "") if policy.card else ""
    bits = "" if quantised in (None, own) else quantised or "whole"
    policy.loaded = " ".join(filter(None, (base, base and identity(base), bits)))
    return policy


def _load(name: str, loading: Loading) -> Policy:
    folder = Path(name)
    if place := Card.place(folder):
        return _load_trained(folder, place, loading)
    if (folder / "adapter_config.json").is_file():
        raise SteerError(f"model '{name}': is an adapter without its base. Merge it into the base and save that first.")
    if is_run(folder):
        if (folder / "done.json").is_file():
            raise SteerError(f"model '{name}': is a run of steer that holds no policy. Give the folder of a training.")
        again = f"steer train --config {folder / 'config.json'} --output {folder}"
        raise SteerError(
            f"model '{name}': is a run of steer that is not finished and has no resume point that can be used. Finish "
            f'its training: "{again}".'
        )
    commit = loading.revision or held(f"model {name}")
    return Policy(*pretrained(name, replace(loading, revision=commit)), None, name, commit or hub_commit(name))


def _load_trained(folder: Path, place: Path, loading: Loading) -> Policy:
    """Load a policy whose card is in `place`: its folder, or a resume point there if its training is not finished."""
    card, name, unfinished = Card.load(place), str(folder), place != folder
    facts = facts_of(place) if unfinished else {k: v for k, v in read_done(folder).items() if k != "summary"}
    if unfinished:
        note(f"{folder}: step {facts['steps']} of {facts['of']}, training is unfinished.")
    elif card.adapter in ("none", MERGED):
        model, tokenizer = pretrained(str(folder / FULL if card.adapter == "none" else folder), loading)
        tokenizer.chat_template = with_defaults(bare(tokenizer.chat_template), card.template_options)
        return Policy(model, tokenizer, card, name, facts=facts)
    if not loading.base and card.base_hash and not Path(card.base).exists():  # only a local base has a hash
        raise SteerError(f"{folder}: its base model {card.base} is gone. Put it back there or train again.")
    if not loading.base and card.base_hash and fingerprint(card.base) != card.base_hash:
        raise SteerError(f"{folder}: its base model {card.base} has changed since training. Restore it or train again.")
    kind = BASES.get(card.adapter, "") if loading.quantised is None else loading.quantised
    revision = "" if loading.base else card.base_revision
    base = _load(loading.base or card.base, replace(loading, quantised=kind, base="", revision=revision))
    base.tokenizer.chat_template = with_defaults(base.tokenizer.chat_template, card.template_options)
    if loading.device == "meta":
        return Policy(base.model, base.tokenizer, card, name, facts=facts)
    token_ids = add_control_tokens(base.model, base.tokenizer, card.control_tokens(), 0)
    start: dict[str, Tensor] = {}
    if unfinished:
        model, start = with_weights(base.model, place, token_ids)
    else:
        model = adapted(base.model, place, token_ids)
    refuse_nan(model.named_parameters(), f"model '{folder}'")
    return Policy(model, base.tokenizer, card, name, facts=facts, start=start)
