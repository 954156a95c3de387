"""Read rows with Hugging Face models: the tokens of a row, and batches that waste little on padding.

A causal model reads the chat as its template writes it with the response as the last turn, so the last token is the
one that ends a turn there (without a template: the turns, the response and an end-of-sequence token, a newline between
them); an encoder reads the prompt and the response as a pair. Control tokens that a text spells stay text: none ends a
turn before its end. Rows that are longer than a model can read lose the beginning of the prompt first, then the end of
the response, and are flagged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from attribute_models import Row, device, prefix
from attribute_models.arrays import Mask, common
from attribute_models.bases import HEADS, Weights, digest, nf4, trainable
from attribute_models.literal import literal, token_ids, unembedded
from attribute_models.noise import quiet
from attribute_models.progress import note, progress
from attribute_models.templates import fitted, lost, options_of, rendered

READ_AT_ONCE = 1024  # rows tokenised while the model works on those before
BUDGET = {"cpu": 1024, "gpu": 32768}  # padded tokens in one batch; a core is fastest where they stay in its cache


TAILS = ("template", "eos")


class Tokens(NamedTuple):
    """The tokens of one row."""

    ids: list[int]
    start: int  # where the response begins in ids; its tokens go up to `end`
    end: int
    truncated: bool


class Batch(NamedTuple):
    """B rows of nearly one length, right-padded to L tokens."""

    input_ids: Tensor  # [B, L]
    attention_mask: Tensor | None  # [B, L], None where nothing is padded
    token_type_ids: Tensor | None  # [B, L], for encoders that know them
    response: Tensor  # [B, L], which tokens are the response's
    last: Tensor  # [B], the place of the last token
    ends: list[int]  # [B], the place behind the response
    position_ids: Tensor | None = None  # [B, L], if the rows are responses only
    past_key_values: Any = None  # states of their prompts, which attention_mask then includes

    def inputs(self) -> dict[str, Any]:
        """The keyword arguments of a Hugging Face model."""
        names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "past_key_values")
        inputs = {name: value for name in names if (value := getattr(self, name)) is not None}
        return inputs | ({"use_cache": True} if self.past_key_values is not None else {})


@dataclass
class Backbone:
    """A loaded model with its tokenizer."""

    model: Any
    tokenizer: Any
    name: str
    digest: str  # `bases.digest` of its files
    max_length: int
    four_bit: bool = False
    tail: str = "template"  # what follows the response: the template's end of a turn; "eos": the EOS token
    fresh: bool = False  # whether its head is new

    def __post_init__(self) -> None:
        """Find where the tokenizer puts special tokens."""
        t = self.tokenizer
        named = " ".join(getattr(self.model.config, "architectures", None) or [])
        self.encoder = t.cls_token_id is not None and "CausalLM" not in named
        self.chats = bool(t.chat_template) and not self.encoder and self.tail == "template"
        if t.pad_token_id is None:
            t.pad_token = t.eos_token or t.unk_token
        self.pad = int(t.pad_token_id) if self.encoder or self.tail == "eos" else self._filler()
        self.model.config.pad_token_id = self.model.config.get_text_config().pad_token_id = self.pad
        self.types = self.encoder and "token_type_ids" in t.model_input_names
        if self.encoder:
            self.alone, self.paired = _around(t, "a"), _around(t, "a", "b")
        else:
            empty = list(t("")["input_ids"])
            self.first = [] if t.chat_template or not empty or empty[0] != t.bos_token_id else [empty[0]]
            self.final = [] if t.eos_token_id is None else [int(t.eos_token_id)]

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def _filler(self) -> int:
        """The token that rows are padded with: the model's, else one that ends no row.

        A classifier of transformers reads the last token that is not its pad token.
        """
        t, words = self.tokenizer, self.model.get_input_embeddings().weight.shape[0]
        theirs = self.model.config.get_text_config().pad_token_id
        last = self._last()
        if theirs is not None and 0 <= theirs < words and not (self.fresh and theirs == last):
            return int(theirs)
        others = (t.pad_token_id, t.unk_token_id, t.bos_token_id, len(t) - 1, len(t) - 2)
        pad = next(i for i in others if i is not None and i != last)
        if self.fresh:  # saved with the model: others pad with the tokenizer's
            t.pad_token = t.convert_ids_to_tokens(pad)
        return int(pad)

    def _last(self) -> int | None:
        """The token that ends a row."""
        if self.chats and (tail := self._ids([ending(self.tokenizer)])[0]):
            return tail[-1]
        return None if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)

    def read(self, rows: Sequence[Row]) -> list[Tokens]:
        """Tokens of the rows; what several rows have in common is tokenised once."""
        if self.chats:
            return self._read_chats(rows)
        templated = bool(self.tokenizer.chat_template) and not self.encoder
        prompts = self._once([self._prompt(row) for row in rows], only_text=not templated)
        responses = self._ids([str(row["response"]) for row in rows], only_text=True)
        return [self._pair(prompt, response) for prompt, response in zip(prompts, responses)]

    def _pair(self, prompt: list[int], response: list[int]) -> Tokens:
        if self.encoder:
            before, between, after = self.paired if prompt else ([], *self.alone)
        else:
            before, between, after = self.first, [], self.final
        return self._joined(before, prompt, between, response, after)

    def _read_chats(self, rows: Sequence[Row]) -> list[Tokens]:
        """Tokens of whole texts, as transformers would make them, divided where the response begins and ends."""
        parts = [self._chat(row) for row in rows]
        whole = self._ids(["".join(part) for part in parts])
        before, after = (self._once([part[i] for part in parts]) for i in (0, 2))
        begin = [self.tokenizer.bos_token_id]
        tokens = []
        for ids, one, other in zip(whole, before, after):
            start = common([ids, one])
            end = len(ids) - common([ids[start:][::-1], other[::-1]])
            first = int(ids[:1] == begin and start > 0)
            tokens.append(self._joined(ids[:first], ids[first:start], [], ids[start:end], ids[end:]))
        return tokens

    def _chat(self, row: Row) -> tuple[str, str, str]:
        """Texts before the response, of it and after it, as the template writes the finished chat."""
        response = literal(str(row["response"]), self.tokenizer)
        text, tail = self._rendered(row, {"role": "assistant", "content": response}), ending(self.tokenizer)
        body, end = response.strip(), len(text) - len(tail) if text.endswith(tail) else len(text)
        start = text.rfind(body, 0, end)
        if start < 0:  # a template that rewrites it
            start, body = 0, text[:end]
        return text[:start], body, text[start + len(body) :]

    def _prompt(self, row: Row) -> str:
        if self.tokenizer.chat_template and not self.encoder:
            return self._rendered(row)
        text = "\n".join(turn["content"] for turn in row["prompt"])
        return text if self.encoder or not text else text + "\n"

    def _rendered(self, row: Row, *answer: Row) -> str:
        """Render a row's prompt with an answer, or up to where one begins; ValueError if the template drops a turn."""
        turns, options = literal([fitted(row["prompt"], self.tokenizer), options_of(row)], self.tokenizer)
        try:
            text = rendered(self.tokenizer, [*turns, *answer], add_generation_prompt=not answer, **options)
        except TemplateError as error:
            raise ValueError(f"row '{row.get('id')}': the scorer's chat template refuses it ({error}).") from None
        for i, part in lost(turns, self.tokenizer, options):
            if part == "text" and turns[i]["content"].strip() not in text:
                raise ValueError(
                    f"row '{row.get('id')}': the scorer's chat template drops turn {i + 1}, which is of the "
                    f"{turns[i]['role']}. Put its text into a turn that it prints, or leave such rows out."
                )
        return text

    def _once(self, texts: Sequence[str], *, only_text: bool = False) -> list[list[int]]:
        """Token ids of texts; every distinct one is tokenised once."""
        distinct = list(dict.fromkeys(texts))
        ids = dict(zip(distinct, self._ids(distinct, only_text=only_text)))
        return [ids[text] for text in texts]

    def _ids(self, texts: Sequence[str], *, only_text: bool = False) -> list[list[int]]:
        ids = token_ids(texts, self.tokenizer, only_text=only_text)
        if told := unembedded(ids, self.tokenizer, self.model.get_input_embeddings().weight.shape[0]):
            raise ValueError(told)
        return ids

    def _joined(
        self, before: list[int], prompt: list[int], between: list[int], response: list[int], after: list[int]
    ) -> Tokens:
        """Tokens of a row; prompt and response are cut where it is too long."""
        room = max(1, self.max_length - len(before) - len(between) - len(after))
        kept = response[:room]
        asked = prompt[max(0, len(prompt) - (room - len(kept))) :]
        ids = [*before, *asked, *between, *kept, *after]
        start = len(before) + len(asked) + len(between)
        return Tokens(ids, start, start + len(kept), len(asked) < len(prompt) or len(kept) < len(response))

    def batch(self, rows: Sequence[Tokens]) -> Batch:
        """Padded tensors of rows on the model's device."""
        ids = pad_sequence([torch.tensor(row.ids, dtype=torch.long) for row in rows], True, self.pad)
        start, end, length = torch.tensor([(row.start, row.end, len(row.ids)) for row in rows]).T[..., None]
        at = torch.arange(ids.shape[1])
        uneven = bool((length < ids.shape[1]).any())
        second = (start > len(self.alone[0])) & (at >= start) & (at < length) if self.types else None
        return Batch(
            ids.to(self.device),
            (at < length).long().to(self.device) if uneven else None,
            second.long().to(self.device) if second is not None else None,
            ((at >= start) & (at < end)).to(self.device),
            (length[:, 0] - 1).to(self.device),
            [row.end for row in rows],
        )

    def made_up(self, *sizes: tuple[int, int]) -> list[Tokens]:
        """Make up rows with prompts of (tokens, seed) and responses of 2 tokens, to compare two ways of computing."""
        words = self.model.get_input_embeddings().weight.shape[0]
        rows = []
        for i, (n, k) in enumerate(sizes):
            ids = [*((7 * j + k) % words for j in range(n)), (11 + i) % words, (12 + i) % words]
            rows.append(Tokens(ids, n, n + 2, False))
        return rows

    @cached_property
    def shares(self) -> bool:
        """Whether candidates can share the states of their prompt."""
        return prefix.works(self)

    def map(
        self, rows: Sequence[Row], compute: Callable[[Batch], Tensor], budget: int = 0, *, share: bool = False
    ) -> tuple[NDArray[np.float32], Mask]:
        """Apply compute(batch) [B, D] to all rows, in their order [n, D]; also say which were truncated [n].

        Rows are sorted by length and cut into batches of at most `budget` padded tokens (0: BUDGET of the device);
        the next READ_AT_ONCE rows are tokenised while the model works. `share`: a prompt is computed once for all its
        rows, if the model can; `compute` then gets batches of responses.
        """
        budget = budget or BUDGET["cpu" if self.device.type == "cpu" else "gpu"]
        outputs: list[NDArray[np.float32]] = []
        flags: list[bool] = []
        self.model.eval()

        def work(chosen: list[Tokens], shared: bool) -> NDArray[np.float32]:
            with torch.inference_mode():
                values = compute(prefix.batch(self, chosen) if shared else self.batch(chosen))
                bar.update(len(chosen))
                return np.asarray(values.float().cpu().numpy())

        bar = progress(total=len(rows), what="score")
        with bar, ThreadPoolExecutor(1) as ahead, one_core_each(self.threads) as pool:
            chunks = [rows[start : start + READ_AT_ONCE] for start in range(0, len(rows), READ_AT_ONCE)]
            waiting = [ahead.submit(self.read, chunk) for chunk in chunks[:1]]
            for n in range(len(chunks)):
                tokens = waiting.pop().result()
                waiting += [ahead.submit(self.read, chunk) for chunk in chunks[n + 1 : n + 2]]
                together = list(prefix.parts(tokens, budget)) if share and self.shares else []
                alone = sorted({*range(len(tokens))} - {i for part in together for i in part})
                places = buckets([len(tokens[i].ids) for i in alone], budget)
                parts = together + [[alone[i] for i in part] for part in places]
                chosen = [[tokens[i] for i in part] for part in parts]
                shared = [n < len(together) for n in range(len(parts))]
                order = np.argsort(np.concatenate(parts), kind="stable")
                outputs.append(np.concatenate(list(pool.map(work, chosen, shared)))[order])
                flags += [row.truncated for row in tokens]
        return np.concatenate(outputs) if outputs else np.zeros((0, 0), np.float32), np.asarray(flags, dtype=np.bool_)

    @property
    def threads(self) -> int:
        """Number of batches computed at the same time: on a CPU as many as torch has threads."""
        config = self.model.config
        rope = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
        stateful = "dynamic" in rope or "longrope" in rope  # a forward pass sets the frequencies that it needs
        return 1 if self.device.type != "cpu" or self.four_bit or stateful else torch.get_num_threads()


@contextmanager
def one_core_each(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads; if there are several, torch computes on one core in each of them.

    That is as fast as several cores on one batch, and the result does not depend on the number of threads.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "", torch.set_num_threads, (before if count == 1 else 1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # new threads begin with this number


def buckets(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices by falling length, cut so that a batch holds at most `budget` padded tokens; a longer row is alone."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    part: list[int] = []
    for i in order:
        if part and lengths[part[0]] * (len(part) + 1) > budget:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def load(
    name: str,
    auto: str,
    *,
    max_length: int = 1024,
    trust_remote_code: bool = False,
    four_bit: bool = False,
    tail: str = "template",
    **more: Any,
) -> Backbone:
    """Load a model by folder or hub name through the class `auto` of transformers (`AutoModel`, ...), with tokenizer.

    ValueError if there is none; bfloat16 on a GPU that has it, else float32, or `four_bit` for adapters. `tail`: of
    `Backbone`. `more`: arguments of the model; with `num_labels` its head is new.
    """
    if not name:
        raise ValueError("No base model is named. Give one with --model FOLDER_OR_NAME.")
    weights = Weights.of(name)
    if weights.file and four_bit:
        raise ValueError(
            f"model '{name}': GGUF weights cannot be loaded in 4 bits. Take adapter=lora, or other weights."
        )
    if weights.file:
        note(weights.note(name))
    with quiet():
        import transformers

        trust = {"trust_remote_code": trust_remote_code}
        more |= nf4(whole=HEADS) if four_bit else {}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(**weights.source, **trust)
            kind = getattr(transformers, auto)
            dtype = torch.bfloat16 if device.has_bfloat16() else torch.float32
            fresh = "num_labels" in more
            more |= {"output_loading_info": True, "ignore_mismatched_sizes": fresh}  # a base may have another head
            model, loaded = kind.from_pretrained(dtype=dtype, **weights.whole, **trust, **more)
            others = {key if isinstance(key, str) else key[0] for key in loaded["mismatched_keys"]}
            _whole(model, {*loaded["missing_keys"], *others}, fresh=fresh)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            if "trust_remote_code" in str(error):
                advice = (
                    "Read it, and give --trust-remote-code if you trust it (in a fit: --set trust_remote_code=true)"
                )
                raise ValueError(f"model '{name}': comes with code of its own, which is not run. {advice}.") from None
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" :.")
            wanted = "Give a folder with config.json, weights and tokenizer, or the name of a model on the hub"
            raise ValueError(f"model '{name}': cannot be read ({reason}). {wanted}.") from None
    longest = getattr(model.config, "max_position_embeddings", None) or max_length
    if getattr(model.config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        longest -= 2  # their positions begin at 2
    model = trainable(model) if four_bit else model.to(device.own())
    return Backbone(model, tokenizer, name, digest(name, model), min(max_length, longest), four_bit, tail, fresh)


def _whole(model: Any, missing: Collection[str], *, fresh: bool) -> None:
    """ValueError for missing or non-finite weights; a pooler is not used, and a head may be missing where `fresh`."""
    base = f"{model.base_model_prefix}."
    if lost := sorted(n for n in missing if "pooler" not in n and (n.startswith(base) or not fresh)):
        raise ValueError(f"its files lack {len(lost)} weights, such as {lost[0]}")
    for part, weights in model.named_parameters():
        if weights.is_floating_point() and part not in missing and not torch.isfinite(weights).all():
            raise ValueError(f"its weights hold NaN or infinity, in {part}")


def check_tail(tail: str) -> None:
    """ValueError for an unknown `tail` of `Backbone`."""
    if tail not in TAILS:
        raise ValueError(f"tail is {tail!r}. Choose one of {', '.join(TAILS)}.")


def ending(tokenizer: Any) -> str:
    """Return what the chat template writes after the last turn of an assistant; empty if it refuses a plain chat."""
    return _ending(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=100)
def _ending(tokenizer: Any, template: str) -> str:
    """Compute `ending`; `template` is part of the cache key."""
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "mark0of"}]
    try:
        return rendered(tokenizer, turns).rpartition("mark0of")[2]
    except TemplateError:
        return ""


def _around(tokenizer: Any, *texts: str) -> tuple[list[int], ...]:
    """The special tokens before, between and after one text or two."""
    ids = list(tokenizer(*texts)["input_ids"])
    between, start = [], 0
    for text in texts:
        own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        at = next(i for i in range(start, len(ids)) if ids[i : i + len(own)] == own)
        between.append(ids[start:at])
        start = at + len(own)
    return (*between, ids[start:])
