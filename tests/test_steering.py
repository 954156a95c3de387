"""Activation steering: vectors are differences of means, and each row of a batch gets its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steer.comparison.command import compare_command
from steer.comparison.comparison import Comparison
from steer.comparison.entry import Entry, swept
from steer.comparison.untrained import Given, steering
from steer.comparison.vectors import VectorSettings
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.evaluation.drawn import drawn_from
from steer.generation.engines import respond
from steer.generation.requests import Request, encode
from steer.generation.settings import Sampling
from steer.models.policy import Policy, end_tokens
from steer.models.steering import layers
from steer.models.tokenization import Tokens
from steer.rows import read_back
from steer.run_folder import read_json

GOLD = "data_recipes.world_text:Gold"
LAYER = 1  # of 2
AIMS: list[dict[str, float]] = [{"warmth": 0}, {}, {"warmth": 4, "verbosity": 1}, {"warmth": 2}]


def config(labels: Path, base: Path, folder: Path, **more: Any) -> CompareConfig:
    (folder / "train.yaml").write_text("max_steps: 1\nlora_r: 2\nbatch_size: 4\n")
    settings: dict[str, Any] = {"gold": GOLD, "num_prompts": 5, "grid": 12, "max_new_tokens": 6, "resamples": 30}
    settings |= {"train": str(folder / "train.yaml"), "method": ("prompted", "steering:strength=2,rows=20", "mle")}
    return CompareConfig(str(labels), str(base), str(folder / "out"), **(settings | more))


@pytest.fixture(scope="module")
def shared(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("steering")
    return Comparison(config(labels, base, folder), folder / "out")


def policy_of(shared: Comparison, folder: Path, **settings: Any) -> Policy:
    """A steered base; its vectors are kept in a folder."""
    given = Given(shared.base(0).policy, shared.words, shared.logs, 0, 6, folder)
    return steering(given, VectorSettings(**({"layer": LAYER, "rows": 20} | settings)))


@pytest.fixture(scope="module")
def policy(shared: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return policy_of(shared, tmp_path_factory.mktemp("vectors"), strength=3.0)


def vector(policy: Policy, target: dict[str, float]) -> Tensor:
    """Sum of the vectors at a target, from their definition: level l of L is worth 2 l / (L - 1) - 1."""
    s = policy.steering
    assert s is not None
    total = torch.zeros(s.vectors.shape[1])
    for name, level in target.items():
        share = 2 * level / (len(s.schema[name].shown) - 1) - 1
        total += s.strength * share * s.vectors[s.names.index(name)]
    return total


def logits(policy: Policy, prefix: Sequence[int], response: Sequence[int], added: Tensor) -> Tensor:
    """Logits after each token from the last of the prefix on, one sequence at a time and without a cache."""

    def add(_layer: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        for position in range(len(prefix) - 1, hidden.shape[1]):
            hidden[0, position] += added
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = layers(policy.model)[LAYER - 1].register_forward_hook(add)
    with torch.no_grad():
        out: Tensor = policy.model(torch.tensor([[*prefix, *response]])).logits[0, len(prefix) - 1 :]
    handle.remove()
    return out


def test_vectors_are_differences_of_means_over_the_positions_that_predict_responses(
    shared: Comparison, tmp_path: Path
) -> None:
    base, every = shared.base(0).policy, policy_of(shared, tmp_path, rows=10_000).steering
    assert every is not None
    tokens = Tokens(shared.logs, base.tokenizer, end_tokens(base))
    for name, found in zip(every.names, every.vectors):
        means: dict[bool, list[Tensor]] = {False: [], True: []}
        middle = (len(every.schema[name].shown) - 1) / 2
        for row in shared.logs:
            if row["levels"][name] != middle:
                s = tokens.sequence(row)
                with torch.no_grad():
                    ids = torch.tensor([[*s.prefix, *s.response]])
                    hidden = base.model(ids, output_hidden_states=True).hidden_states[LAYER][0]
                first = len(s.prefix) - 1
                means[row["levels"][name] > middle].append(hidden[first : first + len(s.response)].mean(0))
        high, low = (torch.stack(means[side]).mean(0) for side in (True, False))
        assert torch.allclose(found, high - low, atol=1e-4), name


def test_a_level_is_worth_from_minus_the_strength_to_the_strength(policy: Policy) -> None:
    s = policy.steering
    assert s is not None
    at = s.names.index("warmth")
    top = len(s.schema["warmth"].shown) - 1
    assert [s.weights({"warmth": level})[at] for level in (0, top / 2, top)] == [-3.0, 0.0, 3.0]
    assert s.weights({}) == (0.0,) * len(s.names)
    assert sum(map(bool, s.weights({"warmth": 0}))) == 1


def test_each_row_of_a_batch_is_steered_by_its_own_target(shared: Comparison, policy: Policy) -> None:
    requests = [Request(row, aim) for row in shared.examination.prompts for aim in AIMS]
    sampling = Sampling(temperature=0.0, max_new_tokens=6, batch_size=7)
    responses = respond(policy, requests, sampling)
    assert len({r.ids for r in responses}) > len(shared.examination.prompts), "targets make a difference"
    for request, e, response in zip(requests, encode(policy, requests, sampling), responses):
        after = logits(policy, [*e.prompt, *e.condition], response.ids[:-1], vector(policy, dict(request.target)))
        assert tuple(after.argmax(-1).tolist()) == response.ids


@pytest.mark.parametrize("target", [{"warmth": 0}, {"warmth": 4, "helpfulness": 0}])
def test_strength_zero_is_the_base_token_by_token(shared: Comparison, tmp_path: Path, target: dict[str, float]) -> None:
    still, sampling = policy_of(shared, tmp_path, strength=0.0), Sampling(max_new_tokens=12)
    rows = shared.examination.prompts
    steered = respond(still, [Request(row, target) for row in rows], sampling)
    assert steered == respond(shared.base(0).policy, [Request(row, {}) for row in rows], sampling)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probabilities_are_those_of_what_was_drawn(shared: Comparison, policy: Policy, temperature: float) -> None:
    aims = [AIMS[i % len(AIMS)] for i in range(5)]
    requests = [Request(row, aim) for row, aim in zip(shared.examination.prompts, aims)]
    sampling = Sampling(temperature=temperature, max_new_tokens=6)
    rows = [
        {**request.row, "target": dict(request.target), "response": r.text, "ids": list(r.ids)}
        for request, r in zip(requests, respond(policy, requests, sampling))
    ]
    found = drawn_from(policy, rows, 1.0, temperature)
    for row, e, logp in zip(rows, encode(policy, requests, sampling), found):
        after = logits(policy, [*e.prompt, *e.condition], row["ids"][:-1], vector(policy, row["target"]))
        own = (after / temperature).log_softmax(-1).gather(1, torch.tensor(row["ids"])[:, None])
        assert logp == pytest.approx(float(own.sum()), abs=1e-3)


def test_nothing_is_asked_in_text_and_nothing_stays_in_the_model(shared: Comparison, policy: Policy) -> None:
    row = shared.examination.prompts[0]
    hooks = [len(layer._forward_hooks) for layer in layers(policy.model)]
    respond(policy, [Request(row, {"warmth": 4})], Sampling(max_new_tokens=2))
    assert [len(layer._forward_hooks) for layer in layers(policy.model)] == hooks
    [plain], [steered] = (encode(p, [Request(row, {"warmth": 4})], Sampling()) for p in (shared.base(0).policy, policy))
    assert steered.prompt + steered.condition == plain.prompt + plain.condition


def test_what_no_folder_can_hold_is_not_saved(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="no folder can hold these"):
        policy.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_is_compared_as_the_others_are_and_resumes(labels: Path, base: Path, tmp_path: Path) -> None:
    settings = config(labels, base, tmp_path)
    compare_command(settings)
    out, name = tmp_path / "out", "steering:strength=2,rows=20"
    report = read_json(out / "report.json")
    assert report["failures"] == []
    systems = {s["name"]: s for s in report["systems"]}
    assert systems[f"{name} @ best"]["steps"] == 0
    assert systems[f"{name} @ best"]["kl"]["mean"] is not None
    assert systems[f"{name} @ best"]["prompt_tokens"] == systems["base"]["prompt_tokens"]
    assert report["seconds"][f"{name} @ best"] >= 0
    assert [d["name"] for d in report["dials"]] == ["prompted", name]
    assert report["dials"][1]["less"]["name"] == "prompted"
    assert any(note.startswith(f"{name}: vectors after layer 1 of 2, from training rows ") for note in report["notes"])
    run = out / "runs" / Entry.of(name).slug
    vectors = run.with_name(f"{run.name}-seed0") / "vectors.safetensors"
    written = vectors.stat().st_mtime_ns
    asked = [row["target"] for row in read_back(vectors.parent / "grid" / "answers.jsonl")]
    assert asked == [row["target"] for row in read_back(out / "runs" / "prompted-seed0" / "grid" / "answers.jsonl")]
    (out / "done.json").unlink()
    (vectors.parent / "grid" / "answers.jsonl").unlink()
    compare_command(settings)
    assert vectors.stat().st_mtime_ns == written
    assert read_json(out / "report.json")["systems"] == report["systems"]


def test_what_cannot_be_steered_is_refused(shared: Comparison, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="guidance wants a method with a condition"):
        swept("steering:guidance=2")
    assert [e.spec for e in swept("steering:strength=1/4")] == ["steering:strength=1", "steering:strength=4"]
    with pytest.raises(SteerError, match=r"layer=3: .* has 2 layers"):
        policy_of(shared, tmp_path, layer=3)
    cut = [{**row, "response": row["response"] * 100} for row in shared.logs]
    given = Given(shared.base(0).policy, shared.words, cut, 0, 6, tmp_path)
    with pytest.raises(SteerError, match=r"no attribute \(.*warmth.*\) has training rows above and below its middle"):
        steering(given, VectorSettings())


def test_an_attribute_whose_rows_lie_on_one_side_has_no_vector_and_the_others_have_theirs(
    shared: Comparison, tmp_path: Path
) -> None:
    low = [row for row in shared.logs if row["levels"]["warmth"] < 2]
    steered = steering(Given(shared.base(0).policy, shared.words, low, 0, 6, tmp_path), VectorSettings(layer=LAYER))
    s = steered.steering
    assert s is not None
    still = {name for name, values in zip(s.names, s.vectors) if not values.any()}
    assert "warmth" in still
    assert still < set(s.names)
    assert (
        f" None for {', '.join(n for n in s.names if n in still)}, whose rows lie on one side."
        in steered.facts["remark"]
    )
