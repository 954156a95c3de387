"""Escape control tokens inside texts, so that "<|im_end|>" in a question or in an argument ends no turn.

A chat template writes its own control tokens around the texts of turns, and in what it writes nobody can tell the two
apart. So those inside the texts get a mark before they are rendered, by which `token_ids` finds what is text only. The
ids are those of `apply_chat_template(..., sanitize_control_tokens=True)` of transformers, which returns no text that a
condition could be put into, and refuses tokenizers that make control tokens of plain text, as Unigram ones do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from jinja2 import TemplateError

from attribute_models.templates import rendered

MARK = "steerliteral"  # stands before a control token that is text while a template is rendered, and before itself


def literal(value: Any, tokenizer: Any) -> Any:
    """Return turns, or what else a template is given, with a mark before each control token in a text."""
    tokens, starts = _finding(tokenizer)

    def marked(inner: Any) -> Any:
        if isinstance(inner, str):  # most texts have nothing that a control token begins with
            return tokens.sub(rf"{MARK}\g<0>", inner) if any(map(inner.__contains__, starts)) else inner
        if isinstance(inner, Mapping):
            return {key: marked(each) for key, each in inner.items()}
        return [*map(marked, inner)] if isinstance(inner, list | tuple) else inner

    return marked(value)


def token_ids(texts: Sequence[str], tokenizer: Any, *, only_text: bool = False) -> list[list[int]]:
    """Tokenise texts without adding tokens: control tokens are recognised, but for those with a mark.

    `only_text`: none is recognised, and the texts have no marks.
    """
    texts = literal(texts, tokenizer) if only_text else texts
    plain = iter(_encoded([text for text in texts if MARK not in text], tokenizer))
    return [_divided(text, tokenizer) if MARK in text else next(plain) for text in texts]


def unembedded(ids: Sequence[Sequence[int]], tokenizer: Any, rows: int) -> str:
    """Say which token is beyond the `rows` of the model's embeddings (Gemma 3's tokenizer has one); empty: none is."""
    if len(tokenizer) <= rows or (beyond := next((i for each in ids for i in each if i >= rows), None)) is None:
        return ""
    token = tokenizer.convert_ids_to_tokens(beyond)
    return f"a text holds {token}, a token that the model has no embedding of. Take it out."


def _divided(text: str, tokenizer: Any) -> list[int]:
    """Tokenise a text with marks: what has one by itself, as text."""
    tokens, _ = _finding(tokenizer)
    first, *others = re.split(f"{MARK}({tokens.pattern})", text)
    encode = _encoder(tokenizer)
    ids = encode(first)
    for number, part in enumerate(others):
        ids += _inside(part, encode) if number % 2 else _as_text(tokenizer, part)
    return ids


def _encoded(texts: list[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Return what tokenises one text."""
    return lambda text: _encoded([text], tokenizer)[0]


def _inside(part: str, encode: Callable[[str], list[int]]) -> list[int]:
    """Tokenise a part that does not begin a text: some tokenizers put a space before all that does."""
    if not part:
        return []
    newline, whole = encode("\n"), encode(f"\n{part}")
    return whole[len(newline) :] if whole[: len(newline)] == newline else encode(part)


@lru_cache(maxsize=10_000)
def _as_text(tokenizer: Any, name: str) -> tuple[int, ...]:
    """Tokenise the name of a control token as a text inside another one."""
    names = _names(tokenizer, str(tokenizer.chat_template), len(tokenizer))
    control = {tokenizer.convert_tokens_to_ids(each) for each in names} - {tokenizer.unk_token_id}
    if hasattr(tokenizer, "backend_tokenizer"):
        ids = _inside(name, partial(_without_added, tokenizer.backend_tokenizer))
        if ids and control.isdisjoint(ids):
            return tuple(ids)
    # The vocabulary has the name too, or there is no way past added tokens: no part of the name is one.
    encode = _encoder(tokenizer)
    for cut in range(1, len(name)):
        ids = [*_inside(name[:cut], encode), *_inside(name[cut:], encode)]
        if control.isdisjoint(ids):
            return tuple(ids)
    return tuple(i for letter in name for i in _inside(letter, encode))


def _without_added(backend: Any, text: str) -> list[int]:
    """Tokenise a text by the vocabulary alone, without tokens that were added to it."""
    text = backend.normalizer.normalize_str(text) if backend.normalizer else text
    parts = [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
    return [token.id for part in parts for token in backend.model.tokenize(part)]


def _finding(tokenizer: Any) -> tuple[re.Pattern[str], frozenset[str]]:
    """Return what finds control tokens, and the mark, in a text, and what a text with any of them has."""
    return _pattern(_names(tokenizer, str(tokenizer.chat_template), len(tokenizer)))


@lru_cache(maxsize=100)
def _pattern(names: frozenset[str]) -> tuple[re.Pattern[str], frozenset[str]]:
    longest = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, [MARK, *longest]))), frozenset({MARK, *(name[0] for name in names)})


@lru_cache(maxsize=100)
def _names(tokenizer: Any, template: str, size: int) -> frozenset[str]:
    """Control tokens: special ones, and added ones that the template writes around turns, as some models have them.

    Tags of thoughts are none: templates read them in the answers of a conversation. `template` and `size`, that of the
    vocabulary, are part of the cache key.
    """
    added = tokenizer.added_tokens_decoder.values()
    shown = _around_turns(tokenizer) if tokenizer.chat_template else ""
    control = (str(token) for token in added if token.special or (str(token).strip() and str(token) in shown))
    names = {*control, *tokenizer.all_special_tokens}
    return frozenset(name for name in names if name and "think" not in name.lower())


def _around_turns(tokenizer: Any) -> str:
    """Render plain chats, in the roles that the template has."""
    asked, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
    texts = []
    for turns in ([{"role": "system", "content": "x"}, asked], [asked, answer, asked], [asked, answer]):
        try:
            texts.append(rendered(tokenizer, turns, add_generation_prompt=turns[-1] is asked))
        except TemplateError:
            continue
    return "\n".join(texts)
