"""Fit a chat template that prints conditions to a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from steer.conditioning.chat import bare, rendered, steerable
from steer.conditioning.condition import TEMPLATES, render
from steer.conditioning.turns import UnprintedError
from steer.errors import SteerError
from steer.models.tokenization import plain_ids, prompt_text, turns_parts
from steer.rows.schema import Schema

PROBES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello."}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "What is 2?"},
    ],
)


def fitting(tokenizer: Any, schema: Schema, names: Sequence[str], template: str) -> tuple[Any, int]:
    """Return a steerable chat template for a tokenizer, and the number of conditions that it tokenises differently.

    It sets `tokenizer.chat_template` back to the base's. Training tokenises prompt and condition apart, a server the
    whole text. If a tokenizer begins every text with a space, the whole text needs that space before the condition to
    give the same tokens.
    """
    base = tokenizer.chat_template = bare(tokenizer.chat_template)
    single = [{n: i} for n in names for i in range(len(schema[n].shown))]
    every = [{n: len(schema[n].shown) - 1 for n in names}, dict.fromkeys(names, 0)]
    conditions = [render(levels, schema, names, template) for levels in [*single, *every]]
    prompts = [turns_parts(p, tokenizer, template) for p in PROBES if _accepted(p, tokenizer)]

    def differing(glue: str) -> int:
        return sum(any(_whole(p, glue + c, tail) != _apart(p, c + tail) for p, tail in prompts) for c in conditions)

    def _whole(*parts: str) -> list[int]:
        return plain_ids(["".join(parts)], tokenizer)[0]

    def _apart(*parts: str) -> list[int]:
        return [token for ids in plain_ids(parts, tokenizer) for token in ids]

    counts = {glue: differing(glue) for glue in (("",) if TEMPLATES[template].in_turn else ("", " "))}
    glue = min(counts, key=lambda g: (counts[g], g))
    if isinstance(base, dict):
        return {k: steerable(v, schema, names, template, glue) for k, v in base.items()}, counts[glue]
    return steerable(base, schema, names, template, glue), counts[glue]


def _accepted(prompt: list[dict[str, str]], tokenizer: Any) -> bool:
    try:
        prompt_text(prompt, tokenizer)
    except (TemplateError, UnprintedError):  # some templates accept no earlier turns
        return False
    return True


def refuse_late_text(tokenizer: Any, model: str, attributes: Mapping[str, int | str]) -> None:
    """Refuse a template that writes more before the last answer than its generation prompt, by which trl masks."""
    for prompt in (p for p in PROBES if _accepted(p, tokenizer)):
        begun: str = rendered(tokenizer, prompt, add_generation_prompt=True, attributes=attributes)
        whole: str = rendered(tokenizer, [*prompt, {"role": "assistant", "content": "Four."}], attributes=attributes)
        if not whole.startswith(begun):
            raise SteerError(
                f"{model}: its chat template writes something before the last answer that its generation prompt lacks, "
                "so `trl sft` would mask the wrong tokens. Take it out of the template, or use steer train."
            )
