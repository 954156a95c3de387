"""Export answers, votes and prompts for other tools: AlpacaEval's outputs and annotations, a task for lm-eval."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from steer.errors import SteerError
from steer.evaluation.result import Case
from steer.evaluation.settings import EvaluateSettings
from steer.evaluation.votes import instruction
from steer.labelling.scorer import placed, readable
from steer.rows import Row, prompt_key
from steer.run_folder import slugs, write_text
from steer.settings import did_you_mean

TASK = """\
# lm_eval --model hf --model_args pretrained=MODEL --tasks {name} --include_path {folder}
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {prompts}
test_split: test
output_type: generate_until
doc_to_text: "{{{{instruction}}}}"
doc_to_target: ""
process_results: !function steer_scores.process_results
generation_kwargs:
  until: []
  do_sample: {sampled}
  temperature: {temperature}
  max_gen_toks: {tokens}
metric_list:
{metrics}
metadata:
  version: 1.0
"""
METRIC = "  - metric: {name}\n    aggregation: mean\n    higher_is_better: {higher}"
SCORES = '''"""Scores of generated answers, for lm-eval; `steer` must be installed beside it."""

from functools import cache

from steer.labelling.scorer import load_scorer

NAMES = {names!r}


@cache
def scorer():
    return load_scorer({gold!r}, trust_remote_code={trust}).evaluating()


def process_results(doc, results):
    row = {{"id": "0", "prompt": doc["prompt"], "response": results[0], "scores": {{}}}}
    return dict(zip(NAMES, scorer().score([row], NAMES)[0].tolist()))
'''
KINDS = ("alpaca-eval", "lm-eval")


def check(names: Sequence[str]) -> None:
    """Raise SteerError for a form that is unknown."""
    for name in names:
        if name not in KINDS:
            raise SteerError(f"--export: unknown '{name}'; {did_you_mean(name, KINDS)}")


def write(names: Sequence[str], folder: Path, case: Case, gold: str, settings: EvaluateSettings) -> str:
    """Write the answers in the forms of `names`; return a sentence with the folders."""
    summary = ""
    if "alpaca-eval" in names:
        files = slugs(system.name for system in case.systems)
        for system in case.systems:
            rows = [row for answers in system.answers.values() for row in answers.rows]
            write_text(folder / "alpaca-eval" / f"{files[system.name]}.json", alpaca_eval(rows, system.name))
        summary += f" AlpacaEval's outputs: {folder / 'alpaca-eval'}."
    if "lm-eval" in names:
        lm_eval(folder / "lm-eval", case, gold, settings)
        summary += f" Task for lm-eval: {folder / 'lm-eval'}."
    return summary


def votes(folder: Path, case: Case) -> None:
    """Write the votes of every annotator on the baseline and each other system in AlpacaEval's form.

    `output_1` is the baseline's; preference 1 is for it, 2 for the other, 1.5 a tie, null no answer.
    """
    folders = slugs((who.name for who in case.annotators), longest=100)
    for who, votes in zip(case.annotators, case.votes):
        records = [
            {
                "instruction": instruction(m.left),
                "output_1": readable(m.right)["response"],
                "generator_1": case.ordered[m.second].name,
                "output_2": readable(m.left)["response"],
                "generator_2": case.ordered[m.first].name,
                "annotator": who.name,
                "preference": None if math.isnan(share) else 1.0 + share,
            }
            for m, share in zip(case.met, votes.share.tolist())
            if m.second == 0
        ]
        text = json.dumps(records, ensure_ascii=False, indent=1) + "\n"
        write_text(folder / "annotations" / folders[who.name] / "annotations.json", text)


def alpaca_eval(rows: Sequence[Row], generator: str) -> str:
    """Return AlpacaEval's and AlpacaFarm's form: a JSON array of instruction, output, generator."""
    records = [
        {"instruction": instruction(r), "output": r["response"], "generator": generator} for r in map(readable, rows)
    ]
    return json.dumps(records, ensure_ascii=False, indent=1) + "\n"


def lm_eval(folder: Path, case: Case, gold: str, settings: EvaluateSettings) -> None:
    """Write a task that draws an answer to every prompt with any of lm-eval's backends and scores it with gold."""
    court = case.court
    first = {prompt_key(r): r for s in case.systems for a in s.answers.values() for r in reversed(a.rows)}
    lines = [json.dumps({"instruction": instruction(r), "prompt": r["prompt"]}) for r in first.values()]
    write_text(folder / "prompts.jsonl", "\n".join(lines) + "\n")
    names = list(court.schema.own)
    metrics = [METRIC.format(name=n, higher=str(court.schema[n].direction >= 0).lower()) for n in names]
    write_text(
        folder / "steer_scores.py", SCORES.format(names=names, gold=placed(gold), trust=settings.trust_remote_code)
    )
    task = TASK.format(
        folder=folder.resolve(),
        name="steer",
        prompts=(folder / "prompts.jsonl").resolve(),
        sampled=str(settings.temperature > 0).lower(),
        temperature=settings.temperature,
        tokens=settings.max_new_tokens,
        metrics="\n".join(metrics),
    )
    write_text(folder / "steer.yaml", task)
