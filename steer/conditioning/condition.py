"""Render levels as the text of a condition and find its traces. chat.py writes the same form in Jinja.

A condition stands after the assistant marker and before the response, or, in words, at the end of the turn that is
answered. Rendering is a pure function of levels, so it is never stored and never applied twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from steer.errors import SteerError
from steer.rows.schema import Attribute, Schema, number
from steer.settings import did_you_mean


class Layout(NamedTuple):
    """The form of a condition: one part for each level, and the texts before, between and after them.

    `in_turn`: it ends the turn that is answered; else it stands between the assistant marker and the response.
    """

    part: str
    start: str = ""
    between: str = " "
    end: str = "\n"  # on GPT-2 tokenizers a digit would merge with a digit that follows
    in_turn: bool = False

    def text(self, parts: Sequence[str]) -> str:
        """Return the whole condition."""
        return self.start + self.between.join(parts) + self.end


_TAGS = Layout("<{name}>{value}")
TEMPLATES = {
    "tags": _TAGS,
    "words": Layout("{sentence}", start="\n\n", end="", in_turn=True),  # instructions, which a chat model understands
    "steerlm": Layout("{name}:{value}", start="<extra_id_2>", between=","),  # NeMo-Aligner's: a line of labels
    "decision-transformer": _TAGS,  # every row's own score
    "reward-bins": _TAGS,  # the mean score of its level
}
OWN = "decision-transformer"  # the one that prints scores of rows, so that any number can be asked for
NUMBERS = (OWN, "reward-bins")


# How a level is asked for in words. Others are rated: "Helpfulness: high, 4 of 5."
PHRASES = {
    "words": "Answer {extent}, about {centre} words.",
    "length": "Answer {extent}, about {centre} words.",
    "characters": "Answer in about {centre} characters.",
    "sentences": "Answer in about {centre} sentences.",
    "list_items": "List about {centre} items.",
}
NONE = {"list_items": "Use no list."}  # how a level whose centre is 0 is
# A number alone means little to a small model, the form of a text much: words at most, and what has about so many.
EXTENTS = (
    (4, "in a word or two"),
    (12, "in a few words"),
    (30, "in one sentence"),
    (65, "in a few sentences"),
    (120, "in a short paragraph"),
    (math.inf, "in detail, in several paragraphs"),
)
DEGREES = ("very low", "low", "medium", "high", "very high")
# What a chat model makes nothing of as "Depth: high, 4 of 5." it does understand when told: docs/results.md.
GRADED = {
    "depth": (
        "Answer in a few words, without any explanation.",
        "Answer shortly, with little detail.",
        "Answer with some detail.",
        "Answer in detail, and explain why.",
        "Answer in great depth, with reasons, details and examples.",
    )
}
RATED, NAMED = "{name}: {degree}, {level} of {most}.", "{name}: {level}."


def worded(schema: Schema, phrases: Mapping[str, str] | None = None, *, keep: bool = False) -> Schema:
    """Write the sentence of every level into the schema, by `phrases` (attribute: text with fields) or by default.

    A policy keeps the sentences that it was trained on, whatever the defaults become. `keep`: attributes keep those
    that they have, too.
    """
    phrases = phrases or {}
    changed = (
        a if keep and a.sentences else replace(a, sentences=sentences(a, phrases.get(a.name, "")))
        for a in schema.attributes
    )
    return replace(schema, attributes=tuple(changed))


def sentences(attribute: Attribute, text: str = "") -> tuple[str, ...]:
    """Ask for each level in words: by a text with fields, or by a default that tells the levels apart.

    `text`: one for all levels, or one for each, the lowest first, with "|" between them.
    """
    levels = range(len(attribute.shown))
    if text:
        each = [part.strip() for part in text.split("|")]
        if len(each) not in (1, len(levels)):
            raise SteerError(
                f"--phrase {attribute.name}: {len(each)} sentences for {len(levels)} levels. Write one for all, or one "
                "for each, the lowest first."
            )
        return tuple(_sentence(attribute, i, each[i % len(each)]) for i in levels)
    rated = RATED if all(re.fullmatch(r"[0-9]+", shown) for shown in attribute.shown) else NAMED
    graded = GRADED.get(attribute.name)
    default = PHRASES.get(attribute.name, rated)
    counted = tuple(_sentence(attribute, i, graded[_degree(attribute, i)] if graded else default) for i in levels)
    if len(set(counted)) < len(counted):
        counted = tuple(_sentence(attribute, i, rated) for i in levels)
    if attribute.name in NONE and round(attribute.score(0)) == 0:
        counted = (NONE[attribute.name], *counted[1:])
    return counted


def _degree(attribute: Attribute, level: int) -> int:
    """Place a level between 0, the lowest, and 4, the highest."""
    return round((len(DEGREES) - 1) * level / max(1, len(attribute.shown) - 1))


def _sentence(attribute: Attribute, level: int, text: str) -> str:
    fields = {
        "name": attribute.name.replace("_", " ").capitalize(),
        "level": attribute.show(level),
        "most": attribute.shown[-1],
        "degree": DEGREES[_degree(attribute, level)],
        "centre": f"{attribute.score(level):.0f}",
        "extent": next(extent for most, extent in EXTENTS if attribute.score(level) <= most),
    }
    try:
        return text.format(**fields)
    except (KeyError, IndexError, ValueError):
        raise SteerError(
            f"--phrase {attribute.name}={text}: write a sentence in which {', '.join('{' + f + '}' for f in fields)} "
            "may stand, and no other braces."
        ) from None


def _part(attribute: Attribute, level: float, template: str) -> str:
    """Write one level as a condition does, without the texts around it."""
    value = _value(attribute, level, template)
    part = TEMPLATES[template].part
    sentence = ""
    if "{sentence}" in part:
        sentence = (attribute.sentences or sentences(attribute))[attribute.bin(level)]
    return part.format(name=attribute.name, value=value, sentence=sentence)


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
    parts = [_part(schema[n], levels[n], template) for n in names if n in levels]
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
    return [[_part(schema[n], i, template) for i in range(len(schema[n].shown))] for n in names]


def readings(schema: Schema, names: Sequence[str], template: str = "tags") -> dict[str, dict[str, str]]:
    """Return what a condition writes for every text that asks for a level: [attribute][text]."""
    return {n: {text: _part(schema[n], i, template) for text, i in schema[n].readings.items()} for n in names}


def leaks(names: Sequence[str], template: str = "tags") -> re.Pattern[str]:
    """Return a pattern that matches any trace of a condition inside a response, such as `<quality>` or `quality:4`."""
    joined = "|".join(map(re.escape, names))
    return re.compile(rf"<extra_id_2>|\b(?:{joined}):\d" if template == "steerlm" else rf"<(?:{joined})>")


def markers(names: Sequence[str], template: str = "tags") -> list[str]:
    """Return the strings that start a condition after the assistant marker, to be blocked during generation."""
    if TEMPLATES[template].in_turn:
        return []
    return ["<extra_id_2>"] if template == "steerlm" else [f"<{name}>" for name in names]
