"""Options that a policy's chat template is always given, such as the one that turns the thinking of its family on.

Some templates think only when they are asked to. The option that asks is found by rendering with it on and off.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from attribute_models.templates import RESERVED, SWITCH, rendered
from steer.errors import SteerError

# Options by which public templates turn thinking on: their names, and a value for on and for off.
KNOWN: tuple[tuple[str, Any, Any], ...] = (
    ("enable_thinking", True, False),
    ("thinking", True, False),
    ("reasoning", True, False),
    ("reasoning_effort", "high", "none"),
    ("reasoning_effort", "high", "no_think"),
)
_ASKED: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "x"}],
    [{"role": "system", "content": "y"}, {"role": "user", "content": "x"}],
)
_END = "{{ '' }}{# end of options that are always given #}{{ '' }}"


class Switch(NamedTuple):
    """An option that turns thinking on and off; `default`: whether a family thinks where nobody says."""

    name: str
    on: Any
    off: Any
    default: bool


def switch_of(tokenizer: Any) -> Switch | None:
    """Find the option of a family's chat template that turns thinking on; None if it has none that is known.

    Values that a policy's template is always given do not count.
    """
    template = tokenizer.chat_template
    template = template.get("default", "") if isinstance(template, dict) else template
    return _switch(tokenizer, template.rpartition(_END)[2])


@lru_cache(maxsize=100)
def _switch(tokenizer: Any, template: str) -> Switch | None:
    """Compute `switch_of` for a template."""
    plain = _written(tokenizer, template, {})
    for name, on, off in KNOWN:
        if not re.search(rf"\b{name}\b", template):
            continue
        thinks, answers = (_written(tokenizer, template, {name: value}) for value in (on, off))
        if isinstance(off, str) and answers != plain:
            continue  # it prints any text, as gpt-oss does
        if any(a and b and a != b for a, b in zip(thinks, answers)):
            return Switch(name, on, off, plain != answers)
    return None


def _written(tokenizer: Any, template: str, options: Mapping[str, Any]) -> list[str]:
    """Render prompts by a template with some options; empty where it refuses them."""
    texts = []
    for turns in _ASKED:
        try:
            texts.append(rendered(tokenizer, turns, add_generation_prompt=True, chat_template=template, **options))
        except TemplateError:
            texts.append("")
    return texts


def parsed_options(pairs: Sequence[str], template: str) -> dict[str, Any]:
    """Read NAME=VALUE texts as options of a chat template; SteerError for one that it does not read.

    Values are true, false and numbers as JSON writes them; all others are texts.
    """
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise SteerError(f"--template-option {pair}: write NAME=VALUE, such as enable_thinking=true.")
        if name in RESERVED or not re.search(rf"\b{name}\b", template):
            raise SteerError(f"--template-option {pair}: the model's chat template does not read '{name}'.")
        options[name] = _value(text)
    return options


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)) else text


def with_defaults(template: Any, options: Mapping[str, Any]) -> Any:
    """Return a chat template, or each of several by name, with values for options that a caller leaves out."""
    if isinstance(template, dict):
        return {name: with_defaults(text, options) for name, text in template.items()}
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in options.items()}
    sets = [f"{{%- set {n} = {n} if {n} is defined else {value} -%}}" for n, value in values.items()]
    begin = "".join([*sets, _END]) if sets else ""
    return template if template.startswith(begin) else begin + template


def word_of(prompt: Sequence[Mapping[str, Any]]) -> str:
    """Return the last word of a prompt by which families turn thinking on or off (`/think`), "" if there is none."""
    texts = [turn["content"] for turn in prompt if turn["role"] not in ("assistant", "tool")]
    return next((words[-1] for text in reversed(texts) if (words := SWITCH.findall(text))), "")
