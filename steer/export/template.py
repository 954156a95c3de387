"""Fit a chat template that prints conditions to a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from steer.conditioning.chat import NONE, bare, fitted, in_parts, lost, opened, rendered, steerable, wants_parts
from steer.conditioning.condition import TEMPLATES, render
from steer.conditioning.finished import Place, calls_apart, generation_prompt, place_of
from steer.conditioning.turns import begun
from steer.errors import SteerError
from steer.models.tokenization import plain_ids, turns_parts
from steer.rows.schema import Schema

PROBES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello."}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "What is 2?"},
    ],
)
_DECLARED = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}]
_CALL = {"id": "000000000", "type": "function", "function": {"name": "f", "arguments": {}}}
_CALLED: list[dict[str, Any]] = [
    *PROBES[0],
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "x", "tool_call_id": "000000000"},
]
# Conversations, and what else a client gives the template, in which answers may stand in different places.
KINDS: tuple[tuple[Sequence[dict[str, Any]], dict[str, Any]], ...] = (
    *((probe, {}) for probe in PROBES),
    *((probe, {"enable_thinking": on, "thinking": on}) for probe in PROBES for on in (True, False)),
    (_CALLED, {"tools": _DECLARED}),
)


def fitting(
    tokenizer: Any, schema: Schema, names: Sequence[str], template: str, thinking: str = "drop"
) -> tuple[Any, int]:
    """Return a steerable chat template for a tokenizer, and the number of conditions that it tokenises differently.

    It sets `tokenizer.chat_template` back to the base's. Training tokenises prompt and condition apart, a server the
    whole text. If a tokenizer begins every text with a space, the whole text needs that space before the condition to
    give the same tokens. `thinking`: what training did with thoughts.
    """
    base = tokenizer.chat_template = bare(tokenizer.chat_template)
    single = [{n: i} for n in names for i in range(len(schema[n].shown))]
    every = [{n: len(schema[n].shown) - 1 for n in names}, dict.fromkeys(names, 0)]
    conditions = [render(levels, schema, names, template) for levels in [*single, *every]]
    prompts = [turns_parts(p, tokenizer, template, thinking=thinking) for p in PROBES if _accepted(p, tokenizer)]

    def differing(glue: str) -> int:
        return sum(any(_whole(p, glue + c, tail) != _apart(p, c + tail) for p, tail in prompts) for c in conditions)

    def _whole(*parts: str) -> list[int]:
        return plain_ids(["".join(parts)], tokenizer)[0]

    def _apart(*parts: str) -> list[int]:
        return [token for ids in plain_ids(parts, tokenizer) for token in ids]

    counts = {glue: differing(glue) for glue in (("",) if TEMPLATES[template].in_turn else ("", " "))}
    glue, place = min(counts, key=lambda g: (counts[g], g)), late_place(tokenizer, thinking)
    return _each(base, lambda text: steerable(text, schema, names, template, glue, place)), counts[glue]


def finishing(tokenizer: Any, thinking: str) -> Any:
    """Return a chat template whose generation prompt ends where answers of a policy without conditions stand."""
    base, place = bare(tokenizer.chat_template), late_place(tokenizer, thinking)
    return _each(base, lambda text: opened(text, place) if place else text)


def _each(base: Any, change: Callable[[str], str]) -> Any:
    """Change a template, or each of several by name."""
    return {name: change(text) for name, text in base.items()} if isinstance(base, dict) else change(base)


def late_place(tokenizer: Any, thinking: str) -> Place | None:
    """Return where answers stand, if the base's generation prompt ends elsewhere; else None."""
    for prompt, options in ((fitted(p, tokenizer), o) for p, o in KINDS):
        if not _accepted(prompt, tokenizer, options):
            continue
        if begun(prompt, tokenizer, options, thinking) != generation_prompt(prompt, tokenizer, options):
            place = place_of(prompt, tokenizer, options, thinking)
            apart = thinking == "drop" and calls_apart(PROBES[0], tokenizer, {"tools": _DECLARED})
            place = place._replace(apart=apart)
            if place.answer and wants_parts(tokenizer, str(tokenizer.chat_template)):
                return place._replace(answer=tuple((n, in_parts(x) if n == "content" else x) for n, x in place.answer))
            return place
    return None


def _accepted(prompt: Sequence[dict[str, Any]], tokenizer: Any, options: Mapping[str, Any] = NONE) -> bool:
    try:
        generation_prompt(prompt, tokenizer, options)
    except TemplateError:  # some templates accept no earlier turns
        return False
    return not lost(prompt, tokenizer, options)


def refuse_late_text(tokenizer: Any, model: str, attributes: Mapping[str, int | str]) -> None:
    """Refuse a template that writes more before the last answer than its generation prompt, by which trl masks."""
    for prompt in (p for p in PROBES if _accepted(p, tokenizer)):
        before: str = rendered(tokenizer, prompt, add_generation_prompt=True, attributes=attributes)
        whole: str = rendered(tokenizer, [*prompt, {"role": "assistant", "content": "Four."}], attributes=attributes)
        if not whole.startswith(before):
            raise SteerError(
                f"{model}: its chat template writes something before the last answer that its generation prompt lacks, "
                "so `trl sft` would mask the wrong tokens. Take it out of the template, or use steer train."
            )
