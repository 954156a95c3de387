"""Training, drawing and labelling at real sizes on one GPU: tokens per second, share of the peak, memory.

    python benchmarks/gpu.py [--case 8b-lora ...] [--steps 10] [--peer trl|transformers|none]

NOT RUN ON A GPU YET: there was none at hand when this was written; only the `tiny` cases were tried, on a CPU, and vLLM
nowhere. No number of it stands anywhere. Weights are random and made layer by layer, in 4 bits for QLoRA, so nothing
is downloaded and no unquantised model is ever held. Every system is a process of its own.

`SIZE-lora`, `SIZE-qlora`: the same sequences of 2,048 tokens, of which the last three quarters are the response. The
systems `packed` put four short sequences into each row, under the mask that keeps them apart: in SDPA, where it is
dense, and in FlexAttention, which skips its empty blocks. Model FLOPs per token: 4 for every frozen parameter (forward,
and the gradient that passes through), 6 for every trained one, and for causal attention 2 x layers x hidden x length
of a sequence and twice that backward. The frozen head counts for tokens of responses only, whoever computes more of it,
and recomputation by gradient checkpointing is no useful work either.

`SIZE-draw`: four samples of 128 tokens of each prompt, all at the same time: ours, padded batches of `model.generate`,
the continuous batching of transformers (greedy), and vLLM where it is installed. `SIZE-label`: a scorer of four labels
reads rows of 100 to 1,000 tokens: ours, the pipeline of transformers at the best of three batch sizes, and vLLM.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever is installed

from benchmarks.gpu_models import LENGTH, SHAPES, Shape, build
from benchmarks.gpu_serving import DRAWERS, LABELLERS, draw, label, present
from steer import device

PROMPT = 512
PEAK = {  # dense bfloat16; of names that hold another the longer one comes first, with 0 where it is not known
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 0.0,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "4090 D": 0.0,
    "4090 Laptop": 0.0,
    "4090": 165e12,
}
PARTS = 4  # sequences of a packed row
OURS = ("steer", "steer, packed", "steer, packed, flex")
CASES = ("1b-lora", "8b-lora", "8b-qlora", "70b-qlora", "1b-draw", "8b-draw", "1b-label")  # and those of `tiny`


def adapted(model: Any) -> Any:
    """The model with adapters of rank 32 and gradient checkpointing."""
    from steer.models.lora import Lora, add_lora
    from steer.models.precision import keep_masters
    from steer.progress import quiet

    made = add_lora(model, Lora(), 0)
    with quiet():
        made.gradient_checkpointing_enable({"use_reentrant": False})
    made.enable_input_require_grads()
    keep_masters(made)
    return made.train()


def flops(model: Any, shape: Shape, length: int) -> float:
    """Useful floating-point operations per token of sequences so long, see above; the embedding only looks up."""
    trained, every = model.get_nb_trainable_parameters()
    head = shape.vocabulary * shape.hidden  # as large as the embedding, and not tied to it
    frozen = every - trained - 2 * head + head * (LENGTH - PROMPT) / LENGTH
    return float(4 * frozen + 6 * trained + 3 * 2 * shape.layers * shape.hidden * length)


def ours(model: Any, ids: Tensor, parts: int = 1) -> Any:
    """One step of steer's parts on sequences [B, L], each of so many `parts`: forward, loss, backward."""
    from steer.models.collate import SPAN
    from steer.models.log_probs import ResponseLogps
    from steer.models.precision import compute_in

    module = ResponseLogps(model)
    compute_in(module, model.dtype, model.device.type)
    size = LENGTH // parts
    at = torch.arange(PROMPT // parts, size, device=ids.device)
    flat = (torch.arange(len(ids) * parts, device=ids.device)[:, None] * size + at).flatten()
    mask = (1 + SPAN * (torch.arange(LENGTH, device=ids.device) // size)).expand_as(ids)

    def step() -> Tensor:
        loss: Tensor = -module(ids, mask, flat - 1, ids.flatten()[flat], shared=parts > 1).mean()
        loss.backward()
        return loss

    return step


def plain(model: Any, ids: Tensor) -> Any:
    """The same by `transformers` itself: labels, and logits of every position."""
    labels = ids.clone()
    labels[:, :PROMPT] = -100

    def step() -> Tensor:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type != "cpu"):
            loss: Tensor = model(input_ids=ids, labels=labels).loss
        loss.backward()
        return loss

    return step


def by_trl(model: Any, ids: Tensor, steps: int) -> tuple[list[float], float]:
    """Seconds of every step of TRL's SFTTrainer, and its last loss."""
    import tempfile

    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": x, "labels": [-100] * PROMPT + x[PROMPT:]} for x in ids.tolist()] * steps
    times: list[float] = []
    raw = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>"))
    named = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>")
    given: dict[str, Any] = {"train_dataset": Dataset.from_list(rows), "processing_class": named}

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **more: Any) -> None:
            device.wait(torch.device(device.own()))
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as place:
        settings = SFTConfig(
            place, per_device_train_batch_size=len(ids), max_steps=steps, max_length=LENGTH, report_to=[],
            gradient_checkpointing=True, bf16=device.dtype_of("auto") == torch.bfloat16, use_cpu=device.kind() == "cpu",
            save_strategy="no", logging_steps=1, disable_tqdm=True, learning_rate=1e-4,
            dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
        trainer = SFTTrainer(model, args=settings, callbacks=[Watch()], **given)
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return [b - a for a, b in pairwise(times)], float(losses[-1])


def worker(spec: dict[str, Any]) -> None:
    """Run one system on one case, and print what it took."""
    size, what = spec["case"].split("-")
    if what in ("draw", "label"):
        rate, found = (draw if what == "draw" else label)(size, spec["system"], spec["rows"])
        result = {"rate": rate, "found": f"{found:.1f} tokens" if what == "draw" else f"mean score {found:.4f}"}
    else:
        result = train(SHAPES[size], what, spec)
    peak = torch.cuda.max_memory_allocated() if device.kind() == "cuda" and spec["system"] != "vllm" else 0
    print(json.dumps(result | {"peak": peak}))


def train(shape: Shape, adapter: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Train a few steps: tokens per second, floating-point operations per second, and the loss of the last."""
    from steer.models.precision import optimizer_for, trainable

    place = device.own()
    parts = PARTS if "packed" in spec["system"] else 1
    model = adapted(build(shape, place, four_bit=adapter == "qlora"))
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(2, shape.vocabulary, (spec["batch_size"], LENGTH), generator=draw).to(place)
    if spec["system"] == "trl":
        times, loss = by_trl(model, ids, spec["steps"] + 1)
    else:
        if "flex" in spec["system"]:
            model.get_base_model().set_attn_implementation("flex_attention")
        step = plain(model, ids) if spec["system"] == "transformers" else ours(model, ids, parts)
        optimizer = optimizer_for("adamw", trainable(model), 1e-4, 0.0)
        times = []
        for _ in range(spec["steps"] + 1):  # the first warms up
            began = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            loss = float(step())
            optimizer.step()
            device.wait(ids.device)
            times.append(time.perf_counter() - began)
        times = times[1:]
    rate = ids.numel() / statistics.median(times)
    return {"rate": rate, "found": f"loss {loss:.4f}", "flops": rate * flops(model, shape, LENGTH // parts)}


def peak_of(name: str) -> float:
    """Dense bfloat16 FLOP/s of a device by its name; 0: unknown."""
    return next((peak for part, peak in PEAK.items() if part in name), 0.0)


def alone() -> dict[str, str]:
    """Environment of a worker, which sees the first GPU only: over several, Trainer would multiply the batch."""
    return os.environ | {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help=f"One of {', '.join(CASES)}; default: all.")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4, help="Sequences in a step.")
    parser.add_argument(
        "--rows", type=int, default=32, help="Prompts of a draw, of four samples each; a label reads 8 times as many."
    )
    parser.add_argument("--peer", default="trl", choices=("trl", "transformers", "none"))
    parser.add_argument("--peak", type=float, default=0.0, help="Dense bfloat16 FLOP/s of the device, where unknown.")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(json.loads(options.worker))
        return
    name = device.name()
    peak = options.peak or peak_of(name)
    print(f"{name}, torch {torch.__version__}, sequences of {LENGTH}, {options.batch_size} a step.\n")
    print("| case | system | tokens/s | MFU | peak memory | |\n" + "| --- " * 6 + "|")
    trainers = (*OURS, *([] if options.peer == "none" else [options.peer]))
    systems = {"draw": DRAWERS, "label": LABELLERS}
    for case in options.case or CASES:
        for system in filter(present, systems.get(case.partition("-")[2], trainers)):
            spec = {"case": case, "system": system} | {n: getattr(options, n) for n in ("steps", "batch_size", "rows")}
            command = [sys.executable, __file__, "--worker", json.dumps(spec)]
            ran = subprocess.run(command, capture_output=True, text=True, env=alone())
            if ran.returncode:
                print(ran.stderr, file=sys.stderr, flush=True)
                why = (ran.stderr.strip().splitlines() or ["?"])[-1][:80]
                print(f"| {case} | {system} | failed: {why} | | | |", flush=True)
                continue
            found = json.loads(ran.stdout.splitlines()[-1])
            mfu = f"{found['flops'] / peak:.0%}" if peak and "flops" in found else "-"
            memory = f"{found['peak'] / (1 << 30):.1f} GiB" if found["peak"] else "-"
            print(f"| {case} | {system} | {found['rate']:,.0f} | {mfu} | {memory} | {found['found']} |", flush=True)


if __name__ == "__main__":
    main()
