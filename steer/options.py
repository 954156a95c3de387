"""A frozen dataclass becomes click flags plus --config FILE: flag > file > preset > default; unknown keys refused."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from attribute_models import documents
from steer.errors import SteerError
from steer.settings import INPUTS, Wanted, check, did_you_mean, flag_of, typed

T = TypeVar("T")
RUN = "This run"  # the last panel: flags that name none


class Flag(click.Option):
    """A flag with the panel of `--help` that shows it."""

    def __init__(self, *arguments: Any, panel: str = "", **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.panel = panel


class PanelCommand(click.Command):
    """A command whose `--help` shows flags in panels: INPUTS, the others as they first appear, RUN."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        panels: dict[str, list[tuple[str, str]]] = {INPUTS: []}
        for flag in self.get_params(ctx):
            if isinstance(flag, click.Option) and (record := flag.get_help_record(ctx)):
                panels.setdefault(getattr(flag, "panel", "") or RUN, []).append(record)
        panels[RUN] = panels.pop(RUN, [])  # last
        panels = {title: records for title, records in panels.items() if records}
        for title, records in panels.items():
            with formatter.section(title if len(panels) > 1 else "Options"):
                formatter.write_dl(records)


class PanelGroup(click.Group):
    """A group whose commands show their flags in panels."""

    command_class = PanelCommand


def options(config: type[Any]) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Decorate `command(config)` so that click fills the dataclass `config`."""
    hints = typing.get_type_hints(config)

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        def call(**values: Any) -> None:
            command(resolve(config, values, values.pop("config_file")))

        fields = dataclasses.fields(config)
        inputs = [f"{flag_of(f)}: {f.metadata['help']}" for f in fields if f.metadata.get("argument")]
        call.__name__, call.__doc__ = command.__name__, "\n\n".join([command.__doc__ or "", *inputs])
        file = click.option("--config", "config_file", metavar="FILE", help="YAML or JSON with these settings.")
        wrapped: Callable[..., None] = file(call)
        for field in reversed(fields):
            wrapped = _parameter(field, hints[field.name])(wrapped)
        return wrapped

    return decorate


def _parameter(field: dataclasses.Field[Any], hint: Any) -> Callable[[Any], Any]:
    meta, wanted = field.metadata, Wanted.of(hint)
    if meta.get("argument"):
        return click.argument(field.name, metavar=field.name.upper(), required=False, nargs=-1 if wanted.several else 1)
    kind, name = wanted.kind, flag_of(field)
    required = field.default is dataclasses.MISSING
    shown = "" if required or field.default in (None, "", ()) else f"  [default: {_plain(field.default)}]"
    text = meta["help"] + ("  [required]" if required else shown)
    shared: dict[str, Any] = {"cls": Flag, "panel": meta["panel"], "default": None, "help": text}
    if kind is bool:
        return click.option(f"{name}/--no-{name[2:]}", field.name, **shared)
    return click.option(
        name,
        field.name,
        type=click.Choice(meta["choices"]) if meta["choices"] else kind,
        multiple=wanted.several,
        **shared,
    )


def _plain(value: Any) -> str:
    """Show a default as a user would write it."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolve(
    config: type[T], flags: dict[str, Any], file: str | None = None, defaults: Mapping[str, Any] | None = None
) -> T:
    """Build the dataclass: a flag wins over the file, the file over a preset, a preset over the default.

    Names, types, choices and ranges are checked alike for flags and files. `defaults` override those of the fields. A
    dry run, which writes nothing, needs no --output.
    """
    chosen = _from_file(config, file) if file else {}
    chosen |= {k: v for k, v in flags.items() if v is not None and v != ()}
    values, fields = dict(defaults or {}), dataclasses.fields(config)  # type: ignore[arg-type]  # always a dataclass
    for field in fields:
        if presets := field.metadata.get("presets"):
            values |= presets.get(chosen.get(field.name), {})
    values |= chosen
    for field in fields:
        if field.name in values or field.default is not dataclasses.MISSING:
            continue
        if field.name != "output":
            raise SteerError(f"{flag_of(field)} is missing: {field.metadata['help']}")
        if not values.get("dry_run"):
            raise SteerError("--output is missing. Give the folder to write to, such as --output policy.")
        values["output"] = os.devnull
    result = config(**values)
    check(result)
    return result


def _from_file(config: type[Any], file: str) -> dict[str, Any]:
    try:
        loaded = documents.read(file)
    except ValueError as error:
        raise SteerError(str(error)) from None
    if not isinstance(loaded, dict):
        raise SteerError(f"{file}: a config file holds 'name: value' lines.")
    loaded.pop("inputs", None)  # written by the stage into its config.json, not a setting
    hints = typing.get_type_hints(config)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for key, value in loaded.items():
        if key not in defaults:
            raise SteerError(f"{file}: unknown key '{key}'; {did_you_mean(str(key), defaults)}")
        value = typed(f"{file}: {key}", value, hints[key])
        # A run writes all settings into its config.json, whether anybody said them or not.
        loaded[key] = defaults[key] if value == defaults[key] else value
    return loaded
