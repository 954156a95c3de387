"""Rows per second of our scorer and of transformers' pipeline("text-classification") on one model and machine.

    python benchmarks/label.py SHARED [--rows 1000] [--repeats 5]

SHARED is the folder that holds data/. The model is a BERT with random weights and four labels, made on the spot with a
tokenizer trained on the same texts; the rows are prompts and responses of five public sets, of mixed length. The
pipeline runs at the best of several batch sizes, which a sweep finds first. Both then score all rows in turn, several
times; what is printed is the median of the paired ratios, and the largest difference of a score. `--candidates` takes
a causal model and SummEval instead, whose 16 candidates of a prompt share what is computed of it. A line says how
near both are to the machine: operations of the matrix products that a score needs, per second, beside those of the
model's largest product alone, on as many tokens as a batch of ours holds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

SETS = ("pairs_hh_harmless_test", "pairs_finegrained_dev", "pairs_llmbar", "topical_chat_turns", "nlg_novikova")
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
LABELS = 4
T = TypeVar("T")


def records(shared: Path) -> Iterator[dict[str, Any]]:
    """Rows with a prompt of one turn and a response, the same number of each set."""
    for name in SETS:
        with gzip.open(shared / "data" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                raw = json.loads(line)
                response = raw.get("response") or raw.get("chosen")
                if raw["prompt"].strip() and response:
                    yield {"set": name, "prompt": [{"role": "user", "content": raw["prompt"]}], "response": response}


def sample(shared: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows, as many of each set, in random order."""
    every: dict[str, list[dict[str, Any]]] = {name: [] for name in SETS}
    for row in records(shared):
        every[row["set"]].append(row)
    rng = random.Random(seed)
    rows = [row for name in SETS for row in rng.sample(every[name], count // len(SETS))]
    rng.shuffle(rows)
    return rows


def candidates(shared: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` rows of SummEval: 16 candidates of each prompt."""
    with gzip.open(shared / "data" / "summeval.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    found.sort(key=lambda raw: raw["prompt"])
    return [{"prompt": [{"role": "user", "content": r["prompt"]}], "response": r["response"]} for r in found[:count]]


def build_causal(folder: Path, rows: list[dict[str, Any]], hidden: int, layers: int) -> None:
    """Save a random Llama of four labels, with a tokenizer for which a text is its words."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = BertWordPieceTokenizer()
    words.train_from_iterator(texts(rows), vocab_size=8000, show_progress=False)
    words._tokenizer.post_processor = None
    made = PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, eos_token="[SEP]", pad_token="[PAD]")
    made.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 64),
        intermediate_size=3 * hidden,
        max_position_embeddings=2048,
        num_labels=LABELS,
        pad_token_id=made.pad_token_id,
        initializer_range=0.2,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)


def texts(rows: list[dict[str, Any]]) -> list[str]:
    """All prompts and responses."""
    return [text for row in rows for text in (row["prompt"][0]["content"], row["response"])]


def build(folder: Path, rows: list[dict[str, Any]], hidden: int, layers: int) -> None:
    """Save a random BERT of four labels with a WordPiece tokenizer of the rows."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = BertWordPieceTokenizer()
    words.train_from_iterator(texts(rows), vocab_size=8000, show_progress=False)
    words.save_model(str(folder))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=2048).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
        max_position_embeddings=2048,
        num_labels=LABELS,
        initializer_range=0.2,
    )
    BertForSequenceClassification(config).save_pretrained(folder)


WORKER: list[Any] = []  # the scorer of a worker process


def start(folder: str) -> None:
    """Load the scorer in a worker process, which computes on one core."""
    import torch
    import transformers

    from attribute_models.regression import Classifier

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    WORKER.append(Classifier(folder, max_length=2048))


def score(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Scores of a part of the rows, in a worker process."""
    found: np.ndarray[Any, Any] = WORKER[0].score(rows)
    return found


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that some work takes, and what it returns."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def needed(model: Any, lengths: list[int]) -> float:
    """Operations of the matrix products and the attention that a pass over texts of these lengths needs, no padding."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    total = 0.0
    for length, times in Counter(lengths).items():
        with FlopCounterMode(display=False) as counted, torch.inference_mode():
            model(input_ids=torch.zeros((1, length), dtype=torch.long, device=model.device))
        total += times * counted.get_total_flops()
    return total


def product(model: Any) -> float:
    """Operations per second of multiplying the states of a batch by the model's largest matrix: the best of 20."""
    import torch

    from attribute_models.backbone import BUDGET

    weights = max((m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)), key=torch.numel)
    states = torch.randn(BUDGET["cpu"], weights.shape[1])
    with torch.inference_mode():
        seconds = min(timed(lambda: torch.nn.functional.linear(states, weights))[0] for _ in range(20))
    return 2 * len(states) * weights.numel() / seconds


def main() -> None:
    """Build, sweep, time in pairs, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--candidates", action="store_true", help="a causal model on SummEval")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both, where they are one process")
    parser.add_argument("--processes", type=int, default=1, help="of ours, each on one thread")
    args = parser.parse_args()
    import torch
    import transformers

    from attribute_models.regression import Classifier

    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    rows = candidates(args.shared, args.rows) if args.candidates else sample(args.shared, args.rows, 0)
    transformers.utils.logging.disable_progress_bar()
    made = tempfile.mkdtemp()
    (build_causal if args.candidates else build)(Path(made), rows, args.hidden, args.layers)
    ours = Classifier(made, max_length=2048)
    device = ours.backbone.device
    pipe = transformers.pipeline("text-classification", model=made, device=device, function_to_apply="none")
    lengths = [len(tokens.ids) for tokens in ours.backbone.read(rows)]
    pairs = [{"text": row["prompt"][0]["content"], "text_pair": row["response"]} for row in rows]
    whole = [f"{pair['text']}\n{pair['text_pair']}[SEP]" for pair in pairs]
    given = whole if args.candidates else pairs
    parameters = sum(p.numel() for p in ours.backbone.model.parameters())

    def theirs(batch_size: int, some: int | None = None) -> np.ndarray[Any, Any]:
        found = pipe(given[:some], batch_size=batch_size, top_k=None)
        return np.asarray([[x["score"] for x in sorted(line, key=lambda x: x["label"])] for line in found])

    pool = ProcessPoolExecutor(args.processes, get_context("spawn"), start, (made,)) if args.processes > 1 else None
    parts = [rows[i :: args.processes] for i in range(args.processes)]

    def mine() -> np.ndarray[Any, Any]:
        if pool is None:
            return ours.score(rows)
        out = np.empty((len(rows), LABELS))
        for i, found in enumerate(pool.map(score, parts)):  # as `steer label --num-proc` does with its parts
            out[i :: args.processes] = found
        return out

    sets = "SummEval, 16 candidates of a prompt" if args.candidates else ", ".join(SETS)
    kind = "Llama" if args.candidates else "BERT"
    print(f"{len(rows)} rows of {sets}; tokens {min(lengths)} to {max(lengths)}, median ", end="")
    print(f"{statistics.median(lengths):.0f}; {kind} of {parameters:,} parameters, {device}, {args.threads} threads")
    some = max(64, len(rows) // 4)
    mine(), theirs(8, 64)  # warm-up
    sweep = {size: some / min(timed(partial(theirs, size, some))[0] for _ in range(2)) for size in BATCH_SIZES}
    print("pipeline, rows/s by batch size: " + ", ".join(f"{size}: {rate:.0f}" for size, rate in sweep.items()))
    best = max(sweep, key=lambda size: sweep[size])
    ratios, rates, difference = [], [], 0.0
    for repeat in range(args.repeats):
        works = [mine, lambda: theirs(best)]
        turn = 1 if repeat % 2 == 0 else -1  # who goes first alternates
        (own, a), (other, b) = [timed(work) for work in works[::turn]][::turn]
        ratios.append(other / own)
        rates.append((len(rows) / own, len(rows) / other))
        difference = max(difference, float(np.abs(a - b).max()))
    own, other = (statistics.median(pair[i] for pair in rates) for i in (0, 1))
    print(f"steer, {args.processes} process(es): {own:.0f} rows/s; pipeline at batch size {best}: {other:.0f} rows/s")
    print(f"ratio {statistics.median(ratios):.2f} (median of {args.repeats} pairs, {min(ratios):.2f} to ", end="")
    print(f"{max(ratios):.2f}); largest difference of a score {difference:.1e}")
    shutil.rmtree(made)
    work, most = needed(ours.backbone.model, lengths) / len(rows) / 1e9, product(ours.backbone.model) / 1e9
    print(f"a plain pass is {work:.2f} thousand million operations a row: {work * own:.0f} a second in ours, ", end="")
    print(f"{work * other:.0f} in the pipeline; the largest matrix product alone runs at {most:.0f}")
    print(f"{platform.machine()}, torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
