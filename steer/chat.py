"""Chat templates that print the condition, so that unmodified servers and clients steer.

The template of an exported policy is that of its base, and around it: the condition, made from a variable `attributes`
(`{"quality": 4}`), behind the assistant marker. Integers are clamped to the levels that exist, names that are unknown
are passed over, whatever is no integer counts as 0: no text of a client reaches the prompt through it. Attributes that
are not named are left out; where nothing is asked for, the best combination that the data supports is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from steer.condition import TEMPLATES, written
from steer.schema import AttributeSchema

# For models without a chat template: messages one after the other; a response ends with EOS, a prompt with a newline.
PLAIN = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }}"
    "{% if loop.last and m.role == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
)
_BEGIN, _END = "{{ '' }}{# base template #}{{ '' }}", "{{ '' }}{# end of the base template #}{{ '' }}"
# Whitespace around these parts is the base's own: expressions, unlike blocks, leave what stands beside them.
_BEFORE = """
{%- set steer = namespace(text='') -%}
{%- set steer_levels = LEVELS -%}
{%- set steer_lowest = LOWEST -%}
{%- set steer_asked = attributes if attributes is defined and attributes is mapping else BEST -%}
{%- for name, texts in steer_levels.items() -%}
{%- if name in steer_asked and steer_asked[name] is not none -%}
{%- set level = steer_asked[name] | string | int - steer_lowest[name] -%}
{%- set last = texts | length - 1 -%}
{%- set level = 0 if level < 0 else (last if level > last else level) -%}
{%- set steer.text = steer.text ~ (BETWEEN if steer.text else START) ~ texts[level] -%}
{%- endif -%}
{%- endfor -%}
{%- if steer.text -%}{%- set steer.text = GLUE ~ steer.text ~ AFTER -%}{%- endif -%}
{%- if messages and messages[-1]['role'] == 'assistant' and messages[-1]['content'] is string -%}
{%- set messages = messages[:-1] + [dict(messages[-1], content=steer.text ~ messages[-1]['content'])] -%}
{%- endif -%}
""".strip()
_AFTER = "{%- if add_generation_prompt is defined and add_generation_prompt -%}{{ steer.text }}{%- endif -%}"


def steerable(
    base: str, schema: AttributeSchema, names: Sequence[str], template: str, best: Mapping[str, int], glue: str = ""
) -> str:
    """The base's chat template with the condition over `names` in it; `glue` stands before a condition."""
    layout = TEMPLATES[template]
    lowest = {n: _integer(schema, n, 0) for n in names}
    values = {
        "LEVELS": dict(zip(names, written(schema, names, template))),
        "LOWEST": lowest,
        "BEST": asked(best, schema),
        "BETWEEN": layout.between,
        "START": layout.start,
        "GLUE": glue,
        "AFTER": layout.end,
    }
    filled = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    before = re.sub("|".join(filled), lambda found: filled[found[0]], _BEFORE)
    return before + _BEGIN + base.removesuffix("\n") + _END + _AFTER


def bare(template: Any) -> Any:
    """The base's own template out of a steerable one, each of several by name; any other as it is."""
    if isinstance(template, dict):
        return {name: bare(each) for name, each in template.items()}
    return template.partition(_BEGIN)[2].partition(_END)[0] if _BEGIN in template else template


def asked(levels: Mapping[str, int], schema: AttributeSchema) -> dict[str, int]:
    """Levels as the integers that `attributes` holds: what users see where that is a number, else 0, 1, ..."""
    return {n: _integer(schema, n, level) for n, level in levels.items()}


def _integer(schema: AttributeSchema, name: str, level: int) -> int:
    return int(schema[name].shown[0]) + level if schema[name].shown[0].lstrip("-").isdigit() else level
