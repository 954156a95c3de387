"""A frozen dataclass becomes click flags plus --config FILE: flag > file > preset > default; unknown keys refused."""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from attribute_models import documents
from steer.errors import SteerError

T = TypeVar("T")


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] = (),
    flag: str = "",
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """A dataclass field that becomes a flag (`...` as default: required).

    Numbers are finite, not below `least`, not at or below `above`, and not beyond `most`. `presets`: what a choice says
    of other fields.
    """
    metadata = {"help": help, "choices": tuple(choices), "flag": flag, "least": least, "above": above, "most": most}
    metadata["presets"] = presets or {}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def argument(help: str) -> Any:
    """A dataclass field that becomes a positional argument."""
    return dataclasses.field(metadata={"help": help, "argument": True})


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Sentence end for an unknown name: the nearest known one, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name[:100], known, n=1)
    return (f"did you mean '{near[0]}'? " if near else "") + f"Known: {', '.join(known)}."


def options(config: type[Any]) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Decorate `command(config)` so that click fills the dataclass `config`."""
    hints = typing.get_type_hints(config)

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        def call(**values: Any) -> None:
            command(resolve(config, values, values.pop("config_file")))

        taken = [f"{_flag(f)}: {f.metadata['help']}" for f in dataclasses.fields(config) if f.metadata.get("argument")]
        call.__name__, call.__doc__ = command.__name__, "\n\n".join([command.__doc__ or "", *taken])
        wrapped: Callable[..., None] = call
        wrapped = click.option("--config", "config_file", metavar="FILE", help="YAML or JSON with these settings.")(
            wrapped
        )
        for field in reversed(dataclasses.fields(config)):
            wrapped = _parameter(field, hints[field.name])(wrapped)
        return wrapped

    return decorate


def _parameter(field: dataclasses.Field[Any], hint: Any) -> Callable[[Any], Any]:
    meta = field.metadata
    if meta.get("argument"):
        count = -1 if typing.get_origin(hint) is tuple else 1
        return click.argument(field.name, metavar=field.name.upper(), required=False, nargs=count)
    base = [t for t in typing.get_args(hint) if t is not type(None)] or [hint]
    kind = base[0] if typing.get_origin(hint) is not tuple else str
    name = _flag(field)
    required = field.default is dataclasses.MISSING
    shown = "" if required or field.default in (None, "", ()) else f"  [default: {_plain(field.default)}]"
    text = meta["help"] + ("  [required]" if required else shown)
    if kind is bool:
        return click.option(f"{name}/--no-{name[2:]}", field.name, default=None, help=text)
    return click.option(
        name,
        field.name,
        type=click.Choice(meta["choices"]) if meta["choices"] else kind,
        multiple=typing.get_origin(hint) is tuple,
        default=None,
        help=text,
    )


def _flag(field: dataclasses.Field[Any]) -> str:
    """What a user calls the field."""
    if field.metadata.get("argument"):
        return field.name.upper()
    return field.metadata.get("flag") or "--" + field.name.replace("_", "-")


def _plain(value: Any) -> str:
    return (
        " ".join(map(str, value))
        if isinstance(value, tuple)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def resolve(
    config: type[T], flags: dict[str, Any], file: str | None = None, defaults: Mapping[str, Any] | None = None
) -> T:
    """Build the dataclass: a flag wins over the file, the file over a preset, a preset over the default.

    Names, types, choices and ranges are checked alike for flags and files. `defaults` stand before those of the fields.
    """
    given = _from_file(config, file) if file else {}
    given |= {k: v for k, v in flags.items() if v is not None and v != ()}
    values = dict(defaults or {})
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # T is always a dataclass
        if presets := field.metadata.get("presets"):
            values |= presets.get(given.get(field.name), {})
    values |= given
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # T is always a dataclass
        if field.name not in values and field.default is dataclasses.MISSING:
            raise SteerError(f"{_flag(field)} is missing: {field.metadata['help']}")
    made = config(**values)
    check(made)
    return made


def check(config: Any) -> None:
    """Refuse a config with a value outside the choices or the range of its field."""
    for field in dataclasses.fields(config):
        _allowed(field, getattr(config, field.name))


def _allowed(field: dataclasses.Field[Any], value: Any) -> None:
    meta = field.metadata
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and not _clean(text):
            raise SteerError(f"{_flag(field)} {text!r:.60}: holds a NUL or a character that is no Unicode. Remove it.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SteerError(f"{_flag(field)}: wanted a number that 64 bits hold.")
    if "least" not in meta:
        return
    if meta.get("choices") and value not in meta["choices"]:
        raise SteerError(f"{_flag(field)}: unknown '{value}'; {did_you_mean(str(value), meta['choices'])}")
    if isinstance(value, int | float):
        least, above, most = (meta[name] for name in ("least", "above", "most"))
        if math.isfinite(value) and least <= value <= most and value > above:
            return
        low = f"above {above:g}" if above > -math.inf else f"{least:g} or more" if least > -math.inf else ""
        high = f"at most {most:g}" if most < math.inf else ""
        wanted = (
            f"from {least:g} to {most:g}" if high and least > -math.inf else " and ".join(filter(None, (low, high)))
        )
        raise SteerError(f"{_flag(field)} {value}: wanted {wanted or 'a finite number'}.")


def _clean(text: str) -> bool:
    """Whether files can be called so, and hold it."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def overridden(settings: type[T], pairs: Iterable[str], owner: str) -> T:
    """A dataclass of settings with NAME=VALUE texts in place of defaults; lists are written a,b,c."""
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}  # type: ignore[arg-type]  # always a dataclass
    values: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in defaults:
            raise SteerError(
                f"{owner}: unknown setting '{key}'; {did_you_mean(key, defaults) if defaults else 'it has none.'}"
            )
        try:
            values[key] = _told(text, defaults[key])
        except ValueError:
            wanted = "list of numbers" if isinstance(defaults[key], tuple) else type(defaults[key]).__name__
            raise SteerError(f"{owner}: {key}={text} is not a {wanted}.") from None
    try:
        return settings(**values)
    except (SteerError, ValueError) as error:
        raise SteerError(f"{owner}: {error}") from None


def _told(text: str, default: Any) -> Any:
    """A text in the type of a default."""
    if isinstance(default, tuple):
        kind = type(default[0]) if default else str
        return tuple(kind(part) for part in text.split(",") if part)
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return type(default)(text)


def _from_file(config: type[Any], file: str) -> dict[str, Any]:
    try:
        loaded = documents.read(file)
    except ValueError as error:
        raise SteerError(str(error)) from None
    if not isinstance(loaded, dict):
        raise SteerError(f"{file}: a config file holds 'name: value' lines.")
    loaded.pop("inputs", None)  # written by the stage into its config.json, not a setting
    hints = typing.get_type_hints(config)
    for key, value in loaded.items():
        if key not in hints:
            raise SteerError(f"{file}: unknown key '{key}'; {did_you_mean(str(key), hints)}")
        loaded[key] = _converted(f"{file}: '{key}'", value, hints[key])
    return loaded


def _converted(where: str, value: Any, hint: Any) -> Any:
    """A file's value in the field's type, or one clear sentence."""
    kinds = [t for t in typing.get_args(hint) if t is not type(None)] or [hint]
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(map(_simple, value)):
            raise SteerError(f"{where} wants a list of texts, found {_brief(value)}.")
        return tuple(str(v) for v in value)
    kind = kinds[0]
    if value is None and type(None) in typing.get_args(hint):
        return None
    good = isinstance(value, int | float) and not isinstance(value, bool) if kind is float else type(value) is kind
    if kind is float and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            good = False
    if not good:
        raise SteerError(f"{where} wants {kind.__name__}, found {_brief(value)}.")
    try:
        return kind(value)
    except OverflowError:
        raise SteerError(f"{where} wants a number that can be computed with, found {_brief(value)}.") from None


def _simple(value: Any) -> bool:
    """Whether a member of a list of texts is one, or a number that was meant as one."""
    return isinstance(value, str | float) or (isinstance(value, int) and value.bit_length() < 64)


def _brief(value: Any) -> str:
    """A value of a file as Python shows it, cut: aliases of YAML make huge ones of small files."""
    return "a huge number" if isinstance(value, int) and value.bit_length() > 256 else reprlib.repr(value)
