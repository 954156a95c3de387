"""Keep texts that spell a control token texts: "<|im_end|>" in a question or in an argument ends no turn.

A chat template writes its own control tokens around the texts of turns, and in what it writes nobody can tell the two
apart. So those inside the texts get a mark before they are rendered, by which `token_ids` finds what is text only. The
ids are those of `apply_chat_template(..., sanitize_control_tokens=True)` of transformers, which returns no text that a
condition could be put into, and refuses tokenizers that make control tokens of plain text, as Unigram ones do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from attribute_models.templates import rendered

MARK = "steerliteral"  # stands before a control token that is text while a template is rendered, and before itself


def literal(value: Any, tokenizer: Any) -> Any:
    """Return turns, or what else a template is given, with a mark before each control token in a text."""
    tokens = _marked_or_not(tokenizer)

    def marked(inner: Any) -> Any:
        if isinstance(inner, str):
            return tokens.sub(rf"{MARK}\g<0>", inner)
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


def _divided(text: str, tokenizer: Any) -> list[int]:
    """Tokenise a text with marks: what has one by itself, as text."""
    first, *others = re.split(f"{MARK}({_marked_or_not(tokenizer).pattern})", text)
    [ids] = _encoded([first], tokenizer)
    for number, part in enumerate(others):
        ids += _inside(part, tokenizer) if number % 2 else _as_text(tokenizer, part)
    return ids


def _encoded(texts: list[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _inside(part: str, tokenizer: Any) -> list[int]:
    """Tokenise a part that does not begin a text: some tokenizers put a space before all that does."""
    if not part:
        return []
    newline, whole, alone = _encoded(["\n", f"\n{part}", part], tokenizer)
    return whole[len(newline) :] if whole[: len(newline)] == newline else alone


@lru_cache(maxsize=10_000)
def _as_text(tokenizer: Any, name: str) -> tuple[int, ...]:
    """Tokenise the name of a control token as a text inside another one."""
    names = _names(tokenizer, str(tokenizer.chat_template))
    control = {tokenizer.convert_tokens_to_ids(each) for each in names} - {tokenizer.unk_token_id}
    if hasattr(tokenizer, "backend_tokenizer"):
        newline, whole = (_without_added(tokenizer.backend_tokenizer, text) for text in ("\n", f"\n{name}"))
        ids = whole[len(newline) :]
        if whole[: len(newline)] == newline and ids and control.isdisjoint(ids):
            return tuple(ids)
    # The vocabulary has the name too, or there is no way past added tokens: no part of the name is one.
    for cut in range(1, len(name)):
        ids = [*_inside(name[:cut], tokenizer), *_inside(name[cut:], tokenizer)]
        if control.isdisjoint(ids):
            return tuple(ids)
    return tuple(i for letter in name for i in _inside(letter, tokenizer))


def _without_added(backend: Any, text: str) -> list[int]:
    """Tokenise a text by the vocabulary alone, without tokens that were added to it."""
    text = backend.normalizer.normalize_str(text) if backend.normalizer else text
    parts = [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
    return [token.id for part in parts for token in backend.model.tokenize(part)]


def _marked_or_not(tokenizer: Any) -> re.Pattern[str]:
    """Return what finds control tokens, and the mark, in a text."""
    return _pattern(tokenizer, str(tokenizer.chat_template), len(tokenizer))


@lru_cache(maxsize=100)
def _pattern(tokenizer: Any, template: str, size: int) -> re.Pattern[str]:
    """Compute `_marked_or_not`; template and size of the vocabulary are part of the cache key."""
    longest = sorted(_names(tokenizer, template), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, [MARK, *longest])))


def _names(tokenizer: Any, template: str) -> frozenset[str]:
    """Control tokens: special ones, and added ones that the template writes around turns, as some models have them.

    Tags of thoughts are none: templates read them in the answers of a conversation.
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
