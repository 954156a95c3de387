"""Drawing and labelling with a random Llama on one GPU, by steer and by its peers: what `gpu.py` calls."""

from __future__ import annotations

import importlib.util
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.generate import continuously, generated
from benchmarks.gpu_models import LENGTH, SHAPES, Shape, build, config_of, tokenizer_of
from steer import device
from steer.conditioning.chat import PLAIN
from steer.generation.engines import respond
from steer.generation.requests import EncodedRequest, Request, encode
from steer.generation.settings import Sampling
from steer.models.policy import Policy

REPEATS = 3
SAMPLES, DRAWN = 4, 128  # responses of a prompt, and the most tokens of each
LABELS = 4
SIZES = (16, 64, 256)  # batches of the pipeline, of which the best is taken
DRAWERS = ("steer", "transformers", "transformers, continuous", "vllm")
LABELLERS = ("steer", "transformers", "vllm")
Found = tuple[float, float]  # tokens per second, and what the table shows beside them


def present(name: str) -> bool:
    """Whether a system can run here: vLLM only where it is installed, FlexAttention trains on no CPU."""
    if name == "vllm":
        return importlib.util.find_spec("vllm") is not None
    return "flex" not in name or device.kind() != "cpu"


def words(shape: Shape, lengths: list[int]) -> list[str]:
    """Texts of so many random words each, all different."""
    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(2, shape.vocabulary)}" for _ in range(n)) for n in lengths]


def mixed(count: int, shortest: int, longest: int) -> list[int]:
    """Lengths between two, in random order."""
    draw = random.Random(1)
    return [draw.randint(shortest, longest) for _ in range(count)]


def timed(run: Callable[[], tuple[int, float]]) -> Found:
    """Median of the tokens per second of some runs, after one that warms up; what the last one found."""
    rates, found = [], 0.0
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        tokens, found = run()
        device.wait(torch.device(device.own()))
        rates.append(tokens / (time.perf_counter() - began))
    return statistics.median(rates[1:]), found


def draw(size: str, system: str, prompts: int) -> Found:
    """Tokens drawn per second, and tokens drawn for each response: `prompts` of 64 to 448 tokens, four samples each."""
    from transformers import LlamaForCausalLM

    shape = SHAPES[size]
    tokenizer = tokenizer_of(shape)
    tokenizer.chat_template = PLAIN
    texts = words(shape, mixed(prompts, 64, 448))
    rows: list[Any] = [{"id": str(i), "prompt": [{"role": "user", "content": t}]} for i, t in enumerate(texts)]
    requests = [Request(row, {}) for row in rows for _ in range(SAMPLES)]
    sampling = Sampling(max_new_tokens=DRAWN, batch_size=len(requests))
    if system == "vllm":
        with torch.device("meta"):  # vLLM has the weights
            light = Policy(LlamaForCausalLM(config_of(shape)), tokenizer, name="random")
        return timed(by_vllm(shape, tokenizer, encode(light, requests, sampling)))
    policy = Policy(build(shape, device.own(), four_bit=False).eval(), tokenizer, name="random")
    policy.model.generation_config.eos_token_id = tokenizer.eos_token_id
    asks = encode(policy, requests, sampling)

    def run() -> tuple[int, float]:
        if system == "transformers":
            count = generated(policy, asks, len(asks))
        elif system == "steer":
            count = sum(len(r.ids) for r in respond(policy, requests, sampling))
        else:
            count = sum(map(len, continuously(policy, asks)))
        return count, count / len(asks)

    return timed(run)


def by_vllm(shape: Shape, tokenizer: Any, asks: list[EncodedRequest]) -> Callable[[], tuple[int, float]]:
    """What draws with vLLM, which fills the weights with random numbers by itself."""
    import vllm

    model = vllm.LLM(**saved_config(shape, tokenizer, "LlamaForCausalLM"))
    params = [vllm.SamplingParams(temperature=1.0, max_tokens=DRAWN, seed=i) for i in range(len(asks))]
    prompts = [{"prompt_token_ids": list(ask.prompt)} for ask in asks]

    def run() -> tuple[int, float]:
        drawn = model.generate(prompts, params, use_tqdm=False)
        count = sum(len(x.outputs[0].token_ids) for x in drawn)
        return count, count / len(drawn)

    return run


def saved_config(shape: Shape, tokenizer: Any, named: str, **more: Any) -> dict[str, Any]:
    """Settings of a vLLM engine of this shape: a folder with a configuration and a tokenizer, without weights."""
    folder = tempfile.mkdtemp()
    config = config_of(shape, architectures=[named], **more)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    room = {"gpu_memory_utilization": 0.9} if device.kind() == "cuda" else {}
    return {"model": folder, "load_format": "dummy", "dtype": str(config.dtype).removeprefix("torch."), **room}


def label(size: str, system: str, prompts: int) -> Found:
    """Tokens read per second by a scorer of four labels, and the mean score: rows of 100 to 1,000 tokens."""
    from transformers import LlamaForSequenceClassification, pipeline

    from attribute_models.regression import Classifier

    shape, count = SHAPES[size], 8 * prompts
    tokenizer = tokenizer_of(shape)
    texts = words(shape, mixed(count, 100, 1000))
    tokens = sum(text.count(" ") + 2 for text in texts)  # and the end
    rows = [{"prompt": [], "response": text} for text in texts]
    if system == "vllm":
        import vllm

        settings = saved_config(shape, tokenizer, "LlamaForSequenceClassification", num_labels=LABELS)
        engine = vllm.LLM(**settings, runner="pooling")
        given = [{"prompt_token_ids": tokenizer(f"{text}</s>")["input_ids"]} for text in texts]

        def read() -> tuple[int, float]:
            found = engine.classify(given, use_tqdm=False)
            return tokens, statistics.fmean(x for output in found for x in output.outputs.probs)

        return timed(read)
    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    with torch.device(device.own()):
        made = LlamaForSequenceClassification(config_of(shape, num_labels=LABELS, initializer_range=0.1))
    made.to(device.dtype_of("auto")).save_pretrained(folder)
    del made
    tokenizer.save_pretrained(folder)
    if system == "steer":
        ours = Classifier(folder, max_length=LENGTH)
        return timed(lambda: (tokens, float(ours.score(rows).mean())))
    place = device.own()
    pipe = pipeline(
        "text-classification", model=folder, device=place, function_to_apply="none", dtype=device.dtype_of("auto")
    )

    def by(batch: int, some: int | None = None) -> tuple[int, float]:
        found = pipe([f"{text}</s>" for text in texts[:some]], batch_size=batch, top_k=None)
        return tokens, statistics.fmean(x["score"] for line in found for x in line)

    rates = {}
    for batch in SIZES:
        began = time.perf_counter()
        by(batch, count // 4)
        rates[batch] = 1 / (time.perf_counter() - began)
    best = max(rates, key=lambda batch: rates[batch])
    return timed(lambda: by(best))
