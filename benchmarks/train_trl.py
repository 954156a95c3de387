"""What TRL does with the rows of `benchmarks/train.py`; run by it, with the Python that has TRL: train_trl.py SPEC.

SPEC is JSON: `kind` (sft or dpo), `model`, `adapter` (folder of the starting adapter, or empty), `data` (JSONL),
`steps`, `batch_size`, `learning_rate`, `setting`. Prints one JSON line: seconds of the steps, losses, tokens, bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

# TRL's settings that are tried; the fastest of those that take the same steps, and of those that do not, is shown.
SETTINGS: dict[str, dict[str, Any]] = {
    "padded": {},
    "padded, by 8": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
    "padding-free": {"padding_free": True, "max_length": None},
    "packed": {"packing": True, "max_length": 1024, "per_device_train_batch_size": 4},
}


def reset_peak() -> int:
    """Forget the largest memory so far (Linux); bytes held now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return status("VmRSS")


def status(name: str) -> int:
    """A figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def main(spec: dict[str, Any]) -> None:
    """Train and print what it took."""
    warnings.simplefilter("ignore")
    import torch
    from datasets import load_dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(spec["threads"])
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32)
    if spec["adapter"]:
        model = PeftModel.from_pretrained(model, spec["adapter"], is_trainable=True)
    found: dict[str, Any] = {}

    class Watch(TrainerCallback):
        def on_train_begin(self, *args: Any, **more: Any) -> None:
            found["held"], found["began"], found["cpu"] = reset_peak(), time.perf_counter(), time.process_time()

        def on_train_end(self, *args: Any, **more: Any) -> None:
            found["seconds"] = time.perf_counter() - found["began"]
            found["cpu"] = time.process_time() - found["cpu"]
            found["peak"] = status("VmHWM") - found["held"]

    with tempfile.TemporaryDirectory() as place:
        common: dict[str, Any] = {
            "per_device_train_batch_size": spec["batch_size"],
            "learning_rate": spec["learning_rate"],
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "max_steps": spec["steps"],
            "train_sampling_strategy": "sequential",
            "gradient_checkpointing": False,
            "use_cpu": True,
            "bf16": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "max_length": 1024,
            "optim": "adamw_torch_fused",
        }
        data = load_dataset("json", data_files=spec["data"], split="train", cache_dir=place)
        if spec["kind"] == "dpo":
            settings = DPOConfig(place, beta=0.1, precompute_ref_log_probs=not spec["adapter"], **common)
            kind: Any = DPOTrainer
        else:
            settings = SFTConfig(place, **common | SETTINGS[spec["setting"]])
            kind = SFTTrainer
        trainer = kind(model, args=settings, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()])
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    tokens = [line["num_tokens"] for line in trainer.state.log_history if "num_tokens" in line]
    found["tokens"] = int(float(tokens[-1])) if tokens else 0
    print(
        json.dumps(
            {
                "tokens": found["tokens"],
                "seconds": found["seconds"],
                "cpu": found["cpu"],
                "peak": found["peak"],
                "losses": [float(x) for x in losses],
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
