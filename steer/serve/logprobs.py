"""Log-probabilities of drawn tokens in OpenAI's two shapes, sent together with the text they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from steer.generation.decoder import TokenLogps
from steer.generation.text import LOST, Text
from steer.models.policy import Policy

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what tokenizers write for a space before a word


class Place(NamedTuple):
    """A drawn token: where its text begins in the response, and its log-probabilities."""

    begins: int
    token: int
    logps: TokenLogps
    inside: bool  # whether text stands before it


def take_ready(waiting: list[Place], text: Text, *, ended: bool) -> list[Place]:
    """Take the tokens whose text is sent by now; with the last part all, except what a stop text cut off."""
    whole = ended and not text.stopped
    ready = [place for place in waiting if whole or place.begins < text.emitted]
    del waiting[: len(ready)]
    return ready


def of_chat(places: Sequence[Place], policy: Policy) -> dict[str, Any]:
    """Format as /v1/chat/completions does."""

    def entry(inside: bool, token: int, logp: float) -> dict[str, Any]:
        text = _text(inside, token, policy)
        return {"token": text, "logprob": logp, "bytes": None if LOST in text else list(text.encode())}

    content = [
        {
            **entry(p.inside, p.token, p.logps.drawn),
            "top_logprobs": [entry(p.inside, *likely) for likely in p.logps.likeliest],
        }
        for p in places
    ]
    return {"content": content, "refusal": None}


def of_completions(places: Sequence[Place], policy: Policy) -> dict[str, Any]:
    """Format as /v1/completions does."""
    return {
        "tokens": [_text(p.inside, p.token, policy) for p in places],
        "token_logprobs": [p.logps.drawn for p in places],
        "top_logprobs": [{_text(p.inside, token, policy): logp for token, logp in p.logps.likeliest} for p in places],
        "text_offset": [p.begins for p in places],
    }


def _text(inside: bool, token: int, policy: Policy) -> str:
    """Return a token's text, without its space where no text stands before it; its name if it has no text."""
    text, name = policy.pieces[token], str(policy.tokenizer.convert_ids_to_tokens(token))
    if not text:
        return name
    return f" {text}" if inside and name.startswith(SPACE) and not text.startswith(" ") else text
