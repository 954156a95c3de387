"""Keep texts that spell a control token texts: "<|im_end|>" in a question or in an argument ends no turn.

A chat template writes its own control tokens around the texts of turns, and in what it writes nobody can tell the two
apart. So those inside the texts get a mark before they are rendered, by which `without_marks` finds what is text only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
