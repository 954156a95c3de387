"""Upload what steer wrote to the Hugging Face hub, with a card that says what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steer.conditioning.chat import example
from steer.errors import SteerError
from steer.models.card import CARD, Card
from steer.progress import progress, quiet
from steer.report.cells import cell
from steer.rows.directions import BETTER
from steer.rows.schema import Schema
from steer.run_folder import read_done, read_json, write_text

# Files that say where things are on this machine; those of a data set's run do, too.
LEFT = (".*", "export.json", CARD)


def push(folder: Path, name: str, card: str, *, dataset: bool = False, private: bool = False) -> str:
    """Write the card as README.md and upload a folder as a repository; return its address.

    A new repository is public or private as the account has it, or `private`. Of a policy's steer.json the names of
    folders are left out. SteerError if the hub refuses.
    """
    from huggingface_hub import HfApi, errors

    unreached: Any = errors.HTTPError  # type: ignore[attr-defined]  # of its HTTP client, whichever that is
    write_text(folder / "README.md", card)
    kind, left = ("dataset", [*LEFT, "config.json", "done.json"]) if dataset else ("model", [*LEFT])
    try:
        with quiet(), progress(what=f"upload {folder} to {name}", unit=""):
            api = HfApi()
            address = api.create_repo(name, repo_type=kind, private=private or None, exist_ok=True)
            api.upload_folder(
                repo_id=name, folder_path=folder, repo_type=kind, commit_message="steer export", ignore_patterns=left
            )
            if (folder / CARD).is_file():
                text = json.dumps(Card.load(folder).without_paths().to_json(), indent=1)
                api.upload_file(
                    repo_id=name,
                    path_or_fileobj=text.encode(),
                    path_in_repo=CARD,
                    repo_type=kind,
                    commit_message="steer export",
                )
    except errors.LocalTokenNotFoundError:
        raise SteerError(
            f'--push-to-hub {name}: nobody is logged in to the hub. Run "hf auth login", or set HF_TOKEN.'
        ) from None
    except (unreached, errors.HFValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SteerError(
            f"--push-to-hub {name}: the hub does not take it ({reason}). Check the name, OWNER/NAME, and your rights; "
            f"{folder} is whole, and the same command goes on."
        ) from None
    return str(address)


def policy_card(card: Card, source: Path, evaluation: str, *, plain: bool) -> str:
    """Return the README of a policy; `plain`: exported for any server."""
    facts, base = read_done(source), card.without_paths().base
    head = {"library_name": "transformers" if plain else "steer", "tags": ["steer", card.method]}
    if base == card.base and "/" in base:
        head["base_model"] = base
    lines = [*_front(head), f"# {base}, steerable", ""]
    lines += [f"Trained by `{card.method}` with steer {card.version} from `{base}`{_commit(card)}.", ""]
    known = {"rows": "training rows", "held_out": "rows held out", "steps": "steps", "tokens": "tokens", "loss": "loss"}
    lines += ["| figure | value |", "|---|---|", f"| adapter in training | {card.adapter} |"]
    lines += [f"| {text} | {facts[key]:,} |" for key, text in known.items() if isinstance(facts.get(key), int | float)]
    lines += [f"| labelled by | `{card.scorer or 'unknown'}` |", f"| condition | {card.template} |", ""]
    lines += (
        _attributes(card.schema, card.attributes) if card.schema and card.attributes else ["It takes no targets.", ""]
    )
    if plain and card.schema and card.attributes:
        lines += [
            'Ask for levels with `chat_template_kwargs={"attributes": {...}}` at any server, or as',
            "",
            "```python",
        ]
        target = example(card.schema, card.attributes[0])
        lines += [f"tokenizer.apply_chat_template(chat, attributes={target}, ...)", "```", ""]
    return "\n".join([*lines, *_measured(evaluation)]) + "\n"


def rows_card(name: str, schema: Schema, splits: Mapping[str, int], scorer: str) -> str:
    """Return the README of labelled rows; `splits`: how many rows each has."""
    lines = [*_front({"tags": ["steer"]}), f"# {name}, labelled", ""]
    lines += [f"{sum(splits.values()):,} rows ({', '.join(f'{n:,} {split}' for split, n in splits.items())}), "]
    lines[-1] += f"labelled by `{scorer or 'unknown'}` with steer."
    return "\n".join([*lines, "", *_attributes(schema, schema.own)]) + "\n"


def _front(values: Mapping[str, Any]) -> list[str]:
    import yaml

    return ["---", yaml.safe_dump(dict(values), sort_keys=False).rstrip(), "---"]


def _commit(card: Card) -> str:
    return f" at commit `{card.base_revision}`" if card.base_revision else ""


def _attributes(schema: Schema, names: Iterable[str]) -> list[str]:
    """A table of attributes with their levels and how many rows have each."""
    lines = ["| attribute | better | levels: rows |", "|---|---|---|"]
    for name in names:
        attribute = schema[name]
        levels = ", ".join(f"{shown}: {count:,}" for shown, count in zip(attribute.shown, attribute.counts))
        lines.append(f"| {name} | {BETTER[attribute.direction]} | {levels} |")
    return [*lines, ""]


def _measured(evaluation: str) -> list[str]:
    """What asking for one level more obtains, of the dials in the folder of an evaluation."""
    if not evaluation:
        return ["What a target obtains has not been measured here: `steer evaluate` does."]
    report = read_json(Path(evaluation) / "report.json")
    dials: Sequence[Any] = report.get("dials") or [] if isinstance(report, dict) else []
    lines = [f"## Measured by `{report.get('gold', 'unknown')}`", ""] if dials else ["The evaluation has no dial."]
    for dial in dials:
        lines += [
            f"Asked for one level more, `{dial['name']}` obtains ({dial['targets']} targets, 95 % intervals):",
            "",
        ]
        lines += ["| attribute | levels | Spearman |", "|---|---|---|"]
        figures = dial["result"]["attributes"].items()
        lines += [f"| {n} | {cell(a['partial_slope'])} | {cell(a['spearman'])} |" for n, a in figures]
        lines.append("")
    return lines
