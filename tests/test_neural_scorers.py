"""Attribute models on language models: what they read, what they learn, what must not matter, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import attribute_models
from attribute_models import backbone, first, prefix
from attribute_models.embeddings import Embeddings, EmbeddingsSettings, ridge
from attribute_models.ensemble import Ensemble, EnsembleSettings
from attribute_models.finetune import TuningSettings
from attribute_models.labeller import Labeller, LabellerSettings, written
from attribute_models.linear import Linear
from attribute_models.regression import Classifier, Regression

Array = NDArray[np.float64]
WORDS = ("garden", "book", "home", "dog", "phone", "music")
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")  # as most models call them


def row(prompt: str, response: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "response": response}


def world(n: int = 160, seed: int = 0) -> tuple[list[dict[str, Any]], Array]:
    """Rows, two per prompt, and scores [n, 2]: 0 to 3 gardens, and whether there is a dog."""
    rng = np.random.default_rng(seed)
    rows, scores = [], []
    for i in range(n):
        said = rng.choice(WORDS, rng.integers(3, 9)).tolist()
        rows.append(row(f"tell me {i // 2}", " ".join(said)))
        scores.append([min(3, said.count("garden")), "dog" in said])
    return rows, np.asarray(scores, dtype=float)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two labels over a few words."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "tell", "me", *WORDS, *"0123456789"])
    )
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=23,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=2,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_causal_model_reads_its_template_the_response_and_an_end(tiny: Path) -> None:
    read = backbone.load(str(tiny), "AutoModel")
    (tokens,) = read.read([row("tell me", "a garden")])
    assert read.tokenizer.decode(tokens.ids) == "<|user|> tell me<|assistant|> a garden<|end|>"
    assert read.tokenizer.decode(tokens.ids[tokens.start : tokens.end]).strip() == "a garden"
    assert not tokens.truncated


def test_an_encoder_reads_what_its_tokenizer_makes_of_a_pair(encoder: Path) -> None:
    read = backbone.load(str(encoder), "AutoModel")
    pair, alone = read.read([row("tell me", "dog book"), {"prompt": [], "response": "dog"}])
    expected = read.tokenizer("tell me", "dog book")
    assert pair.ids == expected["input_ids"]
    assert alone.ids == read.tokenizer("dog")["input_ids"]
    batch = read.batch([pair, alone])
    assert batch.token_type_ids is not None
    assert batch.token_type_ids[0].tolist() == expected["token_type_ids"]
    assert batch.token_type_ids[1].sum() == 0
    assert batch.response.sum(1).tolist() == [2, 1]


def test_long_rows_lose_the_prompts_beginning_first_and_are_flagged(encoder: Path) -> None:
    read = backbone.load(str(encoder), "AutoModel", max_length=10)
    fits, cut, short = read.read(
        [row("1 2 3 4", "dog dog dog"), row("1 2 3 4 5 6", "dog dog dog"), row("1 2 3", "dog " * 30)]
    )
    words = read.tokenizer.convert_ids_to_tokens
    assert (fits.truncated, cut.truncated, short.truncated) == (False, True, True)
    assert words(cut.ids) == ["[CLS]", "3", "4", "5", "6", "[SEP]", "dog", "dog", "dog", "[SEP]"]
    assert words(short.ids).count("dog") == 7
    assert len(short.ids) == 10


def test_buckets_hold_every_row_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 90, 200).tolist()
    parts = list(backbone.buckets(lengths, 100))
    assert sorted(i for part in parts for i in part) == list(range(200))
    assert all(max(lengths[i] for i in part) * len(part) <= 100 for part in parts)
    assert list(backbone.buckets([500, 3], 100)) == [[0], [1]]


def test_ridge_solves_the_normal_equations_both_ways() -> None:
    rng = np.random.default_rng(0)
    for n, d in ((30, 6), (6, 30)):
        x, y = rng.normal(size=(n, d)) + 2, rng.normal(size=(n, 2))
        coefficients, intercepts = ridge(x, y, (0.1, 5.0))
        z = x - x.mean(0)
        for m, alpha in enumerate((0.1, 5.0)):
            expected = np.linalg.solve(z.T @ z + alpha * np.eye(d), z.T @ (y - y.mean(0)))
            assert coefficients[m] == pytest.approx(expected, abs=1e-9)
            assert intercepts[m] == pytest.approx(y.mean(0) - x.mean(0) @ expected)


@pytest.mark.parametrize("pooling", ["last", "mean", "first"])
def test_embeddings_are_those_of_the_model_row_by_row(pooling: str, encoder: Path) -> None:
    settings = EmbeddingsSettings(str(encoder), pooling, cache="none", batch_tokens=40)
    model = Embeddings(("a",), settings)
    rows, _ = world(12)
    states, _ = model.embed(rows)
    for one, state in zip(rows, states):
        inputs = model.backbone.tokenizer(one["prompt"][0]["content"], one["response"], return_tensors="pt")
        with torch.no_grad():
            hidden = model.backbone.model(**inputs).last_hidden_state[0]
        response = hidden[inputs["token_type_ids"][0].bool()][:-1].mean(0)  # without [SEP]
        expected = {"last": hidden[-1], "first": hidden[0], "mean": response}[pooling]
        assert state == pytest.approx(expected.numpy(), abs=1e-5)


def test_embeddings_predict_and_are_read_back_from_the_cache(tiny: Path, tmp_path: Path) -> None:
    rows, scores = world()
    scores[:40, 1] = np.nan
    settings = EmbeddingsSettings(str(tiny), "mean", cache=str(tmp_path / "cache"))
    model = Embeddings(("gardens", "dog"), settings).fit(rows, scores)
    for a in (0, 1):
        known = ~np.isnan(scores[:, a])
        assert np.corrcoef(model.held_out_[known, a], scores[known, a])[0, 1] > 0.5
    assert np.isnan(model.held_out_[:40, 1]).all()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    again = Embeddings(("gardens", "dog"), settings).fit(rows, scores)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == kept
    assert again.held_out_ == pytest.approx(model.held_out_, nan_ok=True)
    other = [row("tell me 0", "dog"), *rows[1:]]
    Embeddings(("gardens", "dog"), settings).fit(other, scores)
    assert len(list((tmp_path / "cache").iterdir())) == 2 * len(kept)


TUNED = {"learning_rate": 1e-2, "num_train_epochs": 4, "held_out": 0.25}


def regression(base: Path, adapter: str) -> Regression:
    return Regression(("gardens", "dog"), TuningSettings(str(base), adapter, **TUNED))  # type: ignore[arg-type]


def labeller(base: Path, adapter: str) -> Labeller:
    return Labeller(("gardens", "dog"), LabellerSettings(str(base), adapter, **TUNED))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "adapter", "floor"),  # what a random model of this size learns of reading in so few steps
    [(regression, "none", 0.3), (regression, "lora", 0.3), (regression, "qlora", 0.3), (labeller, "none", -1)],
)
def test_fine_tuned_models_learn_and_are_saved_to_the_bit(
    make: Callable[[Path, str], Any], adapter: str, floor: float, tiny: Path, tmp_path: Path
) -> None:
    rows, scores = world()
    scores[::5, 1] = np.nan
    model = make(tiny, adapter).fit(rows, scores)
    assert model.tuned_.losses[model.tuned_.epoch] == min(model.tuned_.losses) < 0.9 * model.tuned_.losses[0]
    told = ~np.isnan(model.held_out_[:, 0])
    assert 20 < told.sum() < 60
    assert np.corrcoef(model.held_out_[told, 0], scores[told, 0])[0, 1] > floor
    new, _ = world(20, seed=5)
    found = model.score(new)
    model.save(tmp_path)
    assert attribute_models.load(tmp_path).score(new).tolist() == found.tolist()
    assert list(tmp_path.rglob("*.safetensors"))
    alone = np.vstack([model.score([one]) for one in new])
    assert alone == pytest.approx(found, abs=1e-4)
    (tmp_path / "weights" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="does not belong"):
        attribute_models.load(tmp_path)


def test_rows_without_scores_change_nothing_and_the_seed_decides_all(tiny: Path) -> None:
    rows, scores = world(60)
    settings = TuningSettings(str(tiny), "lora", num_train_epochs=1, held_out=0.5)
    moved = scores.copy()
    moved[0] = np.nan
    rest = Regression(("gardens", "dog"), settings).fit(rows, moved)
    gone = Regression(("gardens", "dog"), settings).fit(rows[1:], scores[1:])
    assert rest.score(rows).tolist() == gone.score(rows).tolist()


def test_the_best_epoch_is_kept(tiny: Path) -> None:
    """A rate so high that training only does harm leaves the model as it was."""
    rows, scores = world(60)
    settings = TuningSettings(str(tiny), "none", learning_rate=3.0, patience=2, num_train_epochs=9)
    tuned = Regression(("gardens", "dog"), settings).fit(rows, scores).tuned_
    assert tuned.losses[tuned.epoch] == min(tuned.losses)
    assert len(tuned.losses) == tuned.epoch + 3  # stopped two epochs after it


def test_a_labeller_reads_expected_or_likeliest_levels(tiny: Path) -> None:
    rows, scores = world(80)
    settings = {"learning_rate": 1e-2, "num_train_epochs": 2}
    soft, greedy = (
        Labeller(("gardens", "dog"), LabellerSettings(str(tiny), "none", greedy=greedy, **settings))  # type: ignore[arg-type]
        for greedy in (False, True)
    )
    soft.ranges = greedy.ranges = {"gardens": (0, 4), "dog": (0, 1)}
    expected, hard = soft.fit(rows, scores).score(rows), greedy.fit(rows, scores).score(rows)
    assert set(hard.ravel().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert ((expected > 0) & (expected < 4)).all()
    assert len(np.unique(expected)) > 50
    empty = [{**row, "response": ""} for row in rows[:9]]
    assert len({row["prompt"][0]["content"] for row in empty}) > 1
    assert len(np.unique(soft.score(empty)[:, 0])) > 1  # it is read behind its prompt, as it was learned
    with pytest.raises(ValueError, match="not one token each"):
        written(soft.backbone.tokenizer, "\ngardens:", 0, 12)


def test_any_classifier_scores_as_transformers_does(encoder: Path) -> None:
    from transformers import pipeline

    rows, _ = world(30)
    pipe = pipeline("text-classification", model=str(encoder), function_to_apply="none")
    texts = [{"text": one["prompt"][0]["content"], "text_pair": one["response"]} for one in rows]
    theirs = [[x["score"] for x in sorted(line, key=lambda x: x["label"])] for line in pipe(texts, top_k=None)]
    found = Classifier(str(encoder), batch_tokens=64)
    assert found.attributes == ("label_0", "label_1")
    assert found.score(rows) == pytest.approx(np.asarray(theirs), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "short"),
    [("bert", True), ("roberta", True), ("electra", True), ("deberta-v2", True), ("distilbert", False)],
)
def test_the_last_layer_goes_on_with_the_token_that_is_read(
    kind: str, short: bool, encoder: Path, tmp_path: Path
) -> None:
    """Scores as by transformers, from fewer numbers where the model has the layers for it."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    names = ("dim", "n_layers", "n_heads", "hidden_dim") if kind == "distilbert" else SIZES
    size = dict(zip(names, (16, 2, 2, 32))) | {"vocab_size": 23, "num_labels": 2, "initializer_range": 0.5}
    config = AutoConfig.for_model(kind, max_position_embeddings=64, pad_token_id=0, type_vocab_size=2, **size)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    rows = world(30)[0]
    found = Classifier(str(tmp_path), batch_tokens=64)
    lengths: list[int] = []
    last = (found.backbone.model.base_model.encoder.layer[-1].output if short else found.backbone.model).dropout
    last.register_forward_hook(lambda module, given, out: lengths.append(out.shape[1]))
    read = [found.backbone.batch([tokens]) for tokens in found.backbone.read(rows)]
    with torch.no_grad():
        theirs = torch.cat([model(**batch.inputs()).logits for batch in read])
    assert found.score(rows) == pytest.approx(theirs.numpy(), abs=1e-5)
    assert not short or set(lengths) == {1}


def test_a_head_that_reads_every_token_keeps_them(encoder: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return states.mean(1)

    read = backbone.load(str(encoder), "AutoModelForSequenceClassification")
    read.model.bert.pooler = Mean()
    assert not first.shorten(read)
    assert not read.model.bert.encoder.layer[-1].attention.output._forward_pre_hooks


def test_an_ensemble_is_the_mean_of_its_members_less_their_spread(tmp_path: Path) -> None:
    rows, scores = world()
    settings = EnsembleSettings("linear+linear:min_df=8,folds=3", k=0.5, lower=("dog",))
    model = Ensemble(("gardens", "dog"), settings).fit(rows, scores)
    one = Linear(("gardens", "dog")).fit(rows, scores).score(rows)
    other = Linear(("gardens", "dog"), Linear.Settings(min_df=8, folds=3)).fit(rows, scores).score(rows)
    spread = np.abs(one - other) / 2
    assert model.score(rows) == pytest.approx((one + other) / 2 + spread * [-0.5, 0.5])
    model.save(tmp_path)
    assert attribute_models.load(tmp_path).score(rows).tolist() == model.score(rows).tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble(("a",), EnsembleSettings("liner")), "Did you mean 'linear'"),
        (lambda: Ensemble(("a",), EnsembleSettings("countable")), "does not learn scores"),
        (lambda: Ensemble(("a",), EnsembleSettings("linear:min_dv=3")), "Did you mean 'min_df'"),
        (lambda: Ensemble(("a",), EnsembleSettings("linear:min_df=x")), "is not a whole number"),
        (lambda: Ensemble(("a",), EnsembleSettings("embeddings:trust_remote_code=yes")), "is not true or false"),
        (lambda: Embeddings(("a",), EmbeddingsSettings(pooling="max")), "Choose one of auto, last"),
        (lambda: Embeddings(("a",), EmbeddingsSettings()).backbone, "No base model is named"),
        (lambda: Embeddings(("a",), EmbeddingsSettings("/nowhere/model")).backbone, "cannot be read"),
        (lambda: Regression(("a",), TuningSettings(held_out=0)), "between 0 and 1"),
        (lambda: Regression(("a",), TuningSettings(adapter="q")), "Choose one of lora, qlora, none"),
    ],
)
def test_what_cannot_be_is_refused_in_words(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_base_that_changed_is_refused(tiny: Path, tmp_path: Path) -> None:
    import shutil

    rows, scores = world(40)
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    Embeddings(("gardens", "dog"), EmbeddingsSettings(str(base), cache="none")).fit(rows, scores).save(tmp_path / "s")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(ValueError, match="has changed since the fit"):
        attribute_models.load(tmp_path / "s")
    shutil.rmtree(base)
    with pytest.raises(ValueError, match="is gone"):
        attribute_models.load(tmp_path / "s")


def test_candidates_that_share_a_prompt_are_scored_alike_and_in_the_same_order(tiny: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        row(" ".join(rng.choice(WORDS, 12 + i % 3)), " ".join(rng.choice(WORDS, rng.integers(1, 9)))) for i in range(6)
    ]
    rows += [row(one["prompt"][0]["content"], " ".join(rng.choice(WORDS, 1 + i))) for i in range(7) for one in rows[:4]]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    for pooling in ("mean", "last"):
        model = Embeddings(("a",), EmbeddingsSettings(str(tiny), pooling, cache="none"))
        assert model.backbone.shares
        tokens = model.backbone.read(rows)
        parts = list(prefix.parts(tokens, 200))
        assert sorted(i for part in parts for i in part) == [
            i for i, one in enumerate(rows) if sum(one["prompt"] == other["prompt"] for other in rows) > 1
        ]
        assert len(parts) > 2
        shared, _ = model.backbone.map(rows, model._pooled, 200, share=True)
        plain, _ = model.backbone.map(rows, model._pooled, 200)
        assert shared == pytest.approx(plain, abs=1e-5)


def test_encoders_share_nothing(encoder: Path) -> None:
    assert not backbone.load(str(encoder), "AutoModel").shares


def test_a_base_in_four_bits_is_small_and_its_head_whole(tiny: Path) -> None:
    import bitsandbytes

    model = Regression(("gardens", "dog"), TuningSettings(str(tiny), "qlora", num_train_epochs=1, held_out=0.5))
    rows, scores = world(40)
    inner = model.fit(rows, scores).backbone.model
    packed = [name for name, module in inner.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(packed) == 14  # two layers of seven
    assert not [name for name in packed if "score" in name]
    trained = [name for name, p in inner.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "score" in name for name in trained)
    assert any("score" in name for name in trained)
    assert model.backbone.threads == 1


def test_a_model_that_changes_in_a_forward_pass_is_given_one_batch_at_a_time(tiny: Path) -> None:
    read = backbone.load(str(tiny), "AutoModel")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert read.threads == 3
        read.model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
        assert read.threads == 1
    finally:
        torch.set_num_threads(before)


def test_a_prompt_is_computed_once_where_its_rows_fit() -> None:
    rows = [(size, length) for size, count in {40: 6, 30: 5, 20: 40}.items() for length in range(5, 5 + count)]
    tokens = [backbone.Tokens([size] * size + list(range(n)), size, size + n, False) for size, n in rows]
    parts = list(prefix.parts(tokens, 100))
    assert sorted(i for part in parts for i in part) == list(range(len(tokens)))
    places = {i: n for n, part in enumerate(parts) for i in part}
    assert len({places[i] for i in range(6)}) == 1  # 40 + 6 x 10, more than the budget of 100
    for part in parts:
        prompts = {tuple(tokens[i].ids[: tokens[i].start]) for i in part}
        longest, wide = (max(x) for x in zip(*((tokens[i].start, len(tokens[i].ids) - tokens[i].start) for i in part)))
        assert len(prompts) * longest + len(part) * wide <= (100 if len(prompts) > 1 else prefix.WHOLE * 100)
