"""Make a language model steerable from logged data, and compare that honestly with the alternatives.

The stages as functions: each takes and gives rows (lists of dicts, datasets.Dataset or paths), works without a folder,
and resumes from one when it is given. What the user can fix raises SteerError.

    labelled = steer.label("logs.jsonl", scorer="countable:words")
    policy = steer.train(labelled, model="HuggingFaceTB/SmolLM2-135M-Instruct", max_steps=200)
    policy.generate("How do I boil an egg?", target="words=low")
    policy.save("policy")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steer.annotation.annotate import Annotated, annotate
    from steer.comparison.compare import compare
    from steer.errors import SteerError
    from steer.evaluation.evaluate import Evaluation, evaluate
    from steer.generation.generate import generate
    from steer.iteration.iterate import Iteration, iterate
    from steer.labelling.fit import fit
    from steer.labelling.label import label
    from steer.labelling.scorer import load_scorer
    from steer.methods import METHODS
    from steer.models.policy import Policy, load_policy
    from steer.rows import read_rows, write_rows
    from steer.rows.labelled import Labelled
    from steer.rows.schema import Schema
    from steer.training.train import train

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "Annotated",
    "Evaluation",
    "Iteration",
    "Labelled",
    "Policy",
    "Schema",
    "SteerError",
    "annotate",
    "compare",
    "evaluate",
    "fit",
    "generate",
    "iterate",
    "label",
    "load_policy",
    "load_scorer",
    "read_rows",
    "train",
    "write_rows",
]

_MODULES = {  # imported when the name is used, so that "import steer" and --help are quick
    "METHODS": "steer.methods",
    "Annotated": "steer.annotation.annotate",
    "Evaluation": "steer.evaluation.evaluate",
    "Iteration": "steer.iteration.iterate",
    "Labelled": "steer.rows.labelled",
    "Policy": "steer.models.policy",
    "Schema": "steer.rows.schema",
    "SteerError": "steer.errors",
    "annotate": "steer.annotation.annotate",
    "compare": "steer.comparison.compare",
    "evaluate": "steer.evaluation.evaluate",
    "fit": "steer.labelling.fit",
    "generate": "steer.generation.generate",
    "iterate": "steer.iteration.iterate",
    "label": "steer.labelling.label",
    "load_policy": "steer.models.policy",
    "load_scorer": "steer.labelling.scorer",
    "read_rows": "steer.rows",
    "train": "steer.training.train",
    "write_rows": "steer.rows",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'steer' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
