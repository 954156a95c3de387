"""`--engine vllm`: what it is asked for, by a stand-in that draws with transformers; where it is installed, itself."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from steer.comparison.command import compare_command
from steer.conditioning.condition import markers
from steer.config.comparison import CompareConfig
from steer.config.export import ExportConfig
from steer.config.generation import GenerateConfig
from steer.config.iteration import IterateConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.export.command import export_command
from steer.generation.command import generate_command
from steer.generation.drawing import WHOLE, Split, generate_rows
from steer.generation.generate import generate, held_out_prompts
from steer.generation.plain import plainly
from steer.generation.requests import EncodedRequest, Request, encode
from steer.generation.settings import Sampling
from steer.generation.vllm import Vllm
from steer.iteration.command import iterate_command
from steer.iteration.iterate import iterate
from steer.models.card import Card
from steer.models.policy import Policy, end_tokens, load_policy
from steer.parts import Workers
from steer.progress import note_once
from steer.rows import read_back, read_rows
from steer.run_folder import write_json
from steer.training.command import train_command

ASKED: Any = {"target": ("verbosity=0", "best", "none"), "temperature": 0.0, "max_new_tokens": 20}
PROMPTS = "tell me about bees.\none?\n"


@pytest.fixture(scope="module")
def adapter(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 6, which is not one of the ranks that vLLM makes room for."""
    folder = tmp_path_factory.mktemp("lora")
    train_command(TrainConfig(str(labels), str(base), str(folder), lora_r=6, learning_rate=1e-2, max_steps=8))
    return folder


class Lora(NamedTuple):
    """`vllm.lora.request.LoRARequest`: its required fields."""

    lora_name: str
    lora_int_id: int
    lora_path: str


class Params(NamedTuple):
    """`vllm.SamplingParams`: the fields that are used, with vLLM's defaults."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = 16
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None


# Arguments of `vllm.LLM` and of its `EngineArgs` that are used.
ARGUMENTS = {"model", "dtype", "trust_remote_code", "revision", "tokenizer_revision", "enable_lora", "max_lora_rank"}
ARGUMENTS |= {"tensor_parallel_size", "gpu_memory_utilization", "max_model_len"}


class StandIn:
    """`vllm.LLM`, as far as it is used."""

    made: dict[str, Any]
    card: Card

    def __init__(self, **made: Any) -> None:
        assert made.keys() <= ARGUMENTS
        StandIn.made = made
        self.policy = replace(load_policy(made["model"]), card=self.card)  # blocks the markers as bad_words would

    def generate(
        self, prompts: Any, sampling_params: Any = None, *, use_tqdm: bool = True, lora_request: Any = None
    ) -> list[Any]:
        policy, params = self.policy, sampling_params
        if lora_request:
            from peft import PeftModel

            policy = replace(policy, model=PeftModel.from_pretrained(policy.model, lora_request.lora_path))
        asks = [
            EncodedRequest(tuple(p["prompt_token_ids"]), temperature=s.temperature, max_new_tokens=s.max_tokens)
            for p, s in zip(prompts, params)
        ]
        assert all(s.temperature == 0 and set(s.stop_token_ids) == end_tokens(policy) for s in params)
        assert all(s.bad_words == markers(self.card.attributes) for s in params)
        assert {(s.top_k, s.min_p) for s in params} == {(-1, 0.0)}, "off, as vLLM writes it"
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids)]) for ids in plainly(policy, asks, 8)]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> type[StandIn]:
    assert policy.card is not None
    StandIn.card = policy.card
    vllm, lora, request = (ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    request.LoRARequest = Lora  # type: ignore[attr-defined]
    vllm.LLM, vllm.SamplingParams = StandIn, Params  # type: ignore[attr-defined]
    vllm.lora, lora.request = lora, request  # type: ignore[attr-defined]
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return StandIn


def rows(policy: Path, folder: Path, engine: str) -> list[tuple[str, bool]]:
    """Responses of an engine."""
    folder.parent.mkdir(exist_ok=True)
    prompts = folder.with_suffix(".txt")
    prompts.write_text(PROMPTS)
    generate_command(GenerateConfig(str(policy), input=str(prompts), output=str(folder), engine=engine, **ASKED))
    return [(r["response"], r["finished"]) for r in read_rows(folder)]


def test_it_reads_the_same_tokens_as_the_policy_does_here(
    trained: Path, adapter: Path, stand_in: type[StandIn], tmp_path: Path
) -> None:
    export_command(ExportConfig(str(adapter), str(tmp_path / "merged")))
    for i, policy in enumerate((trained, adapter, tmp_path / "merged")):
        here, there = (rows(policy, tmp_path / f"{engine}{i}", engine) for engine in ("hf", "vllm"))
        assert here == there
        assert len(here) > 4
        always = ("model", "dtype", "trust_remote_code", "max_model_len")
        room = {k: v for k, v in stand_in.made.items() if k not in always}
        assert room == ({"enable_lora": True, "max_lora_rank": 8} if policy == adapter else {})


def test_it_makes_room_for_the_longest_sequence_of_all_that_is_drawn_and_no_more(
    trained: Path, stand_in: type[StandIn], policy: Policy, tmp_path: Path
) -> None:
    rows = [{"id": "a", "prompt": [{"role": "user", "content": "tell me about " + "bees " * 9}]}]
    rows += [{"id": str(i), "prompt": [{"role": "user", "content": f"{i}?"}]} for i in range(3)]
    most = max(x.columns for x in encode(policy, [Request(row, {}) for row in rows], Sampling(max_new_tokens=20)))
    for folder in (None, tmp_path / "parts"):  # the longest is not in the first part
        settings: Any = {"targets": "none", "temperature": 0.0, "max_new_tokens": 20, "shard_size": 1}
        assert len(generate(str(trained), rows[::-1], folder=folder, engine="vllm", **settings)) == 4
        assert stand_in.made.pop("max_model_len") == most
    assert policy.longest
    generate(str(trained), rows, targets="none", temperature=0.0, max_new_tokens=10**6, engine="vllm")
    assert stand_in.made["max_model_len"] == policy.longest, "and no more positions than it has"


def test_it_is_told_the_commit_that_the_adapter_was_trained_on(
    adapter: Path, stand_in: type[StandIn], tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "policy")
    replace(Card.load(adapter), base_revision="1" * 40).save(tmp_path / "policy")
    generate_command(GenerateConfig(str(tmp_path / "policy"), prompt=("one?",), engine="vllm", **ASKED))
    assert {stand_in.made["revision"], stand_in.made["tokenizer_revision"]} == {"1" * 40}


@pytest.mark.parametrize(
    ("gpus", "heads", "keys", "taken"),
    [(1, 32, 8, 1), (2, 2, 2, 2), (8, 32, 8, 8), (6, 32, 8, 4), (8, 28, 4, 4), (8, 40, 10, 2), (8, 9, 3, 1)],
)
def test_the_gpus_that_are_visible_share_each_layer_as_far_as_its_heads_can_be_shared_out(
    gpus: int,
    heads: int,
    keys: int,
    taken: int,
    trained: Path,
    stand_in: type[StandIn],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    policy = load_policy(str(trained), device="meta")
    config = policy.model.config
    config.num_attention_heads, config.num_key_value_heads = heads, keys
    monkeypatch.setattr("steer.generation.vllm.load_policy", lambda *_, **__: policy)
    here = SimpleNamespace(kind=lambda: "cuda", free=lambda: 0.5, count=lambda: gpus)
    monkeypatch.setattr("steer.generation.vllm.device", here)
    Vllm(str(trained), "auto").open()
    assert stand_in.made["tensor_parallel_size"] == taken
    assert stand_in.made["gpu_memory_utilization"] == 0.45
    said = f"--engine vllm: {taken} of {gpus} GPUs share each layer" in capsys.readouterr().err
    assert said == (gpus > 1)


def test_responses_with_a_condition_in_them_are_no_rows(
    trained: Path, stand_in: type[StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Policy
) -> None:
    ids = policy.tokenizer("bees <warmth>4 give", add_special_tokens=False)["input_ids"]
    token = SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids)])
    monkeypatch.setattr(stand_in, "generate", lambda self, prompts, *_, **__: [token] * len(prompts))
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    where: Any = {"input": str(tmp_path / "prompts.txt"), "output": str(tmp_path / "out")}
    said = generate_command(GenerateConfig(str(trained), engine="vllm", **where, **ASKED))
    assert ", 0 out, 0 empty skipped, 6 with a condition in them skipped" in said


def test_a_policy_without_weights_knows_what_the_whole_one_does(adapter: Path, trained: Path, base: Path) -> None:
    for name in (adapter, trained, base):
        whole, light = load_policy(str(name)), load_policy(str(name), device="meta")
        assert all(p.is_meta for p in light.model.parameters())
        assert not any(p.is_meta for p in whole.model.parameters())
        assert end_tokens(light) == end_tokens(whole)
        assert (light.longest, light.pieces, light.card) == (whole.longest, whole.pieces, whole.card)
        assert light.model.dtype == torch.float32


def test_what_vllm_cannot_do_is_said(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora, special = (Card("base", "", "lora", "conditional", condition_tokens=text) for text in ("text", "special"))
    for i, (card, own, told) in enumerate(
        (
            (Card("base", "", "qlora", "conditional"), {}, "a base in 4 bits"),
            (special, {}, "tokens of its own"),
            (lora, {"use_dora": True}, "DoRA"),
            (lora, {"modules_to_save": ["lm_head"]}, "modules that are trained whole"),
        )
    ):
        card.save(tmp_path / f"{i}")
        write_json(tmp_path / f"{i}" / "adapter_config.json", {"r": 8, **own})
        with pytest.raises(SteerError, match=f'takes no adapter with .*{told}.*Merge it first: "steer export'):
            generate_command(GenerateConfig(str(tmp_path / f"{i}"), prompt=("x",), engine="vllm"))
    with pytest.raises(SteerError, match="only --engine hf"):
        generate_command(GenerateConfig(str(trained), prompt=("x",), engine="vllm", guidance=2.0))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SteerError, match=r"vLLM is not installed here.*pip install vllm.*or use --engine hf"):
        generate_command(GenerateConfig(str(trained), prompt=("x",), engine="vllm"))


FAKE = """
import os
from types import SimpleNamespace as Output
from types import SimpleNamespace as SamplingParams

from steer.generation.plain import plainly
from steer.generation.requests import EncodedRequest
from steer.models.card import Card
from steer.models.policy import load_policy


class LLM:
    def __init__(self, model, max_model_len, **room):
        self.most = max_model_len
        self.policy = load_policy(model)
        self.policy.card = Card.find(os.path.dirname(model))
        with open(os.environ["LOADED"], "a") as file:
            file.write(model + chr(10))

    def generate(self, prompts, params, lora_request, use_tqdm):
        asks = [
            EncodedRequest(
                tuple(p["prompt_token_ids"]),
                temperature=s.temperature,
                max_new_tokens=s.max_tokens,
                seed=s.seed,
            )
            for p, s in zip(prompts, params)
        ]
        assert all(ask.columns <= self.most for ask in asks)
        return [Output(outputs=[Output(token_ids=ids)]) for ids in plainly(self.policy, asks, 8)]
"""


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `vllm` that other processes find, and the file where it says what it loads."""
    (tmp_path / "fake" / "vllm" / "lora").mkdir(parents=True)
    (tmp_path / "fake" / "vllm" / "__init__.py").write_text(FAKE)
    (tmp_path / "fake" / "vllm" / "lora" / "__init__.py").touch()
    (tmp_path / "fake" / "vllm" / "lora" / "request.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))
    monkeypatch.setenv("LOADED", str(tmp_path / "loaded.txt"))
    return tmp_path / "loaded.txt"


def test_a_process_of_its_own_draws_the_same_and_guides_nothing(
    trained: Path, policy: Policy, labels: Path, importable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note_once.cache_clear()
    requests = [Request(row, {"verbosity": 0}) for row in held_out_prompts(str(labels), 0.1, 0, 5)]
    sampling, split = Sampling(max_new_tokens=12, seed=3), Split.of(str(trained), Workers(4), 2, engine="vllm")
    here, there = (generate_rows(policy, requests, sampling, tmp_path / n, s) for n, s in (("a", WHOLE), ("b", split)))
    assert [row["response"] for row in there] == [row["response"] for row in here]
    assert importable.read_text().split() == [f"{trained}/model"], "once, for all parts"
    assert "vllm" not in sys.modules, "and not in this process"
    guided = replace(sampling, guidance=2.0)
    requests = [request._replace(against={"verbosity": 4}) for request in requests]
    here, there = (generate_rows(policy, requests, guided, tmp_path / n, s) for n, s in (("c", WHOLE), ("d", split)))
    assert [row["response"] for row in there] == [row["response"] for row in here]
    assert "guided responses are drawn with transformers" in capsys.readouterr().err
    assert len(importable.read_text().split()) == 1


@pytest.mark.slow
def test_each_round_is_drawn_by_the_policy_as_it_is_then(
    labels: Path, base: Path, trained: Path, importable: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / "train.json", {"adapter": "none", "learning_rate": 1e-3, "batch_size": 16, "max_steps": 4})
    how: dict[str, Any] = {"rounds": 2, "prompts_per_round": 12, "max_new_tokens": 40, "watch": 4, "guard": ("off",)}
    how |= {"start_from": "last", "train": str(tmp_path / "train.json")}
    inputs = (str(labels), str(base), "data_recipes.world_text:Gold")
    for engine in ("hf", "vllm"):
        iterate_command(IterateConfig(*inputs, str(tmp_path / engine), str(trained), engine=engine, **how))
    loaded = importable.read_text().split()
    first, second = (str(next((tmp_path / "vllm").glob(f"round-{i}-*")) / "policy" / "model") for i in (1, 2))
    assert loaded == [f"{trained}/model"] * 2 + [first] * 2 + [second]
    hf, vllm = (
        [[row["response"] for row in read_rows(path)] for path in sorted((tmp_path / name).glob("round-*/fresh.jsonl"))]
        for name in ("hf", "vllm")
    )
    assert hf == vllm
    assert all(hf)


def test_a_comparison_refuses_what_an_engine_of_its_own_gpu_cannot_do(labels: Path, base: Path, tmp_path: Path) -> None:
    config = CompareConfig(str(labels), str(base), str(tmp_path / "out"), method=("mle",), num_proc=2, engine="vllm")
    with pytest.raises(SteerError, match="takes the GPUs for one run, so runs are done one after the other"):
        compare_command(config)
    with pytest.raises(SteerError, match=r"unknown 'http://127\.0\.0\.1:1/v1'"):
        iterate(str(labels), model=str(base), scorer="countable:words", engine="http://127.0.0.1:1/v1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"use_dora": True}, "DoRA .use_dora."),
        ({"modules_to_save": ["lm_head"]}, "trained whole .modules_to_save."),
        ({"adapter": "qlora8"}, "8 bits .adapter."),
    ],
)
def test_adapters_that_it_does_not_take_are_refused_before_they_are_trained(
    setting: dict[str, Any], told: str, labels: Path, base: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / "train.json", setting)
    how: Any = {"train": str(tmp_path / "train.json"), "engine": "vllm"}
    refused = f"--engine vllm: takes no adapter with .*{told}, which this training makes"
    with pytest.raises(SteerError, match=refused):
        iterate(str(labels), model=str(base), scorer="countable:words", method="mle", **how)
    with pytest.raises(SteerError, match=refused):
        compare_command(CompareConfig(str(labels), str(base), str(tmp_path / "out"), method=("mle",), **how))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_comparison_answers_through_it(
    labels: Path, base: Path, importable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "train.json", {"adapter": "none", "learning_rate": 1e-3, "batch_size": 16, "max_steps": 4})
    how: dict[str, Any] = {"gold": "data_recipes.world_text:Gold", "num_prompts": 4, "grid": 4, "max_new_tokens": 12}
    how |= {"train": str(tmp_path / "train.json"), "resamples": 20, "method": ("conditional:guidance=1/2", "steering")}
    for engine in ("hf", "vllm"):
        compare_command(CompareConfig(str(labels), str(base), str(tmp_path / engine), engine=engine, **how))
    assert "systems without training answer in one process" in capsys.readouterr().err
    paths = sorted(path.relative_to(tmp_path / "hf") for path in (tmp_path / "hf").rglob("answers.jsonl"))
    for path in paths:
        hf, vllm = ([row["response"] for row in read_back(tmp_path / name / path)] for name in ("hf", "vllm"))
        assert hf == vllm, path
    assert len(paths) >= 5
    assert {Path(path).parent.name for path in importable.read_text().split()} >= {"policy"}


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("vllm"), reason="no vLLM: its engine is tested where it is")
def test_vllm_itself_gives_the_same_greedy_text(trained: Path, adapter: Path, tmp_path: Path) -> None:
    for i, policy in enumerate((trained, adapter)):
        assert rows(policy, tmp_path / f"hf{i}", "hf") == rows(policy, tmp_path / f"vllm{i}", "vllm")
