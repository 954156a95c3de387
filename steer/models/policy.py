"""The policy: a causal language model, its tokenizer and card; loaded and saved."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from steer import __version__
from steer.conditioning.chat import PLAIN, bare, rendered
from steer.conditioning.condition import TEMPLATES, control_tokens, markers
from steer.conditioning.targets import Target, opposite, parse_target
from steer.errors import SteerError
from steer.models.lora import adapted, add_control_tokens, refuse_nan
from steer.models.quantization import keep_unpacked, left_whole, nf4
from steer.models.tokenization import plain_ids
from steer.progress import quiet
from steer.rows.schema import Schema
from steer.run_folder import fingerprint, is_run, read_json, write_json

FULL = "model"  # folder of full weights in that of the run: a model's config.json must not replace the run's
MERGED = "merged"  # the adapter of an exported policy: its weights lie in the folder itself
ADAPTERS = ("lora", "qlora", "none", MERGED)
SAID = "Certainly."  # an answer that no chat template writes by itself


@dataclass(frozen=True)
class Card:
    """steer.json: all that a policy needs to be steered on another machine.

    `attributes` are the ones it was conditioned on (empty: not conditioned); with `condition_tokens` "special" every
    level of them is a token.
    """

    base: str
    base_hash: str
    adapter: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    template: str = "tags"
    attributes: tuple[str, ...] = ()
    schema: Schema | None = None
    scorer: str = ""
    condition_tokens: str = "text"
    base_revision: str = ""  # the commit of a base on the hub; one in a folder has a hash
    version: str = __version__

    def save(self, folder: Path) -> None:
        """Write steer.json."""
        value = {k: v for k, v in asdict(self).items() if k != "schema"}
        value["settings"] = {k: str(v) if v in (math.inf, -math.inf) else v for k, v in self.settings.items()}
        write_json(folder / "steer.json", {**value, "schema": self.schema.to_json() if self.schema else None})

    def control_tokens(self) -> list[list[str]]:
        """The tokens added to the base's, by attribute and level; none where conditions are text."""
        if self.condition_tokens == "text" or self.schema is None:
            return []
        return control_tokens(self.schema, self.attributes, self.template)

    @staticmethod
    def load(folder: Path) -> Card:
        """Read steer.json."""
        value = read_json(folder / "steer.json")
        try:
            return _card(value)
        except (KeyError, TypeError, ValueError, SteerError) as error:
            where = folder / "steer.json"
            raise SteerError(f'{where}: not what "steer train" writes ({error}). Train again.') from None


def _card(value: Any) -> Card:
    """The card that JSON holds; an error where a value is not of its kind, or names what is not there."""
    if not isinstance(value, dict):
        raise TypeError("it is no object")
    texts = [f.name for f in fields(Card) if f.name not in ("settings", "attributes", "schema")]
    if wrong := [name for name in texts if not isinstance(value.get(name, ""), str)]:
        raise TypeError(f"{wrong[0]} is no text")
    names = value["attributes"]
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise TypeError("attributes is no list of texts")
    if not isinstance(value["settings"], dict):
        raise TypeError("settings is no object")
    schema = Schema.from_json(value["schema"]) if value["schema"] is not None else None
    card = Card(**{**value, "attributes": tuple(names), "schema": schema})
    for name, known in (("adapter", ADAPTERS), ("template", TEMPLATES), ("condition_tokens", ("text", "special"))):
        if getattr(card, name) not in known:
            raise ValueError(f"{name} '{getattr(card, name)}' is none of {', '.join(known)}")
    if (names and schema is None) or (schema and not set(names) <= {a.name for a in schema.attributes if a.shown}):
        raise ValueError("the schema has no levels of its attributes")
    return card


@dataclass
class Policy:
    """A loaded model with its tokenizer; `card` is None for a plain Hugging Face model."""

    model: Any
    tokenizer: Any
    card: Card | None = None
    name: str = ""
    revision: str = ""  # the commit of a model from the hub

    @property
    def longest(self) -> int | None:
        """Positions that the model has, where it has a limit."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit if limit and limit > 0 else None

    @property
    def end(self) -> int:
        """The token that ends a response in training: what the chat template writes there, if decoding stops at it.

        Some tokenizers name as EOS what ends a text (Gemma: <eos>) while the model ends a turn (<end_of_turn>).
        """
        from jinja2 import TemplateError

        eos: int = self.tokenizer.eos_token_id
        turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": SAID}]
        try:
            text = rendered(self.tokenizer, turns)
        except TemplateError:
            return eos
        behind = plain_ids([text.rpartition(SAID)[2].lstrip()], self.tokenizer)[0][:1]
        return behind[0] if behind and behind[0] in end_tokens(self) else eos

    @cached_property
    def pieces(self) -> list[str]:
        """The text of every token by itself; empty for special ones."""
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
            return [{} for _ in texts or ["best"]]
        parsed = [parse_target(t, card.schema, card.attributes) for t in texts]
        if not texts:
            parsed = [card.schema.unasked(card.attributes)]
        for target in parsed:
            if target and not allow_unsupported:
                card.schema.check(target)
        return parsed

    def against(self, text: str, aim: Target) -> Target:
        """Return the target that guidance moves away from: `none`, `opposite`, or one as users write it."""
        if text == "opposite" and aim and self.card and self.card.schema:
            return opposite(aim, self.card.schema)
        return {} if text in ("none", "opposite") else self.targets([text], allow_unsupported=True)[0]

    def leaks(self, text: str) -> bool:
        """Whether a condition begins in a response: only the engine `hf` blocks every way to write one."""
        card = self.card
        return card is not None and any(m in text for m in card.attributes and markers(card.attributes, card.template))


def end_tokens(policy: Policy) -> set[int]:
    """The tokens that end a response when it is drawn: the tokenizer's and those that the model names."""
    theirs = getattr(policy.model.generation_config, "eos_token_id", None)
    return {policy.tokenizer.eos_token_id, *(theirs if isinstance(theirs, list) else [theirs])} - {None}


@dataclass(frozen=True)
class Loading:
    """How weights are loaded: `quantised` in 4 bits (None: as a policy was trained), `base` another than recorded.

    `revision`: the commit of a model on the hub, else the newest.
    On the device "meta" none are: what is left knows the tokenizer, the end tokens and how many positions there are.
    """

    dtype: str = "auto"
    trust_remote_code: bool = False
    quantised: bool | None = None
    base: str = ""
    device: str = ""
    revision: str = ""


def load(name: str, *, dtype: str = "auto", trust_remote_code: bool = False, quantised: bool | None = None) -> Policy:
    """Load a Hugging Face model by name or folder, or a policy folder that `steer train` or `steer export` wrote.

    `quantised`: a plain model in 4 bits. A policy loads its base as it was trained on, in 4 bits for QLoRA.
    """
    return load_as(name, Loading(dtype, trust_remote_code, quantised))


def load_as(name: str, how: Loading) -> Policy:
    """`load` with all that can be chosen."""
    folder = Path(name)
    if (folder / "steer.json").is_file():
        return _load_policy(folder, how)
    if (folder / "adapter_config.json").is_file():
        raise SteerError(f"model '{name}': is an adapter without its base. Merge it into the base and save that first.")
    if is_run(folder):
        if (folder / "done.json").is_file():
            raise SteerError(f"model '{name}': is a run of steer that holds no policy. Give the folder of a training.")
        again = f"steer train --config {folder / 'config.json'} --output {folder}"
        raise SteerError(f"model '{name}': is a run of steer that is not finished. Finish its training: \"{again}\".")
    model, tokenizer = _pretrained(name, how)
    _complete(tokenizer, model, name)
    return Policy(model, tokenizer, None, name, how.revision or _revision(name))


def _revision(name: str) -> str:
    """The commit of a model that was loaded from the hub; empty for a folder."""
    from huggingface_hub import try_to_load_from_cache

    found = None if Path(name).is_dir() else try_to_load_from_cache(name, "config.json")
    return Path(found).parent.name if isinstance(found, str) else ""


def _pretrained(name: str, how: Loading) -> tuple[Any, Any]:
    with quiet():
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        folder = Path(name).is_dir()
        online = not folder and _online()
        known: dict[str, Any] = {"trust_remote_code": how.trust_remote_code, "local_files_only": not online}
        known |= {"revision": how.revision} if how.revision else {}
        device, dtype = how.device or _device(), _dtype(how.dtype)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **known)
            four_bit = nf4(dtype, device) if how.quantised else {}
            if device == "meta":
                model = _weightless(name, dtype, known)
            else:
                read = {"dtype": dtype, "output_loading_info": True, **known, **four_bit}
                model, loaded = AutoModelForCausalLM.from_pretrained(name, **read)
                if missing := sorted(loaded["missing_keys"]):  # they would be drawn at random
                    raise ValueError(f"its files lack {len(missing)} weights, such as {missing[0]}")
        except Exception as error:  # noqa: BLE001  # a damaged tokenizer.json raises no narrower kind
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" :.")
            if folder:
                what = f"the folder holds no model that can be read ({reason})"
            elif online:
                what = f"is no folder here, and the hub does not give it ({reason})"
            else:
                what = "is no folder here, nor in the hub's cache, and the hub cannot be reached"
            wanted = "Give a folder with config.json, weights and tokenizer, or the name of a model on the hub."
            of = f" at commit {how.revision}, which its policy was trained on" if how.revision else ""
            raise SteerError(f"model '{name}'{of}: {what}. {wanted}") from None
        refuse_nan(model.named_parameters(), f"model '{name}'")
        if getattr(model, "is_loaded_in_4bit", False):  # also a base that lies on disk like that
            keep_unpacked(model)
            if how.quantised and (whole := left_whole(model)):
                print(f"{name}: {whole:,} parameters of its experts stay in full precision.", file=sys.stderr)
        else:
            model.to(device)
        # A temperature or repetition penalty that the model recommends would bias what is sampled.
        ends = model.generation_config.eos_token_id if model.generation_config else None
        if not all(end is None or type(end) is int for end in (ends if isinstance(ends, list) else [ends])):
            raise SteerError(f"model '{name}': generation_config.json has the eos_token_id {ends!r:.40}. Restore it.")
        model.generation_config = GenerationConfig(eos_token_id=ends)
    return model, tokenizer


def _weightless(name: str, dtype: Any, known: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(name, **known)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=known["trust_remote_code"])
    here = {k: v for k, v in known.items() if k != "trust_remote_code"}
    with suppress(OSError):  # not every model has one
        model.generation_config = GenerationConfig.from_pretrained(name, **here)
    return model


def _online() -> bool:
    """Whether the model hub answers. Asked first, because the hub's own client tries for a minute where it does not."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True


def _device() -> str:
    """This process's GPU, else the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def _dtype(name: str) -> Any:
    """`auto`: bfloat16 on a GPU that has it, else float32; `stored`: as on disk."""
    if name == "auto":
        good = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if good else torch.float32
    return "auto" if name == "stored" else getattr(torch, name)


def _load_policy(folder: Path, how: Loading) -> Policy:
    card = Card.load(folder)
    if card.adapter in ("none", MERGED):
        model, tokenizer = _pretrained(str(folder / FULL if card.adapter == "none" else folder), how)
        tokenizer.chat_template = bare(tokenizer.chat_template)
        return Policy(model, tokenizer, card, str(folder))
    if not how.base and card.base_hash and not Path(card.base).is_dir():  # only a local base has a hash
        raise SteerError(f"{folder}: its base model {card.base} is gone. Put it back there or train again.")
    if not how.base and card.base_hash and fingerprint(card.base) != card.base_hash:
        raise SteerError(f"{folder}: its base model {card.base} has changed since training. Restore it or train again.")
    four_bit = card.adapter == "qlora" if how.quantised is None else how.quantised
    revision = "" if how.base else card.base_revision
    policy = load_as(how.base or card.base, replace(how, quantised=four_bit, base="", revision=revision))
    if how.device == "meta":
        return Policy(policy.model, policy.tokenizer, card, str(folder))
    token_ids = add_control_tokens(policy.model, policy.tokenizer, card.control_tokens(), 0)
    model = adapted(policy.model, folder, token_ids)
    refuse_nan(model.named_parameters(), f"model '{folder}'")
    return Policy(model, policy.tokenizer, card, str(folder))


def _complete(tokenizer: Any, model: Any, name: str) -> None:
    """What generation and batching rely on: EOS, a pad token and a chat template."""
    if tokenizer.eos_token_id is None:
        raise SteerError(
            f"model '{name}': its tokenizer has no EOS token, so responses cannot end. Set one and save it."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise SteerError(
            f"model '{name}': its tokenizer has {len(tokenizer)} tokens, more than the model's embeddings."
        )


def save(policy: Policy, folder: Path, card: Card, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write adapter or full weights, tokenizer and card; steer.json comes last. `weights`: those of a sharded model."""
    with quiet():
        where = folder / FULL if card.adapter == "none" else folder
        # PEFT would add the whole embedding matrix because the vocabulary grew; the trained rows are in the adapter.
        how = {} if card.adapter == "none" else {"save_embedding_layers": False}
        policy.model.save_pretrained(where, **how, **({"state_dict": weights} if weights else {}))
        policy.tokenizer.save_pretrained(where)
    card.save(folder)


def trainable(model: Any) -> Sequence[tuple[str, nn.Parameter]]:
    """Names and parameters that are trained, in a fixed order."""
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]
