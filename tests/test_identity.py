"""Whatever a result depends on is part of its identity: a folder never gives what was made of something else."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from attribute_models.judge import Judge, Settings
from attribute_models.own import code_of
from steer.annotation.annotate import annotate
from steer.config.generation import GenerateConfig
from steer.config.labelling import FitConfig
from steer.errors import SteerError
from steer.evaluation.evaluate import evaluate, inputs
from steer.evaluation.examination import Examination
from steer.evaluation.settings import EvaluateSettings
from steer.export.policy import export_policy
from steer.generation.generate import generate
from steer.iteration import refresh
from steer.labelling.command import fit_command
from steer.labelling.fit import fit
from steer.labelling.label import label
from steer.labelling.scorer import load_scorer
from steer.models.policy import Policy, load_policy
from steer.rows import read_rows, write_rows
from steer.rows.binning import described
from steer.rows.labelled import Labelled
from steer.run_folder import Run, slugs
from steer.training.batches import Conditioning
from steer.training.prepare import Hashes, starting_point
from steer.training.settings import TrainSettings
from steer.training.train import train

GOLD = "data_recipes.world_text:Gold"
OTHER = r"holds a run with other settings \(inputs\."
ROWS = [
    {"prompt": f"p{i // 2}", "response": "word " * (i % 5 + 1), "scores": {"words": float(i % 5 + 1)}}
    for i in range(40)
]


def turned(labelled: Labelled, name: str) -> Labelled:
    """The same rows, where less of an attribute is better."""
    return replace(labelled, schema=labelled.schema.turned({name: (-1, 1.0)}))


def twice(call: Callable[[Any], Any], first: Any, second: Any) -> None:
    """The same is made again; what is made of something else is refused."""
    assert call(first) is not None
    assert call(first) is not None
    with pytest.raises(SteerError, match=OTHER):
        call(second)


def test_a_scorer_is_fitted_again_where_the_schema_is_another(tmp_path: Path) -> None:
    rows = label(ROWS, min_support=1)
    twice(partial(fit, folder=tmp_path / "fit"), rows, turned(rows, "words"))


def test_votes_that_weighed_otherwise_are_not_taken(labels: Path, tmp_path: Path) -> None:
    rows = Labelled.read(labels)
    some = replace(rows, rows=rows.rows[:60])
    twice(partial(annotate, annotator=GOLD, folder=tmp_path / "votes"), some, turned(some, "verbosity"))


def test_an_evaluation_knows_the_schema_of_rows_in_memory(labels: Path, tmp_path: Path) -> None:
    rows = Labelled.read(labels)
    answers = [{**row, "split": "test"} for row in rows.rows if row["split"] == "test"][:8]

    def judged(prompts: Labelled) -> Any:
        return evaluate({"logs": answers}, prompts=prompts, gold=GOLD, folder=tmp_path / "out", resamples=20)

    twice(judged, rows, turned(rows, "verbosity"))


def words(row: Any, times: float = 1) -> float:
    return times * len(row["response"].split())


def doubled(row: Any) -> float:
    return 2 * words(row)


doubled.__name__ = "words"


@dataclass
class Weighed:
    """Words, each with a weight."""

    weight: float
    attributes: tuple[str, ...] = ("words",)

    def score(self, rows: Any) -> np.ndarray:
        return np.array([[self.weight * len(row["response"].split())] for row in rows])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (words, doubled),
        (lambda row: len(row["response"]), lambda row: -len(row["response"])),
        (Weighed(1.0), Weighed(2.0)),
    ],
    ids=["functions", "lambdas", "objects"],
)
def test_scores_of_code_that_was_edited_are_not_taken(first: Any, second: Any, tmp_path: Path) -> None:
    assert load_scorer(first).id == load_scorer(second).id
    plain = [{name: value for name, value in row.items() if name != "scores"} for row in ROWS]
    twice(lambda scorer: label(plain, scorer=scorer, folder=tmp_path / "labels", min_support=1), first, second)


def test_the_hash_of_code_follows_what_it_does_and_holds() -> None:
    def made(value: Any) -> Callable[[Any], Any]:
        return lambda row: value

    different = [words, doubled, partial(words, times=2), partial(words, times=3), made(1), made([2]), Weighed(1.0)]
    different += [made(each) for each in (np.int64(1), np.int64(2), re.compile("a" * 300), re.compile("a" * 301), {3})]
    assert len({code_of(each) for each in different}) == len(different)
    assert code_of(made([2])) == code_of(made([2]))
    assert code_of(Weighed(1.0)) == code_of(Weighed(1.0))
    changing = Weighed(1.0)
    changing.identity = "the judge of May"  # type: ignore[attr-defined]
    before = code_of(changing)
    changing.weight += 1
    assert code_of(changing) == before


def test_a_training_by_another_scorer_does_not_go_on(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", mine)

    def stopped(*_: Any) -> None:
        raise SteerError("stopped")

    monkeypatch.setattr("steer.training.train.prepare", stopped)
    for scorer, message in ((words, "stopped"), (words, "stopped"), (doubled, OTHER)):
        mine.quality = scorer  # type: ignore[attr-defined]
        with pytest.raises(SteerError, match=message):
            train(labels, model=str(base), method="rloo", scorer="mine:quality", folder=tmp_path / "policy")


def test_systems_whose_names_make_one_file_name_answer_for_themselves(
    labels: Path, base: Path, policy: Policy, tmp_path: Path
) -> None:
    systems = {"run 1": str(base), "run-1": policy}
    some: dict[str, Any] = {"num_prompts": 2, "max_new_tokens": 2, "grid": 0, "target": ("none",), "resamples": 20}
    evaluate(systems, prompts=labels, gold=GOLD, folder=tmp_path, **some)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["run-1-2-seed0", "run-1-seed0"]


def test_texts_get_file_names_of_their_own() -> None:
    names = slugs(["reward=+1", "reward=-1", "a b", "a:b", "a b", "a-b-2", "a/b"])
    assert list(names.values()) == ["reward=plus1", "reward=-1", "a-b", "a-b-2", "a-b-2-2", "a-b-3"]
    assert list(slugs(["judge:first/a.yaml", "judge:other/a.yaml"], longest=6).values()) == ["a.yaml", "a.yaml-2"]


def test_a_policy_on_another_base_or_of_another_commit_is_another(trained: Path, tiny: Path, policy: Policy) -> None:
    own, moved = load_policy(str(trained)), load_policy(str(trained), base=str(tiny))
    assert own.identity == policy.identity != moved.identity
    hub = replace(policy, name="owner/model", card=None)
    assert replace(hub, revision="1").identity != replace(hub, revision="2").identity
    with pytest.raises(SteerError, match="--dtype bfloat16: the policy is loaded already"):
        generate(policy, "Why?", dtype="bfloat16")


def test_log_probs_of_a_start_are_not_those_of_another(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.training.prepare.device.kind", lambda: "cuda")  # for LoftQ
    schema = described(["words"], np.arange(5.0)[:, None])
    conditions = Conditioning(replace(schema, attributes=(replace(schema["words"], shown=("0", "1")),)), ("words",))
    loftq: dict[str, Any] = {"adapter": "qlora", "init_lora_weights": "loftq"}
    options = [
        TrainSettings(),
        TrainSettings(condition_tokens="special"),
        TrainSettings(condition_tokens="special", seed=1),
        TrainSettings(**loftq),
        TrainSettings(**loftq, target_modules=("q_proj",)),
        TrainSettings(**loftq, lora_alpha=8),
    ]
    keys = [starting_point(policy, conditions, each, "cpu", Hashes("base")) for each in options]
    assert len({*keys}) == len(keys)
    assert starting_point(policy, None, options[1], "cpu", Hashes("base")) == keys[0]  # no tokens are added


def test_the_reference_of_an_evaluation_is_known_by_its_content(labels: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    reference.mkdir()

    def known(content: str) -> dict[str, str]:
        (reference / "model.safetensors").write_text(content)
        return inputs(Examination(EvaluateSettings(reference=str(reference)), str(labels), GOLD))

    assert known("weights") == known("weights") != known("others")


def test_an_export_onto_a_base_that_changed_is_another(trained: Path, base: Path, tmp_path: Path) -> None:
    onto = tmp_path / "onto"
    shutil.copytree(base, onto)
    export_policy(trained, tmp_path / "out", base=str(onto))
    export_policy(trained, tmp_path / "out", base=str(onto))
    (onto / "notes.txt").write_text("it is another model now")
    with pytest.raises(SteerError, match="holds another export"):
        export_policy(trained, tmp_path / "out", base=str(onto))


def test_a_generation_goes_on_with_the_server_at_another_address(tmp_path: Path) -> None:
    def asked(server: str) -> Run:
        return Run(tmp_path / "out", GenerateConfig("policy", prompt=("Why?",), server=server))

    asked("http://127.0.0.1:8000/v1").start()
    asked("http://127.0.0.1:8001/v1")
    with pytest.raises(SteerError, match=r"other settings \(server\)"):
        asked("")


def test_a_judge_that_answers_in_free_form_is_another() -> None:
    judges = [Judge(Settings("m", attributes=("helpfulness",), json_mode=mode)) for mode in (True, False)]
    assert judges[0].identity != judges[1].identity


def test_a_scorer_is_not_refitted_on_rows_that_changed(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_rows(read_rows(ROWS), rows)
    fit_command(FitConfig(str(rows), str(tmp_path / "scorer")))
    refresh.check(str(tmp_path / "scorer"))
    write_rows(read_rows(ROWS[:30]), rows)
    with pytest.raises(SteerError, match=r"rows\.jsonl are others now. Fit it again"):
        refresh.check(str(tmp_path / "scorer"))


def test_kl_is_measured_from_the_commit_that_a_policy_was_trained_on(
    labels: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(model: str, *_: Any, **how: Any) -> Any:
        raise SteerError(f"{model} at {how['revision']}")

    monkeypatch.setattr("steer.evaluation.drawn.load_policy", loaded)
    assert policy.card
    trained = replace(policy, card=replace(policy.card, base="owner/base", base_revision="c0ffee"))
    with pytest.raises(SteerError, match="owner/base at c0ffee"):
        evaluate(trained, prompts=labels, gold=GOLD, num_prompts=1)
    with pytest.raises(SteerError, match=r"owner/other at $"):
        evaluate(trained, prompts=labels, gold=GOLD, num_prompts=1, reference="owner/other")
