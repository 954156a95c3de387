"""Settings as frozen dataclasses: fields with help, choices and bounds, checked alike for flags, files and calls."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from steer.errors import SteerError

T = TypeVar("T")

# Help that several commands share.
OUTPUT = "Folder of this run; run the same command again to resume it."
OVERWRITE = "Empty the folder of an earlier run first."
OUTPUT_SHARDS = "Files of about as many rows each that the rows are written to; every command reads them by the folder."
MOST_SHARDS = 99_999
FORMS = ("jsonl", "parquet")  # of the files that hold rows
OUTPUT_FORMAT = "Form of these files: JSON lines or Parquet; every command reads either."
SHARD = "Only do share i of n, `i/n`, of the resume points: for several machines on one folder."
WORKERS = "Where --num-proc counts: processes of this machine, or actors of a Ray cluster."
LAUNCH = (
    "What starts every training as a command of its own: the words before `-m steer train`, such as "
    "`torchrun --standalone --nproc_per_node 8`, `accelerate launch --config_file FILE` or "
    "`srun --ntasks 8 --kill-on-bad-exit python`; default: train in this process."
)
WHICH_WORKERS = ("processes", "ray")
SEED = "Everything random follows from it."
HELD_OUT = "Share of prompts kept for evaluation, where the rows have no split."
LIMIT = "Use the first so many rows only (0: all)."
TRUST_REMOTE_CODE = "Run code that comes with the model."
MICRO_BATCH_TOKENS = "Padded tokens in one forward pass (0: 2048 on a CPU, 8192 on a GPU)."
DTYPE = "bfloat16 on a GPU that has it, else float32."
THINKING = ("drop", "empty", "keep", "learn")  # what becomes of thoughts in training
THINKS = THINKING[2:]  # with these a policy thinks before it answers
DTYPES = ("auto", "float32", "bfloat16")
TURNS = "Answers of a whole conversation (`messages`, `conversations`) that become rows: the last one, or all."
WHICH_TURNS = ("last", "all")
INPUTS = "Inputs"  # the first panel of a long --help

LARGEST = sys.float_info.max


class Unsaid(float):
    """A number that counts where nobody says one; the same number is no such one where somebody does."""


SHARE = Unsaid(0.1)  # of the prompts that is held out


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] = (),
    panel: str = "",
    least: float = -LARGEST,
    above: float = -math.inf,
    most: float = LARGEST,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    needs: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that becomes a flag (`...` as default: required).

    Numbers are not below `least`, above `above`, and at most `most`; finite unless `most` is infinity. `panel`: the
    section of `--help` that shows it. `presets`: for each choice, values that replace the defaults of other fields.
    `needs`: other fields; where all of them are left at their defaults, a value of this one is refused, since it would
    do nothing.
    """
    metadata: dict[str, Any] = {"help": help, "choices": tuple(choices), "panel": panel, "presets": presets or {}}
    metadata["needs"] = needs
    metadata |= {"least": least, "above": above, "most": most}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def argument(help: str) -> Any:
    """A dataclass field that becomes a positional argument."""
    return dataclasses.field(metadata={"help": help, "argument": True})


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known one, and all of them."""
    known = sorted(known)
    begun = [k for k in known if k.startswith(name)] if len(name) > 2 else []  # "cond" is "conditional", not "bond"
    near = begun if len(begun) == 1 else difflib.get_close_matches(name[:100], known, n=1)
    return (f"did you mean '{near[0]}'? " if near else "") + f"Known: {', '.join(known)}."


def flag_of(field: dataclasses.Field[Any]) -> str:
    """The flag of a field, or the name of a positional argument: `--batch-size`, `ROWS`."""
    if field.metadata.get("argument"):
        return field.name.upper()
    return "--" + field.name.replace("_", "-")


def check(config: Any, name: Callable[[dataclasses.Field[Any]], str] = flag_of) -> None:
    """Refuse a config with a value outside the choices or the range of its field; `name`: what messages call it."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    for field in fields.values():
        _check(name(field), getattr(config, field.name), field.metadata)
        needs = [fields[other] for other in field.metadata.get("needs", ())]
        if needs and said(config, field) and not any(said(config, other) for other in needs):
            others = " or ".join(map(name, needs))
            raise SteerError(f"{name(field)}: does nothing without {others}. Give one, or leave it out.")


def said(config: Any, field: dataclasses.Field[Any]) -> bool:
    """Whether a config has the field with another value than its default; a list is what its tuple is."""
    value = getattr(config, field.name, field.default)
    return bool((tuple(value) if isinstance(value, list) else value) != field.default)


class Checked:
    """Base of settings that are checked when they are made."""

    def __post_init__(self) -> None:
        """Refuse values outside the choices or the range of their field, and a switch that is neither on nor off."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # always a dataclass
            if isinstance(field.default, bool) and not isinstance(value := getattr(self, field.name), bool):
                raise SteerError(f"{field.name} {value!r:.60}: wanted True or False.")
        check(self, lambda field: field.name)


def _check(name: str, value: Any, meta: Mapping[str, Any]) -> None:
    for text in value if isinstance(value, tuple | list) else (value,):
        if isinstance(text, str) and not _clean(text):
            raise SteerError(f"{name} {text!r:.60}: holds a NUL or a character that is no Unicode. Remove it.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SteerError(f"{name}: wanted a number that 64 bits hold.")
    if "least" not in meta:
        return
    if meta.get("choices") and value not in meta["choices"]:
        raise SteerError(f"{name}: unknown '{value}'; {did_you_mean(str(value), meta['choices'])}")
    if isinstance(value, int | float):
        least, above, most = (meta[bound] for bound in ("least", "above", "most"))
        if least <= value <= most and value > above:
            return
        raise SteerError(f"{name} {value}: wanted {_range(meta) or 'a finite number'}.")


def _range(meta: Mapping[str, Any]) -> str:
    """Range of a number, in words; empty if any finite one will do."""
    least, above, most = (meta[bound] for bound in ("least", "above", "most"))
    low = f"above {above:g}" if above > -math.inf else f"{least:g} or more" if least > -LARGEST else ""
    high = f"at most {most:g}" if most < LARGEST else ""
    return f"from {least:g} to {most:g}" if high and least > -LARGEST else " and ".join(filter(None, (low, high)))


def explained(kind: type[Any]) -> list[tuple[str, str, str, str]]:
    """Name, default, allowed values and meaning of every setting, in words."""
    lines = []
    for field in dataclasses.fields(kind):
        meta = {**option(None, "-").metadata, **field.metadata}  # a method from outside may have plain fields
        values = ", ".join(meta["choices"]) or _range(meta) or _TYPES.get(type(field.default), "a list")
        lines.append((field.name, str(field.default), values, meta["help"]))
    return lines


def _clean(text: str) -> bool:
    """Whether a file can have this name and hold this text."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def settings_of(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build settings from keyword arguments; SteerError names the nearest setting, or what a value must be."""
    settings = kind(**named_values(kind, values))
    check(settings)
    return settings


def apart(settings: Mapping[str, Any], **arguments: str) -> Mapping[str, Any]:
    """Return keyword arguments; SteerError for one of a name that is an argument of another name in this function.

    >>> apart({"seed": 1}, target="targets")
    {'seed': 1}
    """
    for name, argument in arguments.items():
        if name in settings:
            raise SteerError(f"unknown setting '{name}'; it is `{argument}=` here.")
    return settings


def named_values(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments with tuples for lists; SteerError for one that is no field, or of another type."""
    fields, types = {f.name: f for f in dataclasses.fields(kind)}, get_type_hints(kind)
    for name in values:
        if name not in fields:
            raise SteerError(f"unknown setting '{name}'; {did_you_mean(name, fields)}")
    return {name: typed(flag_of(fields[name]), value, types[name]) for name, value in values.items()}


class Wanted(NamedTuple):
    """The type of a setting: one of _TYPES, several of them, or one of them or None."""

    kind: Any
    several: bool = False
    optional: bool = False

    @staticmethod
    def of(hint: Any) -> Wanted:
        """Take an annotation apart: `float`, `float | None`, `tuple[str, ...]`."""
        kinds = get_args(hint) or (hint,)
        return Wanted(kinds[0], get_origin(hint) is tuple, type(None) in kinds)


def typed(name: str, value: Any, hint: Any) -> Any:
    """Return a value of a call or a file in the type of its field; SteerError, which `name` begins, for another type.

    A whole number will do for any number, a path for a text, one text for a list of one, and in a list of texts a
    number for its text.
    """
    kind, several, optional = Wanted.of(hint)
    if several:
        values = value if isinstance(value, list | tuple) else (value,)
        return tuple(typed(name, str(each) if _is_short(each) else each, kind) for each in values)
    if value is None and optional:
        return None
    if not _is(value, kind):
        raise SteerError(f"{name} {_brief(value)}: wanted {_TYPES[kind]}.")
    value = value.item() if isinstance(value, Real) and hasattr(value, "item") else value  # of numpy
    try:
        return os.fspath(value) if kind is str else value if isinstance(value, kind) else kind(value)
    except OverflowError:
        raise SteerError(f"{name} {_brief(value)}: wanted a number that can be computed with.") from None


_TYPES: dict[Any, str] = {float: "a number", int: "a whole number", bool: "True or False", str: "text"}


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a kind: a truth value is no number, a whole number is one, a path is text."""
    wider: dict[Any, Any] = {float: Real, int: Integral, str: str | os.PathLike}
    return isinstance(value, wider.get(kind, kind)) and (kind is bool or not isinstance(value, bool))


def _is_short(value: Any) -> bool:
    """Whether a value is a number that 64 bits hold."""
    return _is(value, float) and (not isinstance(value, int) or value.bit_length() < 64)


def _brief(value: Any) -> str:
    """Show a value, shortened: aliases of YAML make huge ones of small files."""
    return "a huge number" if isinstance(value, int) and value.bit_length() > 256 else reprlib.repr(value)


def overridden(settings: type[T], pairs: Iterable[str], owner: str, more: str = "") -> T:
    """Build settings from their defaults and NAME=VALUE texts; lists are written a,b,c.

    `owner` begins messages; `more` ends the one about an unknown setting: where to read of the known ones.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}  # type: ignore[arg-type]  # always a dataclass
    values: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in defaults:
            known = did_you_mean(key, defaults) + more if defaults else "it has none."
            raise SteerError(f"{owner}: unknown setting '{key}'; {known}")
        try:
            values[key] = _parsed(text, defaults[key])
        except ValueError:
            wanted = _TYPES.get(type(defaults[key]), "a list of numbers")
            raise SteerError(f"{owner}: {key}={text} is not {wanted}.") from None
    try:
        return settings(**values)
    except (SteerError, ValueError) as error:
        raise SteerError(f"{owner}: {error}") from None


def _parsed(text: str, default: Any) -> Any:
    """Read a text in the type of a default."""
    if isinstance(default, tuple):
        kind = type(default[0]) if default else str
        return tuple(kind(part) for part in text.split(",") if part)
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return type(default)(text)
