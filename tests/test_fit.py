"""`steer fit` and `steer label` around attribute models: settings, tables, cards, shards, flags, histograms."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attribute_models
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.labelling.command import fit_command, label_command
from steer.labelling.fit import fit
from steer.labelling.label import label
from steer.labelling.scorer import load_scorer
from steer.rows import read_rows, write_rows
from steer.rows.command import data_command
from steer.rows.labelled import Labelled
from steer.run_folder import read_json


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rated rows of the embedded world."""
    folder = tmp_path_factory.mktemp("logs")
    data_command(DataConfig("world", str(folder / "logs"), size=300, rated=1.0, seed=3))
    return folder / "logs"


@pytest.fixture(scope="module")
def scorer(logs: Path) -> Path:
    fit_command(FitConfig(str(logs), str(logs.parent / "scorer"), debias="verbosity"))
    return logs.parent / "scorer"


def test_every_model_that_is_fitted_has_settings_and_stands_in_the_help() -> None:
    told = next(f for f in FitConfig.__dataclass_fields__.values() if f.name == "kind").metadata["help"]
    for name in attribute_models.FITTED:
        assert hasattr(attribute_models.model_class(name), "Settings")
        assert name in told


def test_fit_writes_tables_schema_card_and_the_hash_of_its_rows(logs: Path, scorer: Path) -> None:
    done, card = read_json(scorer / "done.json"), (scorer / "README.md").read_text()
    assert [f["attribute"] for f in done["report"]] == [f["attribute"] for f in done["tested"]]
    assert done["tested"][0]["n"] == sum(row["split"] == "test" for row in read_rows(logs))
    for text in (done["data"], "| verbosity | 0 | 4 | neither |", "out of fold, split by prompt:", "quantile"):
        assert text in card
    assert "Spearman with verbosity" in done["summary"]
    assert attribute_models.name_of(scorer) == "linear"
    again = scorer.parent / "again"
    fit_command(FitConfig(str(logs), str(again), debias="verbosity"))
    assert read_json(again / "done.json")["files"] == done["files"]
    changed = [{**row, "response": row["response"] + "!"} if i == 0 else row for i, row in enumerate(read_rows(logs))]
    write_rows(changed, scorer.parent / "changed.jsonl")
    fit_command(FitConfig(str(scorer.parent / "changed.jsonl"), str(scorer.parent / "other")))
    assert read_json(scorer.parent / "other" / "done.json")["data"] != done["data"]


def test_settings_reach_the_model(logs: Path, tmp_path: Path) -> None:
    fit_command(FitConfig(str(logs), str(tmp_path / "s"), set=("alphas=1,10", "min_df=4"), calibration="affine"))
    settings = read_json(tmp_path / "s" / "model" / "model.json")["settings"]
    assert settings["alphas"] == [1.0, 10.0]
    assert settings["min_df"] == 4
    assert read_json(tmp_path / "s" / "model.json")["calibration"] == "affine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "liner"}, "did you mean 'linear'"),
        ({"kind": "countable"}, "is not fitted on scores"),
        ({"set": ("alhpas=1",)}, "did you mean 'alphas'"),
        ({"set": ("min_df=two",)}, "min_df=two is not a whole number"),
        ({"set": ("alphas=a,b",)}, "is not a list of numbers"),
        ({"kind": "embeddings"}, "No base model is named"),
        ({"kind": "embeddings", "set": ("pooling=max",)}, "Choose one of auto"),
        ({"calibration": "best"}, "--calibration: unknown 'best'"),
        ({"debias": "verbsity"}, "Did you mean 'verbosity'"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_leaves_nothing(
    change: dict[str, Any], message: str, logs: Path, tmp_path: Path
) -> None:
    with pytest.raises(SteerError, match=message):
        fit_command(replace(FitConfig(str(logs), str(tmp_path / "s")), **change))
    assert not (tmp_path / "s").exists()


def test_several_raters_give_a_ceiling(logs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {**row, "raters": {n: [s + d for d in rng.normal(0, 0.5, 3)] for n, s in row["scores"].items()}}
        for row in read_rows(logs)
    ]
    write_rows(rows, tmp_path / "rows.jsonl")
    said = fit_command(FitConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "s")))
    assert "ceiling" in said
    found = read_json(tmp_path / "s" / "done.json")["report"][0]
    assert found["raters"] == 3
    assert 0.8 < found["human"] < found["ceiling"] < 1
    write_rows([{**rows[0], "raters": {"helpfulness": 3}}, *rows[1:]], tmp_path / "bad.jsonl")
    with pytest.raises(SteerError, match="column 'raters': attribute 'helpfulness' holds 3"):
        fit_command(FitConfig(str(tmp_path / "bad.jsonl"), str(tmp_path / "t"), held_out=0))


def test_shards_and_processes_write_the_same_bytes(logs: Path, scorer: Path, tmp_path: Path) -> None:
    plain = LabelConfig(str(logs), str(tmp_path / "one"), scorer=str(scorer), shard_size=64)
    label_command(plain)
    label_command(replace(plain, output=str(tmp_path / "two"), num_proc=2))
    said = [label_command(replace(plain, output=str(tmp_path / "three"), shard=f"{i}/3")) for i in (3, 1, 2)]
    assert "shard 3 of 3 is scored; 4 of 5 parts are still to come" in said[0]
    assert not (tmp_path / "three" / "done.json").exists() or "300 rows in" in said[2]
    for name in ("rows.jsonl", "schema.json"):
        expected = (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "two" / name).read_bytes() == expected
        assert (tmp_path / "three" / name).read_bytes() == expected
    for wrong in ("0/3", "4/3", "x"):
        with pytest.raises(SteerError, match="wanted i/n"):
            label_command(replace(plain, output=str(tmp_path / "four"), shard=wrong))
    with pytest.raises(SteerError, match="would remove the other shards"):
        label_command(replace(plain, shard="1/2", overwrite=True))


def test_rows_that_a_scorer_cannot_read_whole_are_flagged_and_counted(tiny: Path, logs: Path, tmp_path: Path) -> None:
    settings = (f"model={tiny}", "max_length=24", "cache=none")
    said = fit_command(FitConfig(str(logs), str(tmp_path / "s"), kind="embeddings", set=settings, limit=120))
    assert " truncated. Scorer" in said
    said = label_command(LabelConfig(str(logs), str(tmp_path / "l"), scorer=str(tmp_path / "s"), min_support=1))
    rows = read_rows(tmp_path / "l")
    cut = sum(row["truncated"] for row in rows)
    assert 0 < cut < 300
    assert f"; {cut} truncated; scorer embeddings:" in said
    long = [row["truncated"] for row in rows if len(row["response"].split()) > 30]
    assert long
    assert all(long)


def test_human_scores_can_be_preferred_and_stay_beside_the_predicted(logs: Path, scorer: Path, tmp_path: Path) -> None:
    rows = [{**row, "scores": row["scores"] if i % 2 else {}} for i, row in enumerate(read_rows(logs))]
    write_rows(rows, tmp_path / "half.jsonl")
    label_command(LabelConfig(str(tmp_path / "half.jsonl"), str(tmp_path / "l"), scorer=str(scorer), prefer="human"))
    for before, row in zip(rows, read_rows(tmp_path / "l"), strict=True):
        assert row["scores"] == before["scores"]
        used = row["scores"] or row["predicted"]
        assert row["levels"]["warmth"] == int(np.clip(np.floor(used["warmth"] + 0.5), 0, 4))


def test_the_histogram_names_what_is_common_empty_and_never_together(tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "prompt": [{"role": "user", "content": f"p{i}"}], "response": "x", "scores": {"a": a, "b": b}}
        for i, (a, b) in enumerate([(0, 0)] * 6 + [(1, 3)] * 5 + [(0, 1)] * 5)
    ]
    write_rows(rows, tmp_path / "rows.jsonl")
    said = label_command(LabelConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "l"), held_out=0))
    assert "3 of 8 combinations of levels have 5 rows or more; empty: b=2." in said
    assert "commonest: a=0 b=0: 6; a=0 b=1: 5; a=1 b=3: 5." in said
    assert "never together: a=0 with b=3, a=1 with b=0, a=1 with b=1." in said


def test_the_command_lines_of_the_issue_work(logs: Path, tmp_path: Path) -> None:
    """`steer fit --kind ... --set` as a user types it."""
    words = ["fit", str(logs), "--kind", "ensemble", "--set", "members=linear+linear:min_df=5", "--set", "k=1"]
    words += ["--calibration", "isotonic", "--debias", "words", "--output", "s"]
    done = subprocess.run(
        [sys.executable, "-m", "steer", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "fit ensemble: 300 rows in" in done.stdout
    settings = read_json(tmp_path / "s" / "model" / "model.json")["settings"]
    assert settings["lower"] == ["hedging"]


@pytest.mark.parametrize("better", [1, -1])
def test_a_quality_that_is_length_adds_nothing_in_scripts_without_spaces_too(better: int, tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for i in range(240):
        size = int(rng.integers(3, 60))
        said = "".join(rng.choice(list("日本語文字数長短山川田中"), size)) + "。"
        score = float(np.clip(round(3 + better * (size - 31) / 12 + rng.normal(0, 0.7)), 1, 5))
        prompt = [{"role": "user", "content": f"p{i // 2}"}]
        rows.append({"id": str(i), "prompt": prompt, "response": said, "scores": {"quality": score}})
    write_rows(rows, tmp_path / "rows.jsonl")
    said = fit_command(FitConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "scorer")))
    (found,) = read_json(tmp_path / "scorer" / "done.json")["report"]
    assert abs(found["length_alone"]) > 0.7
    assert found["learnable"] is False
    assert "quality: the scorer adds nothing to length" in said


def test_the_command_is_a_doorway_on_fit(logs: Path, scorer: Path, tmp_path: Path) -> None:
    rows = read_rows(logs)
    found = fit(str(logs), debias="verbosity")
    saved = fit(str(logs), debias="verbosity", folder=tmp_path / "api")
    by_command = load_scorer(str(scorer))
    assert found.id == saved.id == by_command.id
    assert found.report == by_command.report
    assert found.schema == by_command.schema
    assert (tmp_path / "api" / "report.txt").read_text() == (scorer / "report.txt").read_text()
    assert np.array_equal(found.score(rows, found.attributes), by_command.score(rows, by_command.attributes))
    before = (tmp_path / "api" / "done.json").stat().st_mtime_ns
    assert fit(str(logs), debias="verbosity", folder=tmp_path / "api").id == saved.id
    assert (tmp_path / "api" / "done.json").stat().st_mtime_ns == before, "a fit that is done is read back"
    with pytest.raises(SteerError, match=r"holds a run with other settings \(debias\)"):
        fit(str(logs), folder=tmp_path / "api")
    with pytest.raises(SteerError, match="unknown setting 'debais'; did you mean 'debias'"):
        fit(rows, debais="verbosity")
    with pytest.raises(SteerError, match="--kind linear reads rows without one"):
        fit(rows, model="encoder")


@pytest.mark.parametrize("by", ["scorer", "human"])
def test_the_command_is_a_doorway_on_label(by: str, logs: Path, scorer: Path, tmp_path: Path) -> None:
    spec, settings = str(scorer) if by == "scorer" else "human", {"min_support": 2, "lower": ("hedging",)}
    label_command(LabelConfig(str(logs), str(tmp_path / "out"), scorer=spec, **settings))  # type: ignore[arg-type]
    by_command = Labelled.read(tmp_path / "out")
    found = label(str(logs), scorer="" if by == "human" else load_scorer(spec), **settings)
    assert found == replace(by_command, name=str(logs))
    saved = label(logs, scorer=spec, folder=tmp_path / "api", shard_size=50, **settings)
    for name in ("rows.jsonl", "schema.json"):
        assert (tmp_path / "api" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert replace(saved, name="") == replace(found, name="")
    parts = sorted((tmp_path / "api" / "parts").iterdir())
    assert len(parts) == 6
    parts[0].unlink()
    again = label(logs, scorer=spec, folder=tmp_path / "api", shard_size=50, **settings)  # goes on where it stopped
    assert again == saved
    with pytest.raises(SteerError, match=r"holds a run with other settings \(min_support\)"):
        label(logs, scorer=spec, folder=tmp_path / "api", shard_size=50, lower=("hedging",))


def test_rows_in_memory_are_labelled_by_a_function() -> None:
    rows = [{"prompt": f"p{i}", "response": "word " * (i % 5 + 1)} for i in range(40)]

    def words(row: Any) -> int:
        return len(row["response"].split())

    found = label(rows, scorer=words, min_support=1)
    assert [row["predicted"] for row in found.rows[:3]] == [{"words": 1.0}, {"words": 2.0}, {"words": 3.0}]
    assert found.schema.levelled
    assert (found.scorer, found.spec) == ("python:words", "")
    with pytest.raises(SteerError, match="other processes cannot load it"):
        label(rows, scorer=words, num_proc=2, shard_size=10)
    with pytest.raises(SteerError, match=r"no row has a score\. .*, or a --scorer\.$"):
        label(rows)
    with pytest.raises(SteerError, match=r'no row has a score\. .* "steer label ROWS --scorer SCORER" needs none\.$'):
        fit(rows)


def test_continuous_scores_from_0_to_1_become_quantile_levels(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": f"ask {i // 2}", "response": "word " * (1 + i), "scores": {"share": i / 39, "passed": float(i > 19)}}
        for i in range(40)
    ]
    assert [len(a.shown) for a in label(rows, held_out=0).schema.attributes[:2]] == [5, 2]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("steer: 'share' takes many values between two whole numbers: its levels are quantiles")
    assert [len(a.shown) for a in label(rows, scorer=fit(rows), held_out=0).schema.attributes[:2]] == [5, 2]
    few = [{**row, "scores": {"share": (i % 5) / 4}} for i, row in enumerate(rows)]
    assert len(label(few, held_out=0).schema["share"].shown) == 2
