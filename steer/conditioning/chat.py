"""Chat templates that print the condition, so that unmodified servers and clients steer.

The template of an exported policy is its base's, with the condition after the assistant marker. The condition is made
from a variable `attributes`, as `steer serve` takes it: an object such as `{"quality": 4, "words": "low"}`, or a text
(`quality=4 words=low`, `best`, `none`). It only chooses among texts that the template holds, so nothing of a client
reaches the prompt through it. A value that names no level raises an error that lists the levels. Attributes that are
not named are not in the condition; without `attributes` the target is `Schema.unasked`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attribute_models.templates import (
    NONE,
    RESERVED,
    declared,
    fitted,
    in_parts,
    in_roles,
    lost,
    options_of,
    rendered,
    wants_parts,
)
from steer.conditioning.condition import TEMPLATES, readings
from steer.conditioning.finished import ANSWER, OPENING, THOUGHT, Place
from steer.rows.schema import Schema

__all__ = ["NONE", "PLAIN", "asked", "bare", "example", "in_parts", "opened", "steerable", "wants_parts"]
__all__ += ["RESERVED", "declared", "fitted", "in_roles", "lost", "options_of", "rendered"]  # of attribute_models

# For models without a chat template: messages one after the other; a response ends with EOS, a prompt with a newline.
PLAIN = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }}"
    "{% if loop.last and m.role == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
)
_BEGIN, _END = "{{ '' }}{# base template #}{{ '' }}", "{{ '' }}{# end of the base template #}{{ '' }}"
# Whitespace around these parts is the base's own: expressions, unlike blocks, keep the whitespace next to them.
_BEFORE = """
{%- set steer = namespace(asked={}, text='') -%}
{%- set steer_levels = LEVELS -%}
{%- set steer_numbers = NUMBERS -%}
{%- set steer_range = ' A range needs steer serve or steer generate.' -%}
{%- set steer_given = attributes if attributes is defined and attributes is not none else UNASKED -%}
{%- if steer_given is string -%}
{%- set steer_given = steer_given.replace(',', ' ').split() -%}
{%- set steer_given = BEST if steer_given == ['best'] else ([] if steer_given == ['none'] else steer_given) -%}
{%- if steer_given is none -%}
{{- raise_exception('attributes: best: no combination of all of them is supported by the data. Name levels.') -}}
{%- endif -%}
{%- elif steer_given is not mapping -%}
{{- raise_exception('attributes: wanted an object such as ' ~ EXAMPLE ~ ', or a text such as best.') -}}
{%- endif -%}
{%- for part in (steer_given.items() if steer_given is mapping else steer_given) -%}
{%- if part is string -%}
{%- set sides = part.split('=') -%}
{%- if sides | length != 2 or not sides[0] or not sides[1] or '<' in part or '>' in part or '..' in part -%}
{{- raise_exception("attributes '" ~ part[:80] ~ "': write NAME=LEVEL." ~ steer_range) -}}
{%- endif -%}
{%- set name, value = sides -%}
{%- else -%}
{%- set name, value = part[0] | string, part[1] -%}
{%- endif -%}
{%- if name not in steer_levels -%}
{{- raise_exception("attributes: unknown attribute '" ~ name[:80] ~ "'; known: " ~ KNOWN) -}}
{%- endif -%}
{%- if value is not none -%}
{%- if value is number and value is not boolean -%}
{%- set value = value | string -%}
{%- set value = value[:-2] if value[-2:] == '.0' else value -%}
{%- endif -%}
{%- if name in steer.asked -%}
{{- raise_exception("attributes: '" ~ name ~ "' is given twice.") -}}
{%- elif value is not string -%}
{{- raise_exception("attributes: '" ~ name ~ "' wants a level: a number or a word such as low." ~ steer_range) -}}
{%- elif value in steer_levels[name] -%}
{%- elif name not in steer_numbers or value != value | trim
    or not (steer_numbers[name][0] <= value | float(1e300) <= steer_numbers[name][1]) -%}
{{- raise_exception('attributes: ' ~ name ~ '=' ~ value[:80] ~ ': no such level; ' ~ ALLOWED[name]) -}}
{%- endif -%}
{%- set steer.asked = dict(steer.asked, **{name: value}) -%}
{%- endif -%}
{%- endfor -%}
{%- for name, texts in steer_levels.items() if name in steer.asked -%}
{%- set steer.text = steer.text ~ (BETWEEN if steer.text else START) -%}
{%- if steer.asked[name] in texts -%}
{%- set steer.text = steer.text ~ texts[steer.asked[name]] -%}
{%- else -%}
{%- set number = '%.2f' | format(steer.asked[name] | float | round(2) + 0.0) -%}
{%- set steer.text = steer.text ~ steer_numbers[name][2] ~ number -%}
{%- endif -%}
{%- endfor -%}
{%- if steer.text -%}{%- set steer.text = GLUE ~ steer.text ~ AFTER -%}{%- endif -%}
""".strip()
_IN_RESPONSE = """
{%- if messages and messages[-1]['role'] == 'assistant' -%}
{%- set steer_content = messages[-1]['content'] -%}
{%- if steer_content is string -%}
{%- set messages = messages[:-1] + [dict(messages[-1], content=steer.text ~ steer_content)] -%}
{%- elif steer_content is sequence and steer_content and steer_content[0]['type'] == 'text' -%}
{%- set steer_part = dict(steer_content[0], text=steer.text ~ steer_content[0]['text']) -%}
{%- set messages = messages[:-1] + [dict(messages[-1], content=[steer_part] + steer_content[1:])] -%}
{%- endif -%}
{%- endif -%}
""".strip()
# Servers give a turn's content as a list of parts to templates that loop over it.
_IN_TURN = """
{%- set steer.at = -1 -%}
{%- for turn in messages -%}
{%- if turn['role'] not in ('assistant', 'tool') -%}{%- set steer.at = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if steer.at >= 0 and steer.text -%}
{%- set steer_content = messages[steer.at]['content'] -%}
{%- if steer_content is string -%}
{%- set steer_content = steer_content.rstrip() ~ steer.text -%}
{%- elif steer_content and steer_content[-1]['type'] == 'text' -%}
{%- set steer_part = dict(steer_content[-1], text=steer_content[-1]['text'].rstrip() ~ steer.text) -%}
{%- set steer_content = steer_content[:-1] + [steer_part] -%}
{%- else -%}
{%- set steer_content = (steer_content or []) + [{'type': 'text', 'text': steer.text}] -%}
{%- endif -%}
{%- set steer_turn = dict(messages[steer.at], content=steer_content) -%}
{%- set messages = messages[:steer.at] + [steer_turn] + messages[steer.at + 1:] -%}
{%- endif -%}
""".strip()
_AFTER = "{%- if add_generation_prompt is defined and add_generation_prompt -%}{{ steer.text }}{%- endif -%}"
_FINISHED = """
{%- if add_generation_prompt is defined and add_generation_prompt -%}
{%- set messages = messages + [ANSWER] -%}
{%- set add_generation_prompt = false -%}
{%- set steer_out -%}BASE{%- endset -%}
{{- steer_out.rpartition(MARK)[0].rstrip(' ').replace(THOUGHT, '') ~ TEXT -}}
{%- else -%}BASE{%- endif -%}
""".strip()
# Where answers are drawn from before it is certain that no tool is called, the generation prompt stays.
_APART = """
{%- if tools is defined and tools -%}BASE
{{- TEXT if add_generation_prompt is defined and add_generation_prompt else '' -}}
{%- else -%}OTHERWISE{%- endif -%}
""".strip()
_CLOSED = """
{%- if add_generation_prompt is defined and add_generation_prompt -%}
{%- set steer_out -%}BASE{%- endset -%}
{{- steer_out ~ (CLOSING if (steer_out | trim).endswith(OPENING) else '') ~ TEXT -}}
{%- else -%}BASE{%- endif -%}
""".strip()


def opened(base: str, place: Place, text: str = "''") -> str:
    """Return the base's chat template with a generation prompt that ends at the place of an answer.

    `text`: what follows there, an expression of the template.
    """
    values = {
        "ANSWER": json.dumps({"role": "assistant", **dict(place.answer or ())}),
        "MARK": json.dumps(ANSWER),
        "THOUGHT": json.dumps(THOUGHT),
        "OPENING": json.dumps("" if place.opening else OPENING),
        "CLOSING": json.dumps(place.opening + place.closing),
        "TEXT": text,
        "BASE": _BEGIN + base.removesuffix("\n") + _END,
    }
    part = _FINISHED if place.answer else _CLOSED
    return _filled(_APART.replace("OTHERWISE", part) if place.apart else part, values)


def steerable(
    base: str, schema: Schema, names: Sequence[str], template: str, glue: str = "", place: Place | None = None
) -> str:
    """Return the base's chat template with the condition over `names` in it; `glue` precedes every condition.

    `place`: where answers stand, if it is not after the base's own generation prompt.
    """
    layout = TEMPLATES[template]
    part = layout.part
    supported = schema.supported(names)
    values = {
        "LEVELS": readings(schema, names, template),
        "NUMBERS": {n: [*schema[n].range, part.format(name=n, value="")] for n in names if schema[n].quantiles},
        "ALLOWED": {n: schema[n].allowed for n in names},
        "UNASKED": asked(schema.unasked(names), schema),
        "BEST": asked(schema.best(names), schema) if supported else None,
        "KNOWN": ", ".join(names) + ".",
        "EXAMPLE": example(schema, names[0]),
        "BETWEEN": layout.between,
        "START": layout.start,
        "GLUE": glue,
        "AFTER": layout.end,
    }
    filled = {
        key: json.dumps(value, ensure_ascii=False) if value is not None else "none" for key, value in values.items()
    }
    before = _filled(_BEFORE, filled) + (_IN_TURN if layout.in_turn else _IN_RESPONSE)
    if place is not None:
        return before + opened(base, place, "''" if layout.in_turn else "steer.text")
    return before + _BEGIN + base.removesuffix("\n") + _END + ("" if layout.in_turn else _AFTER)


def _filled(part: str, values: Mapping[str, str]) -> str:
    """Put values in the places of their names."""
    return re.sub(r"\b(?:" + "|".join(values) + r")\b", lambda match: values[match[0]], part)


def bare(template: Any) -> Any:
    """Return the base's own template inside a steerable one, or each of several by name; others unchanged."""
    if isinstance(template, dict):
        return {name: bare(each) for name, each in template.items()}
    return template.partition(_BEGIN)[2].partition(_END)[0] if _BEGIN in template else template


def asked(levels: Mapping[str, float], schema: Schema) -> dict[str, int | str]:
    """Return levels as `attributes` holds them: what users see, as an integer if it is one."""
    shown = {n: schema[n].show(level) for n, level in levels.items()}
    return {n: int(s) if re.fullmatch("-?[0-9]+", s) else s for n, s in shown.items()}


def example(schema: Schema, name: str) -> str:
    """Write an example of `attributes`: the worst supported level of an attribute, the lowest if none is supported."""
    levels = [level for (level,) in schema.supported((name,))]
    return json.dumps(asked({name: min(levels, key=lambda level: schema.value({name: level}), default=0)}, schema))
