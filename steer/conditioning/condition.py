"""Render levels as the text of a condition and find that text again. No other module knows its form.

A condition stands after the assistant marker and before the response. Rendering is a pure function of levels, so
it is never stored and never applied twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from steer.errors import SteerError
from steer.rows.schema import Attribute, Schema, number
from steer.settings import did_you_mean

Part = tuple[str, str]  # name, shown level


class Layout(NamedTuple):
    """The form of a condition: one part for each level, and the texts before, between and after them."""

    part: str
    start: str = ""
    between: str = " "
    end: str = "\n"  # on GPT-2 tokenizers a digit would merge with a digit that follows

    def text(self, parts: Sequence[Part]) -> str:
        """Return the whole condition."""
        written = (self.part.format(name=name, value=value) for name, value in parts)
        return self.start + self.between.join(written) + self.end


_TAGS = Layout("<{name}>{value}")
TEMPLATES = {
    "tags": _TAGS,
    "steerlm": Layout("{name}:{value}", start="<extra_id_2>", between=","),  # NeMo-Aligner's: a line of labels
    "decision-transformer": _TAGS,  # every row's own score
    "reward-bins": _TAGS,  # the mean score of its level
}
_PATTERNS = {
    "tags": r"<(?:{names})>[^\s<>]+(?: <(?:{names})>[^\s<>]+)*\n",
    "steerlm": r"<extra_id_2>(?:{names}):[^\s,:]+(?:,(?:{names}):[^\s,:]+)*\n",
    "decision-transformer": r"<(?:{names})>[^\s<>]+(?: <(?:{names})>[^\s<>]+)*\n",
    "reward-bins": r"<(?:{names})>[^\s<>]+(?: <(?:{names})>[^\s<>]+)*\n",
}
OWN = "decision-transformer"  # the one that prints scores of rows, so that any number can be asked for
NUMBERS = (OWN, "reward-bins")


def _value(attribute: Attribute, level: float, template: str) -> str:
    if template == OWN and not isinstance(level, int):
        return number(attribute.score(level))
    level = attribute.bin(level)
    if not 0 <= level < len(attribute.shown):
        raise SteerError(
            f"attribute '{attribute.name}': level {level} is none of the schema's {len(attribute.shown)}. "
            'Run "steer label" on these rows.'
        )
    return number(attribute.centres[level]) if template in NUMBERS else attribute.shown[level]


def render(levels: Mapping[str, float], schema: Schema, names: Sequence[str], template: str = "tags") -> str:
    """Return the condition for the known levels among `names`, in their order; empty if none is known.

    `{"quality": 3, "helpful": 4}` -> `<quality>4 <helpful>5\\n` on attributes that run from 1 to 5.
    """
    if template not in TEMPLATES:
        raise SteerError(f"unknown template '{template}'; {did_you_mean(template, TEMPLATES)}")
    parts = [(n, _value(schema[n], levels[n], template)) for n in names if n in levels]
    return TEMPLATES[template].text(parts) if parts else ""


def control_tokens(schema: Schema, names: Sequence[str], template: str = "tags") -> list[list[str]]:
    """Return the texts of each attribute's levels, which can become tokens of their own: [attribute][level]."""
    if template == OWN:
        raise SteerError(f"template '{OWN}' prints any number. Use --condition-tokens text, or --template reward-bins.")
    if TEMPLATES[template] is not _TAGS:
        raise SteerError(f"template '{template}' is plain text by its layout. Use --condition-tokens text.")
    return written(schema, names, template)


def written(schema: Schema, names: Sequence[str], template: str = "tags") -> list[list[str]]:
    """Return every level as a condition writes it, without the texts around it: [attribute][level]."""
    part = TEMPLATES[template].part
    return [
        [part.format(name=n, value=_value(schema[n], i, template)) for i in range(len(schema[n].shown))] for n in names
    ]


def readings(schema: Schema, names: Sequence[str], template: str = "tags") -> dict[str, dict[str, str]]:
    """Return what a condition writes for every text that asks for a level: [attribute][text]."""
    part = TEMPLATES[template].part
    return {
        n: {text: part.format(name=n, value=_value(schema[n], i, template)) for text, i in schema[n].readings.items()}
        for n in names
    }


def pattern(names: Sequence[str], template: str = "tags") -> re.Pattern[str]:
    """Return a pattern that matches one whole condition over any of `names`."""
    return re.compile(_PATTERNS[template].format(names="|".join(map(re.escape, names))))


def strip(text: str, names: Sequence[str], template: str = "tags") -> str:
    """Remove a condition from the start of a text: `strip(render(...) + x) == x`."""
    match = pattern(names, template).match(text)
    return text[match.end() :] if match else text


def leaks(names: Sequence[str], template: str = "tags") -> re.Pattern[str]:
    """Return a pattern that matches any trace of a condition inside a response, such as `<quality>` or `quality:4`."""
    joined = "|".join(map(re.escape, names))
    return re.compile(rf"<extra_id_2>|\b(?:{joined}):\d" if template == "steerlm" else rf"<(?:{joined})>")


def markers(names: Sequence[str], template: str = "tags") -> list[str]:
    """Return the strings that start a condition, to be blocked during generation."""
    return ["<extra_id_2>"] if template == "steerlm" else [f"<{name}>" for name in names]
