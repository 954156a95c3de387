"""Keep texts that spell a control token texts: "<|im_end|>" in a question or in an argument ends no turn.

A chat template writes its own control tokens around the texts of turns, and in what it writes nobody can tell the two
apart. So those inside the texts get a mark before they are rendered, by which `token_ids` finds what is text only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

MARK = "steerliteral"  # stands before a control token that is text while a template is rendered


def literal(value: Any, tokenizer: Any) -> Any:
    """Return turns, or what else a template is given, with a mark before each control token in a text."""
    tokens, firsts = _control(tokenizer, len(tokenizer))

    def marked(inner: Any) -> Any:
        if isinstance(inner, str):
            return tokens.sub(rf"{MARK}\g<0>", inner) if any(map(inner.__contains__, firsts)) else inner
        if isinstance(inner, Mapping):
            return {key: marked(each) for key, each in inner.items()}
        return [*map(marked, inner)] if isinstance(inner, list | tuple) else inner

    return marked(value)


def token_ids(texts: Sequence[str], tokenizer: Any, *, only_text: bool = False) -> list[list[int]]:
    """Tokenise texts without adding tokens: control tokens are recognised, but for those with a mark.

    `only_text`: none is recognised.
    """
    if not texts:
        return []
    if not only_text and any(MARK in text for text in texts):
        others = iter(token_ids([text for text in texts if MARK not in text], tokenizer))
        return [_divided_ids(text, tokenizer) if MARK in text else next(others) for text in texts]
    how: dict[str, Any] = {"add_special_tokens": False, "split_special_tokens": only_text, "verbose": False}
    ids: list[list[int]] = tokenizer(list(texts), **how)["input_ids"]
    return ids


def _divided_ids(text: str, tokenizer: Any) -> list[int]:
    parts = without_marks(text, tokenizer)
    return [i for part, only in parts for i in token_ids([part], tokenizer, only_text=only)[0]]


def without_marks(text: str, tokenizer: Any) -> list[tuple[str, bool]]:
    """Divide what a template wrote; whether each part is text only. Marks are taken out.

    Control tokens of the template part texts from each other, as in a tokenizer.
    """
    tokens, _ = _control(tokenizer, len(tokenizer))
    found: list[tuple[str, bool]] = []
    end = 0
    own = [m.span() for m in tokens.finditer(text) if not text.endswith(MARK, 0, m.start())]
    for start, after in [*own, (len(text), len(text))]:
        for part, only in ((text[end:start], MARK in text[end:start]), (text[start:after], False)):
            before, plain = found.pop() if found and found[-1][1] == only else ("", only)
            found.append((before + part.replace(MARK, ""), plain))
        end = after
    return [(part, only) for part, only in found if part]


@lru_cache(maxsize=100)
def _control(tokenizer: Any, size: int) -> tuple[re.Pattern[str], frozenset[str]]:
    """Return what finds control tokens in a text, and their first letters; `size` is part of the cache key.

    Tags of thoughts are none: templates read them in the answers of a conversation.
    """
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    names = {name for name in (*added, *tokenizer.all_special_tokens) if name and "think" not in name.lower()}
    longest = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)"), frozenset(name[0] for name in names)
