"""How fast a base takes up a condition: the dial against rows seen, for each way to write a condition.

    python benchmarks/conditions.py LABELS MODEL OUTPUT --condition words --condition tags --rows 0 --rows 125

LABELS is a folder of `steer label`. Every policy is trained on the first rows of the training split for --epochs, and
asked for each level of each attribute on the same held-out prompts. 0 rows is the untrained model, told in words. The
slope is in levels obtained for a level asked for; intervals are over prompts. What is finished in OUTPUT is not done
again. Prints Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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


@click.command(help=__doc__)
@click.argument("labels")
@click.argument("model")
@click.argument("output")
@click.option("--condition", multiple=True, type=click.Choice(list(CONDITIONS)), default=list(CONDITIONS))
@click.option("--rows", multiple=True, type=int, default=(0, 60, 125, 250, 500, 1000))
@click.option("--attribute", multiple=True)
@click.option("--phrase", multiple=True)
@click.option("--method", default="conditional")
@click.option("--prompts", default=24)
@click.option("--epochs", default=1.0)
@click.option("--learning-rate", default=1e-3)
@click.option("--lora-r", default=32)
@click.option("--batch-size", default=8)
@click.option("--attribute-dropout", default=0.1)
@click.option("--max-new-tokens", default=220)
def main(labels: str, model: str, output: str, **options: Any) -> None:
    """Train, ask and print."""
    labelled = Labelled.read(labels)
    schema = labelled.require_levels()
    names = options["attribute"] or schema.own
    targets = [f"{name}={i}" for name in names for i in range(len(schema[name].shown))]
    prompts = list({str(row["prompt"]): row["prompt"] for row in labelled.held_out(0.1, 0)}.values())[
        : options["prompts"]
    ]
    answers: dict[str, Any] = {}
    print("| condition | rows | attribute | slope | Spearman of single answers | obtained at each level |")
    print("| --- " * 6 + "|")
    for condition in options["condition"]:
        for count in options["rows"]:
            if count or condition == "words":
                name, place = f"{condition}, {count}", Path(output) / f"{condition}-{options['method']}-{count}"
                policy = _policy(labelled, model, condition, count, options, place)
                limit = {"max_new_tokens": options["max_new_tokens"]}
                answers[name] = generate(
                    policy, prompts, targets=targets, folder=place / "answers", **SAMPLING, **limit
                )
                dial = evaluate({name: answers[name]}, prompts=labels, gold=labelled.spec, resamples=1000).dial
                for attribute, result in dial["attributes"].items():
                    means = " ".join(f"{m['mean']:.1f}" for m in result["means"])
                    figures = f"{cell(result['slope'])} | {cell(result['spearman'])} | {means}"
                    print(f"| {condition} | {count} | {attribute} | {figures} |", flush=True)
    if (first := "words, 0") in answers:
        ordered = {first: answers.pop(first), **answers}
        every = evaluate(ordered, prompts=labels, gold=labelled.spec, resamples=1000).result["dials"]
        print("\n" + "\n".join(dials.gained(every)))


def _policy(labelled: Labelled, model: str, condition: str, count: int, o: dict[str, Any], place: Path) -> Policy:
    """Train on so many rows; on none return the model told in words."""
    if not count:
        asked: dict[str, Any] = {"template": "words", "attribute": o["attribute"], "phrase": o["phrase"]}
        words = in_words(labelled, TrainSettings(**asked))
        return prompted(Given(load_policy(model), words, (), 0, o["max_new_tokens"]), NoSettings())
    named = ("learning_rate", "lora_r", "batch_size", "attribute_dropout", "attribute", "phrase")
    settings = {key: o[key] for key in named}
    return train(
        labelled,
        model=model,
        method=o["method"],
        folder=place / "policy",
        limit=count,
        num_train_epochs=o["epochs"],
        **settings,
        **CONDITIONS[condition],
    )


if __name__ == "__main__":
    main()
