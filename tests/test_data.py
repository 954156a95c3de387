"""`steer data`: splits, duplicates, mixtures, maps, exports, and what it says of bad and of real input."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_recipes import duplicates, exports, layouts
from data_recipes.scales import Scales
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.rows import prompt_key, read_rows
from steer.rows.command import data_command
from steer.run_folder import read_json

WORDS = [f"w{i}" for i in range(500)]


def put(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def made(count: int, seed: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Rows with a long prompt of random words each."""
    draw = random.Random(seed)
    return [
        {"prompt": " ".join(draw.choices(WORDS, k=40)), "response": f"answer {seed} {i}", "quality": 1 + i % 5, **more}
        for i in range(count)
    ]


def refusal(config: DataConfig) -> str:
    with pytest.raises(SteerError) as caught:
        data_command(config)
    assert not Path(config.output).exists()  # what is refused leaves nothing behind
    return str(caught.value)


def test_splits_are_by_prompt_and_do_not_depend_on_the_order(tmp_path: Path) -> None:
    records = [{**r, "response": f"{r['response']} {i}"} for r in made(200) for i in (1, 2)]
    sides = []
    for i, some in enumerate((records, records[::-1])):
        data_command(DataConfig(put(tmp_path / f"{i}.jsonl", some), str(tmp_path / f"run{i}"), held_out=0.3))
        sides.append({row["id"]: row["split"] for row in read_rows(tmp_path / f"run{i}")})
    assert sides[0] == sides[1]
    by_prompt: dict[str, set[str]] = {}
    for row in read_rows(tmp_path / "run0"):
        by_prompt.setdefault(prompt_key(row), set()).add(row["split"])
    assert all(len(found) == 1 for found in by_prompt.values())
    assert 30 <= sum(found == {"test"} for found in by_prompt.values()) <= 90  # .3 of 200, four sd either way


def test_duplicates_across_splits_leave_training_and_are_named(tmp_path: Path) -> None:
    base = made(60)
    words = base[1]["prompt"].split()
    test = [{**r, "split": "test"} for r in base[:20]]
    train = [
        *({**r, "split": "train"} for r in base[20:]),
        {**base[0], "prompt": f"  {base[0]['prompt'].upper()}!! ", "response": "same", "split": "train"},
        {**base[1], "prompt": " ".join([*words[:-1], "other"]), "response": "near", "split": "train"},
        {**base[2], "prompt": " ".join(base[2]["prompt"].split()[:20]), "response": "far", "split": "train"},
        {**base[20], "split": "train"},
    ]
    source = put(tmp_path / "log.jsonl", [*train, *test])
    said = data_command(DataConfig(source, str(tmp_path / "keep")))
    assert "warning" not in said  # not one of them is the same to the letter
    said = data_command(DataConfig(source, str(tmp_path / "exact"), duplicates="exact"))
    assert "left out: 1 training rows whose prompt is that of a test row" in said
    assert "left out: 1 rows that repeat another's prompt, response and scores" in said
    said = data_command(DataConfig(source, str(tmp_path / "near"), duplicates="near"))
    assert "left out: 1 training rows whose prompt is like that of a test row (0.8 or more)" in said
    kept = {row["response"] for row in read_rows(tmp_path / "near")}
    assert kept >= {"far"} | {r["response"] for r in test}
    assert not kept & {"same", "near"}
    left = [json.loads(line) for line in (tmp_path / "near" / "left_out.jsonl").read_text().splitlines()]
    assert [r["why"].split(":")[0] for r in left] == [
        "its prompt is also that of a test row",
        "its prompt is like one of the test rows (0.95)",  # 37 of 39 triples
        "prompt, response and scores are those of an earlier row",
    ]
    data_command(
        DataConfig(put(tmp_path / "turned.jsonl", [*test, *train[::-1]]), str(tmp_path / "turned"), duplicates="near")
    )
    assert {row["response"] for row in read_rows(tmp_path / "turned")} == kept


def test_the_same_prompt_on_both_sides_is_said(tmp_path: Path) -> None:
    (one,) = made(1)
    source = put(tmp_path / "log.jsonl", [{**one, "split": "train"}, {**one, "response": "x", "split": "test"}])
    said = data_command(DataConfig(source, str(tmp_path / "run")))
    assert "warning: 1 prompts are in training and held out: --duplicates exact or near, or --resplit." in said
    data_command(DataConfig(source, str(tmp_path / "again"), resplit=True))
    assert len({row["split"] for row in read_rows(tmp_path / "again")}) == 1


def test_similarity_is_the_exact_jaccard_of_word_triples() -> None:
    draw = random.Random(1)
    near = duplicates.Near(0.5)
    base = draw.choices(WORDS, k=60)
    near.add(" ".join(base))
    for changed in (0, 3, 10, 30):
        text = " ".join([*base[: 60 - changed], *draw.choices(WORDS, k=changed)])
        a, b = ({tuple(t.split()[i : i + 3]) for i in range(58)} for t in (text, " ".join(base)))
        expected = len(a & b) / len(a | b)
        found = near.like(text)
        assert (found is None) == (expected < 0.5)
        assert found is None or found[0] == pytest.approx(expected)
    assert near.like("only two") is None
    near.add("only two")
    assert near.like("only two") == (1.0, "only two")


def test_a_mixture_has_the_proportions_of_its_weights(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a.jsonl", made(300, 1)), put(tmp_path / "b.jsonl", made(100, 2))
    data_command(DataConfig(a, str(tmp_path / "all"), mix=(b,)))
    assert Counter(row["source"] for row in read_rows(tmp_path / "all")) == {a: 300, b: 100}
    said = data_command(DataConfig(a, str(tmp_path / "half"), mix=(b,), weight=("1", "2")))
    rows = read_rows(tmp_path / "half")
    assert Counter(row["source"] for row in rows) == {a: 50, b: 100}
    assert "left out: 250 rows beyond their source's weight" in said
    turned = put(tmp_path / "turned.jsonl", made(300, 1)[::-1])
    data_command(DataConfig(turned, str(tmp_path / "turned"), mix=(b,), weight=("1", "2")))
    assert {row["id"] for row in read_rows(tmp_path / "turned")} == {row["id"] for row in rows}
    data_command(DataConfig(a, str(tmp_path / "twice"), mix=(a,)))
    assert len({row["id"] for row in read_rows(tmp_path / "twice")}) == 600
    for wrong in ("quality", "quality=5:1", "quality=1.2.3:5", "quality=a:b"):
        assert "wanted NAME=LOW:HIGH" in refusal(DataConfig(a, str(tmp_path / "x"), range=(wrong,)))
    assert "no row has a score 'qualty'; did you mean 'quality'?" in refusal(
        DataConfig(a, str(tmp_path / "x"), range=("qualty=1:5",))
    )
    assert "a source is named twice" in refusal(DataConfig(a, str(tmp_path / "x"), mix=(a,), weight=("1", "1")))
    assert "--weight: wanted 2, one for each" in refusal(DataConfig(a, str(tmp_path / "x"), mix=(b,), weight=("1",)))
    assert "--weight 0: wanted a number above 0" in refusal(
        DataConfig(a, str(tmp_path / "x"), mix=(b,), weight=("1", "0"))
    )


def test_several_raters_of_a_response_become_one_row(tmp_path: Path) -> None:
    axis = {"info": {"id": "c1", "article": "Long"}, "split": "test", "worker": "w1", "batch": "b"}
    judged = [{"overall": 3, "accuracy": 5}, {"overall": 6, "accuracy": None}, {"overall": 6}]
    records = [{**axis, "worker": i, "summary": {"text": "Short", "axes": axes}} for i, axes in enumerate(judged)]
    records.append({**axis, "summary": {"text": "Other", "axes": {"overall": 1}}})
    source = put(tmp_path / "axis.json", records)
    data_command(DataConfig(source, str(tmp_path / "single")))
    assert len(read_rows(tmp_path / "single")) == 4
    said = data_command(DataConfig(source, str(tmp_path / "run"), merge_raters=True))
    assert "merged: 2 rows into others with the same prompt and response, as further raters" in said
    first, other = read_rows(tmp_path / "run")
    assert first["scores"] == {"overall": 5.0, "accuracy": 5.0}
    assert first["raters"] == {"overall": [3.0, 6.0, 6.0], "accuracy": [5.0, None, None]}
    assert (other["scores"], "raters" in other) == ({"overall": 1.0}, False)


def test_columns_of_any_name_by_map(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('question,answer,judged\nHi,Hello,"{""stars"": 4}"\nYou?,Fine,"{""stars"": 5}"\n')
    columns = ("prompt=question", "response=answer quality=judged.stars")
    data_command(DataConfig(str(path), str(tmp_path / "run"), map=columns))
    assert [row["scores"] for row in read_rows(tmp_path / "run")] == [{"quality": 4.0}, {"quality": 5.0}]
    wrong = (*columns[:1], "response=answer quality=judged.star")
    said = refusal(DataConfig(str(path), str(tmp_path / "x"), map=wrong))
    assert said == "--map quality: no record has anything at 'judged.star'."
    said = refusal(DataConfig(str(path), str(tmp_path / "x"), map=("prompt",)))
    assert said.startswith("--map prompt: wanted NAME=COLUMN")


def test_bare_texts_get_a_prompt_and_both_sides(tmp_path: Path) -> None:
    source = put(tmp_path / "log.jsonl", [{"text": f"Sentence {i}.", "joy": i % 3} for i in range(100)])
    config = DataConfig(
        source, str(tmp_path / "run"), map=("response=text", "joy=joy"), default_prompt="Write a sentence."
    )
    assert "warning" not in data_command(config)
    rows = read_rows(tmp_path / "run")
    assert {row["prompt"][0]["content"] for row in rows} == {"Write a sentence."}
    assert Counter(row["split"] for row in rows).keys() == {"train", "test"}


BAD = [
    {"prompt": "a", "response": "one", "quality": 4},
    {"prompt": "b", "response": " ", "quality": 4},
    {"prompt": "c", "response": "three", "quality": 9},
    {"prompt": "d", "response": "four", "quality": None},
    {"prompt": "e", "response": "five"},
    {"messages": [{"content": "x"}], "quality": 2},
    {"prompt": [["nested"]], "response": "seven", "quality": 2},
    {"prompt": "h", "response": {"said": "eight"}, "quality": 2},
    {"prompt": "i", "response": "nine", "scores": {"quality": "good"}},
    {"id": "same", "prompt": "j", "response": "ten", "quality": 1},
    {"id": "same", "prompt": "k", "response": "eleven", "quality": 1},
]


@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_a_blank_response_is_named_by_the_column_that_it_is_read_from(column: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    put(path, [{"prompt": "a", "chosen": "one", "rejected": "two", column: " "}])
    assert f"{path}:1: column '{column}': is blank." in refusal(DataConfig(str(path), str(tmp_path / "run")))


def test_bad_rows_are_refused_with_their_place_or_skipped_and_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    put(path, BAD)
    with path.open("ab") as file:
        file.write(b'{"prompt": "l", "response": "caf\xe9"}\n{broken\n[1, 2]\n{"prompt": "m", "response": "last"}\n')
    said = refusal(DataConfig(str(path), str(tmp_path / "run"), range=("quality=1:5",)))
    remedy = "Write what was answered, or remove the row. Or skip what cannot be used: --bad skip."
    assert said == f"{path}:2: column 'response': is blank. {remedy}"
    said = data_command(DataConfig(str(path), str(tmp_path / "run"), range=("quality=1:5",), bad="skip", held_out=0))
    assert [row["response"] for row in read_rows(tmp_path / "run")] == ["one", "four", "five", "ten", "last"]
    assert said.endswith("data: 5 rows in, 5 out, 10 skipped; 5 for training, 0 held out.")
    assert "quality  2 scores from 1 to 4, 3 unknown" in said
    left = [json.loads(line)["why"] for line in (tmp_path / "run" / "left_out.jsonl").read_text().splitlines()]
    assert [why.removeprefix(f"{path}:").split(". ")[0] for why in left] == [
        "2: column 'response': is blank",
        "3: column 'scores': 'quality' is 9, outside 1 to 5",
        "6: column 'messages': turn 1 has no role",
        "7: column 'prompt': turn 1 has no role",
        "8: column 'response': holds no choices",
        "9: column 'scores': attribute 'quality' holds 'good', wanted a number or null.",
        "11: column 'id': 'same' is also the id of an earlier row",
        "12:33: byte 0xe9 is not UTF-8",
        "13:2: broken JSON (Expecting property name enclosed in double quotes)",
        "14: holds a list, not an object {...}",
    ]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
def test_a_packed_file_cut_short_is_refused_or_used_as_far_as_it_goes(tmp_path: Path, suffix: str) -> None:
    import zstandard

    draw = random.Random(0)
    records = [{"prompt": str(draw.random()), "response": str(draw.random()), "quality": 1} for _ in range(6_000)]
    whole = "".join(json.dumps(r) + "\n" for r in records).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress, ".xz": lzma.compress}
    packed = pack[suffix](whole)
    path = tmp_path / f"log.jsonl{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    said = refusal(DataConfig(str(path), str(tmp_path / "run")))
    assert "cannot be unpacked (the packed data ends too early). Copy or download it again." in said
    data_command(DataConfig(str(path), str(tmp_path / "run"), bad="skip"))
    rows = read_rows(tmp_path / "run")
    assert 100 < len(rows) < 6_000
    assert [row["response"] for row in rows] == [r["response"] for r in records[: len(rows)]]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_line_without_an_end(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_recipes import streams

    monkeypatch.setattr(streams, "MAX_LINE", 1000)
    path = tmp_path / f"log{suffix}"
    rows = made(3)
    if suffix == ".jsonl":
        put(path, [rows[0], {**rows[1], "response": "x" * 300_000}, rows[2]])
    else:
        lines = [f"{r['prompt']},{r['response']}\n" for r in rows]
        path.write_text("prompt,response\n" + lines[0] + "y," + "x" * 300_000 + "\n" + lines[2])
    number = 2 if suffix == ".jsonl" else 3
    said = refusal(DataConfig(str(path), str(tmp_path / "run")))
    assert said.startswith(f"{path}:{number}: the line is longer than 0.000953674 MiB. Write one row a line")
    data_command(DataConfig(str(path), str(tmp_path / "run"), bad="skip"))
    assert [row["response"] for row in read_rows(tmp_path / "run")] == [rows[0]["response"], rows[2]["response"]]


def test_an_array_on_one_line_may_be_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_recipes import streams

    monkeypatch.setattr(streams, "MAX_LINE", 1000)
    (tmp_path / "log.json").write_text(json.dumps(made(20)))
    data_command(DataConfig(str(tmp_path / "log.json"), str(tmp_path / "run")))
    assert len(read_rows(tmp_path / "run")) == 20


def test_a_quote_that_never_closes_does_not_eat_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_recipes import streams

    monkeypatch.setattr(streams, "MAX_LINE", 1000)
    path = tmp_path / "log.csv"
    path.write_text('prompt,response\na,"open\n' + "b,fine\n" * 1000)
    assert "broken row (field larger than field limit (1000))" in refusal(DataConfig(str(path), str(tmp_path / "run")))


def scales(*columns: list[float], sources: tuple[str, ...] = ("log",)) -> list[str]:
    found = Scales()
    for source, values in zip(sources, columns):
        for value in values:
            found.add({"scores": {"quality": value}}, source)
    return found.warnings()


def test_two_scales_in_one_attribute_are_told_with_their_counts() -> None:
    (said,) = scales([0.1, 0.5, 0.9] * 10 + [1, 2, 3, 4, 5] * 10)
    assert "30 scores are fractions between 0 and 1, 40 are whole numbers above 1" in said
    (said,) = scales([0, 1, 2, 3, 4] * 10 + [1, 2, 3, 4, 5] * 10)
    assert "0 stands only in the first 46 rows, 5 only after them" in said
    (said,) = scales([0, 1, 2, 3, 4] * 5, [1, 2, 3, 4, 5] * 6, sources=("a", "b"))
    assert "a from 0 to 4 (25), b from 1 to 5 (30)" in said
    (said,) = scales([0.25, 0.5, 1.0] * 5, [1, 2, 3, 4, 5] * 6, sources=("a", "b"))
    assert "a from 0.25 to 1 (15), b from 1 to 5 (30)" in said
    (points,) = scales([1, 3, 5] * 5, [10, 50, 100] * 6, sources=("a", "b"))
    assert "a from 1 to 5 (15), b from 10 to 100 (18)" in points
    assert said.endswith("Nothing was changed; bring them to one scale, or give them two names.")


def test_one_scale_is_not_suspected() -> None:
    draw = random.Random(0)
    mixed = [float(draw.randint(0, 5)) for _ in range(200)]
    assert not scales(mixed)
    assert not scales(sorted(mixed))
    assert not scales([draw.random() for _ in range(200)])
    assert not scales([draw.uniform(1, 5) for _ in range(200)])
    assert not scales([1, 1.5, 2, 0.5] * 20)
    assert not scales([0, 1] * 50)
    assert not scales([1, 2, 3, 4, 5] * 10, [2, 3, 4, 5] * 10, sources=("a", "b"))
    assert not scales([0, 1, 2] * 10, [1, 2, 3, 4] * 10, sources=("sloppy", "expert"))


def test_exports_read_back_as_the_same_rows(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
    talk += [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "More"}]
    rows = [
        {"id": "a", "prompt": talk, "response": "Yes", "scores": {"quality": 4.0, "tone": 0.1 + 0.2}, "group": "g"},
        {
            "id": "b",
            "prompt": talk[1:2],
            "response": "No\nwell",
            "scores": {},
            "note": [1, {"x": None}],
            "split": "test",
        },
        {"id": "c", "prompt": talk[1:2], "response": "Go", "scores": {"quality": -2.5}, "after_response": talk[1:3]},
    ]
    for row in rows:
        assert layouts.rows(exports.prompt_completion(row)) == [row]
        assert layouts.rows(exports.steerlm(row)) == [row]
    named = {"id": "d", "prompt": talk[1:2], "response": "Go", "scores": {}, "system": "M11", "mask": "x"}
    (back,) = layouts.rows(exports.steerlm(named))
    assert back == {**{c: v for c, v in named.items() if c not in ("system", "mask")}, "system_": "M11", "mask_": "x"}
    assert exports.steerlm(rows[0])["conversations"][-1] == {
        "from": "Assistant",
        "value": "Yes",
        "label": "quality:4,tone:0.30000000000000004",
    }


def test_pairs_survive_the_preference_export(tmp_path: Path) -> None:
    pairs = [{"prompt": f"Hi {i}", "chosen": "Good", "rejected": "Bad", "score_chosen": 8, "score_rejected": 3, "id": i}
             for i in range(50)]  # fmt: skip
    config = DataConfig(put(tmp_path / "pairs.jsonl", pairs), str(tmp_path / "run"), export=("trl-preference",))
    said = data_command(config)
    train, test = ([r for r in read_rows(tmp_path / "run") if r["split"] == side] for side in ("train", "test"))
    assert f"exported: trl-preference, {len(train) // 2} train, {len(test) // 2} test" in said
    for side, rows in (("train", train), ("test", test)):
        assert read_rows(tmp_path / "run" / "trl-preference" / f"{side}.jsonl") == rows
    only = DataConfig(config.source, str(tmp_path / "train"), export=("trl-preference",), held_out=0)
    assert "exported: trl-preference, 50 train, 0 test" in data_command(only)
    assert [path.name for path in (tmp_path / "train" / "trl-preference").iterdir()] == ["train.jsonl"]


def test_the_best_and_the_worst_candidate_make_a_pair(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "response": f"r{q}", "quality": q, "rank": 5 - q} for q in (3, 1, 5)]
    rows += [{"prompt": "Tie", "response": r, "quality": 2, "rank": 1} for r in ("a", "b")]
    rows += [{"prompt": "Alone", "response": "x", "quality": 2, "rank": 0}]
    source = put(tmp_path / "log.jsonl", rows)
    said = refusal(DataConfig(source, str(tmp_path / "x"), export=("trl-preference",)))
    assert said.startswith("--export trl-preference: order candidates with --by NAME;")
    for by in ("quality", "-rank"):
        config = DataConfig(source, str(tmp_path / by), export=("trl-preference",), by=by, held_out=0)
        assert "1 train (4 rows in none of them)" in data_command(config)
        (pair,) = (json.loads(line) for line in (tmp_path / by / "trl-preference" / "train.jsonl").open())
        assert [pair[s][0]["content"] for s in ("chosen", "rejected")] == ["r5", "r1"]
        assert (pair["quality_chosen"], pair["quality_rejected"]) == (5.0, 1.0)
    assert "unknown 'trl'" in refusal(DataConfig(source, str(tmp_path / "x"), export=("trl",)))
    said = data_command(DataConfig(source, str(tmp_path / "worst"), export=("trl-preference",), by="rank", held_out=0))
    assert "warning: of 'rank' lower is better, so chosen is the worse one: --by -rank." in said


def test_the_chosen_of_an_export_is_the_better_end_of_its_only_score(tmp_path: Path) -> None:
    for name, chosen in (("toxicity", "r1"), ("quality", "r5")):
        rows = [{"prompt": "Hi", "response": f"r{q}", name: q} for q in (3, 1, 5)]
        config = DataConfig(
            put(tmp_path / f"{name}.jsonl", rows), str(tmp_path / name), export=("trl-preference",), held_out=0
        )
        said = data_command(config)
        (pair,) = (json.loads(line) for line in (tmp_path / name / "trl-preference" / "train.jsonl").open())
        assert pair["chosen"][0]["content"] == chosen
        assert f"chosen is the {'lowest' if name == 'toxicity' else 'highest'} {name}, rejected" in said
        assert "warning: of" not in said
    rows = [{"prompt": "Hi", "response": f"r{q}", "verbosity": q} for q in (3, 1, 5)]
    config = DataConfig(put(tmp_path / "v.jsonl", rows), str(tmp_path / "v"), export=("trl-preference",))
    assert "order candidates with --by NAME" in refusal(config)  # neither end is better


def test_tools_have_no_place_in_steerlm_and_are_counted(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "2+2"}, {"role": "tool", "content": "4"}, {"role": "user", "content": "So?"}]
    source = put(tmp_path / "log.jsonl", [{"prompt": asked, "response": "4"}, {"prompt": "Hi", "response": "Hello"}])
    said = data_command(
        DataConfig(source, str(tmp_path / "run"), export=("steerlm", "trl-prompt-completion"), held_out=0)
    )
    assert "exported: steerlm, 1 train (1 rows in none of them), 0 test" in said
    assert "exported: trl-prompt-completion, 2 train, 0 test" in said


def test_a_batch_of_requests_and_results(tmp_path: Path) -> None:
    def asked(name: str) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": name}]}
        return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}

    def answer(name: str) -> dict[str, Any]:
        body = {"choices": [{"message": {"content": name * 2}}]}
        return {"id": "x", "custom_id": name, "error": None, "response": {"status_code": 200, "body": body}}

    answers = [answer(name) for name in "ba"]
    config = DataConfig(put(tmp_path / "out.jsonl", answers), str(tmp_path / "run"))
    assert "result 'b' has no request. Name the file that was sent with --requests" in refusal(config)
    requests = put(tmp_path / "in.jsonl", [asked(name) for name in "ab"])
    data_command(DataConfig(config.source, config.output, requests=requests))
    assert {row["id"]: row["response"] for row in read_rows(tmp_path / "run")} == {"a": "aa", "b": "bb"}


# name -> (settings, records that were recognised, rows out, skipped, attributes)
REAL: dict[str, tuple[dict[str, Any], int, int, int, set[str]]] = {
    "summeval": ({}, 1600, 1600, 0, {"coherence", "consistency", "fluency", "relevance"}),
    "nlg_novikova": ({}, 2460, 2460, 0, {"informativeness", "naturalness", "quality"}),
    "emobank": ({"default_prompt": "Write a sentence."}, 10062, 10062, 0, {"V", "A", "D"}),
    "topical_chat_turns": ({"resplit": True}, 44312, 44312, 0, {"turn_rating", "conversation_rating"}),
    "pairs_hh_harmless_test": ({"bad": "skip"}, 2304, 4608, 8, {"preference"}),
    "pairs_llmbar": ({"bad": "skip"}, 1199, 2396, 1, {"preference"}),
    "pairs_finegrained_dev": ({}, 2616, 5232, 0, {"preference"}),
    "open_instruct_human": ({}, 1150, 2298, 0, {"preference", "acceptable"}),
    "oasst_sample_messages": ({}, 687, 687, 0, {"rank", "plus_1", "minus_1"}),
    "steerlm_format_512": ({}, 512, 512, 0, {"helpfulness", "correctness", "coherence", "complexity", "verbosity"}),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if REAL[n][1] > 40_000 else n for n in REAL])
def test_real_files_from_end_to_end(name: str, shared: Path, tmp_path: Path) -> None:
    settings, records, rows, skipped, attributes = REAL[name]
    said = data_command(DataConfig(str(shared / "data" / f"{name}.jsonl.gz"), str(tmp_path / "run"), **settings))
    done = read_json(tmp_path / "run" / "done.json")
    assert (sum(done["layouts"].values()), done["rows"]) == (records, rows)
    assert f"{rows} rows in, {rows} out, {skipped} skipped; " in said
    found = read_rows(tmp_path / "run")
    assert {n for row in found for n in row["scores"]} == attributes
    sides = Counter(row["split"] for row in found)
    assert 0.07 < sides["test"] / rows < 0.21
    assert all("prompter: " not in row["prompt"][-1]["content"] for row in found)
