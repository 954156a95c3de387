"""How fast a base takes up a condition: the dial of policies that differ in rows seen, template or settings.

    python benchmarks/conditions.py LABELS MODEL OUTPUT --run words:0 --run words:500 --run special:500 \\
        --run words:500:learning_rate=3e-4,lora_r=8 --run words:500:method=gedi

LABELS is a folder of `steer label`. A run is CONDITION:ROWS[:SETTING=VALUE,...]: a policy is trained on the first rows
of the training split with the settings of --train and its own, and asked for each level of each attribute on the same
held-out prompts; the setting guidance=S belongs to the asking, and policies that differ in nothing else are trained
once. 0 rows is the untrained model, told in words, with which the slopes of the others are compared. The slope is in
levels obtained for a level asked for, the error is how far an answer is from the level asked for, on average; intervals
are over prompts. What is finished in OUTPUT is not done again. Prints Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml

from steer.comparison.untrained import Given, in_words, prompted
from steer.evaluation.evaluate import evaluate
from steer.generation.generate import generate
from steer.methods.base import NoSettings
from steer.models.policy import Policy, load_policy
from steer.report import dials
from steer.report.cells import cell
from steer.rows.labelled import Labelled
from steer.training.settings import TrainSettings
from steer.training.train import train

CONDITIONS: dict[str, dict[str, str]] = {
    "words": {"template": "words"},
    "tags": {"template": "tags"},
    "special": {"template": "tags", "condition_tokens": "special"},
}
SAMPLING: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95, "allow_unsupported": True}
COMMON: dict[str, Any] = {"num_train_epochs": 1.5, "learning_rate": 1e-3, "batch_size": 8, "max_length": 400}


class Run(NamedTuple):
    """A line of the table."""

    name: str
    condition: str
    rows: int
    settings: dict[str, Any]
    guidance: float
    policy: str  # the name without guidance

    @staticmethod
    def parse(text: str) -> Run:
        """Read CONDITION:ROWS[:SETTING=VALUE,...]."""
        condition, rows, *rest = text.split(":", 2)
        if condition not in CONDITIONS or not rows.isdecimal():
            raise click.UsageError(f"--run {text}: begin with one of {', '.join(CONDITIONS)}, a colon and a number.")
        pairs = [pair.split("=", 1) for pair in rest[0].split(",")] if rest else []
        settings = {name: _value(value) for name, value in pairs}
        guidance = settings.pop("guidance", 1)
        own = ",".join("=".join(pair) for pair in pairs if pair[0] != "guidance")
        return Run(text, condition, int(rows), settings, guidance, ":".join(filter(None, (condition, rows, own))))


def _value(text: str) -> Any:
    """Read a number, a truth value or a word; YAML takes 3e-4 for a word."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return yaml.safe_load(text)


@click.command(help=__doc__)
@click.argument("labels")
@click.argument("model")
@click.argument("output")
@click.option("--run", "runs", multiple=True, required=True)
@click.option("--train", "common", multiple=True, help="A setting of all runs, NAME=VALUE.")
@click.option("--attribute", multiple=True)
@click.option("--phrase", multiple=True)
@click.option("--prompts", default=24)
@click.option("--prompts-of", help="Labelled rows whose held-out prompts are asked; default: LABELS.")
@click.option("--max-new-tokens", default=220)
def main(labels: str, model: str, output: str, **options: Any) -> None:
    """Train, ask and print."""
    labelled = Labelled.read(labels)
    schema = labelled.require_levels()
    asked = {"attribute": options["attribute"] or tuple(schema.own), "phrase": options["phrase"]}
    common = COMMON | {name: _value(value) for name, value in (x.split("=", 1) for x in options["common"])}
    targets = [f"{name}={i}" for name in asked["attribute"] for i in range(len(schema[name].shown))]
    asks = Labelled.read(options["prompts_of"]) if options["prompts_of"] else labelled
    distinct = {str(row["prompt"]): row["prompt"] for row in asks.held_out(0.1, 0)}
    prompts = list(distinct.values())[: options["prompts"]]
    answers: dict[str, Any] = {}
    print("| run | attribute | slope | Spearman of single answers | mean error, levels | obtained at each level |")
    print("| --- " * 6 + "|")
    for run in map(Run.parse, options["runs"]):
        place, asked_in = (Path(output) / name.replace(":", "-").replace("/", "_") for name in (run.policy, run.name))
        policy = _policy(labelled, model, run, asked, common, options["max_new_tokens"], place)
        how = SAMPLING | {"max_new_tokens": options["max_new_tokens"], "guidance": run.guidance}
        answers[run.name] = generate(policy, prompts, targets=targets, folder=asked_in / "answers", **how)
        dial = evaluate(
            {run.name: answers[run.name]}, prompts=options["prompts_of"] or labels, gold=labelled.spec, resamples=1000
        ).dial
        for attribute, result in dial["attributes"].items():
            means = " ".join(f"{m['mean']:.1f}" for m in result["means"])
            figures = " | ".join(cell(result[figure]) for figure in ("slope", "spearman", "mae"))
            print(f"| {run.name} | {attribute} | {figures} | {means} |", flush=True)
    if (first := "words:0") in answers:
        ordered = {first: answers.pop(first), **answers}
        every = evaluate(ordered, prompts=options["prompts_of"] or labels, gold=labelled.spec, resamples=1000).result[
            "dials"
        ]
        print("\n" + "\n".join(dials.gained(every)))


def _policy(
    labelled: Labelled, model: str, run: Run, asked: dict[str, Any], common: dict[str, Any], longest: int, place: Path
) -> Policy:
    """Train on so many rows; on none return the model told in words."""
    if not run.rows:
        words = in_words(labelled, TrainSettings(template="words", **asked))
        base = load_policy(model, dtype=common.get("dtype", "auto"))
        return prompted(Given(base, words, (), 0, longest), NoSettings())
    settings: dict[str, Any] = {"method": "conditional", **common, **asked, **CONDITIONS[run.condition], **run.settings}
    return train(labelled, model=model, folder=place / "policy", limit=run.rows, **settings)


if __name__ == "__main__":
    main()
