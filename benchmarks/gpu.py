"""Training at real sizes on one GPU: model FLOPs utilisation, tokens per second, peak memory.

    python benchmarks/gpu.py [--case 8b-lora ...] [--steps 10] [--peer trl|transformers|none]

NOT RUN ON A GPU YET: there was none at hand when this was written; only the `tiny` cases were tried, on a CPU. No
number of it stands anywhere. Weights are random and made layer by layer, in 4 bits for QLoRA, so nothing is downloaded
and no unquantised model is ever held. Every system is a process of its own and sees the same sequences of 2,048 tokens,
of which the last three quarters are the response. The systems `packed` put four short sequences into each row, under
the mask that keeps them apart: in SDPA, where it is dense, and in FlexAttention, which skips its empty blocks.

Model FLOPs per token: 4 for every frozen parameter (forward, and the gradient that passes through), 6 for every trained
one, and 4 x layers x hidden x length for causal attention and twice that backward; recomputation by gradient
checkpointing does not count as useful work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from steer import device

LENGTH, PROMPT = 2048, 512
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}  # dense bfloat16


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int = 128_256


SHAPES = {
    "tiny": Shape(64, 192, 2, 4, 2, 512),
    "1b": Shape(2048, 8192, 16, 32, 8),
    "8b": Shape(4096, 14_336, 32, 32, 8),
    "70b": Shape(8192, 28_672, 80, 64, 8),
}
PARTS = 4  # sequences of a packed row
OURS = ("steer", "steer, packed", "steer, packed, flex")
CASES = ("1b-lora", "8b-lora", "8b-qlora", "70b-qlora")  # and tiny-lora, tiny-qlora


def build(shape: Shape, place: str, *, four_bit: bool) -> Any:
    """A random Llama in bfloat16 (float32 on a CPU), its inner linear layers in NF4 if asked for."""
    import bitsandbytes
    from transformers import LlamaConfig, LlamaForCausalLM

    from attribute_models.bases import keep_unpacked

    dtype = device.dtype_of("auto")
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=LENGTH,
        eos_token_id=1,
        dtype=dtype,
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    draw = torch.Generator(place).manual_seed(0)

    def random(shape: torch.Size) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=place).normal_(0, 0.02, generator=draw)

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head" and four_bit:
                made = bitsandbytes.nn.Linear4bit(
                    child.in_features, child.out_features, False, dtype, True, "nf4", device="meta"
                )
                made.weight = bitsandbytes.nn.Params4bit(
                    random(child.weight.shape), requires_grad=False, compress_statistics=True, quant_type="nf4"
                ).to(place)
                setattr(parent, name, made)
            elif isinstance(child, nn.Linear | nn.Embedding):
                child.weight = nn.Parameter(random(child.weight.shape))
            elif isinstance(getattr(child, "weight", None), Tensor):  # norms
                child.weight = nn.Parameter(torch.ones(child.weight.shape, dtype=dtype, device=place))
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(place)
    if four_bit:
        model.is_loaded_in_4bit = True
        keep_unpacked(model)
    return model


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


def flops(model: Any, shape: Shape) -> float:
    """Useful floating-point operations per token, see above; the embedding only looks up."""
    trained, every = model.get_nb_trainable_parameters()
    frozen = every - trained - shape.vocabulary * shape.hidden
    return float(4 * frozen + 6 * trained + 3 * 2 * shape.layers * shape.hidden * LENGTH)


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

    class Watch(TrainerCallback):  # type: ignore[misc]
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
    """Train a few steps and print what they took."""
    from steer.models.precision import optimizer_for, trainable

    place = device.own()
    size, adapter = spec["case"].split("-")
    shape = SHAPES[size]
    model = adapted(build(shape, place, four_bit=adapter == "qlora"))
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(2, shape.vocabulary, (spec["batch_size"], LENGTH), generator=draw).to(place)
    if spec["system"] == "trl":
        times, loss = by_trl(model, ids, spec["steps"] + 1)
    else:
        if "flex" in spec["system"]:
            model.get_base_model().set_attn_implementation("flex_attention")
        parts = PARTS if "packed" in spec["system"] else 1
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
    peak = torch.cuda.max_memory_allocated() if device.kind() == "cuda" else 0
    print(json.dumps({"rate": rate, "loss": loss, "peak": peak, "flops": rate * flops(model, shape)}))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help=f"One of {', '.join(CASES)}; default: all.")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4, help="Sequences in a step.")
    parser.add_argument("--peer", default="trl", choices=("trl", "transformers", "none"))
    parser.add_argument("--peak", type=float, default=0.0, help="Dense bfloat16 FLOP/s of the device, where unknown.")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(json.loads(options.worker))
        return
    name = device.name()
    peak = options.peak or next((v for k, v in PEAK.items() if k in name), 0.0)
    print(f"{name}, torch {torch.__version__}, sequences of {LENGTH}, {options.batch_size} a step.\n")
    print("| case | system | tokens/s | MFU | peak memory | loss |\n" + "| --- " * 6 + "|")
    for case in options.case or CASES:
        for system in (*OURS, *([] if options.peer == "none" else [options.peer])):
            spec = {"case": case, "system": system, "steps": options.steps, "batch_size": options.batch_size}
            command = [sys.executable, __file__, "--worker", json.dumps(spec)]
            ran = subprocess.run(command, capture_output=True, text=True)
            if ran.returncode:
                print(f"| {case} | {system} | failed: {(ran.stderr.strip().splitlines() or ['?'])[-1][:80]} | | | |")
                continue
            found = json.loads(ran.stdout.splitlines()[-1])
            mfu = f"{found['flops'] / peak:.0%}" if peak else "-"
            memory = f"{found['peak'] / (1 << 30):.1f} GiB"
            print(f"| {case} | {system} | {found['rate']:,.0f} | {mfu} | {memory} | {found['loss']:.4f} |", flush=True)


if __name__ == "__main__":
    main()
