"""vLLM as an engine: it reads the same tokens as `hf` does, so targets need no chat template.

Full weights (a plain model, `--adapter none`, `steer export`) are loaded as they are, a LoRA on top of its base.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from steer import device
from steer.errors import SteerError
from steer.generation.requests import EncodedRequest
from steer.models.card import FULL, MERGED, Card
from steer.models.lora import adapter_config
from steer.models.policy import end_tokens, load_policy
from steer.models.quantization import BASES
from steer.progress import note

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # ranks that vLLM can allocate


class Vllm:
    """A policy that vLLM loads when it first draws; `policy` is the same one without weights, for tokenizer and schema.

    Until it draws nobody knows how long a sequence gets, and vLLM starts only where one of the longest has room.
    """

    def __init__(self, name: str, dtype: str, *, trust_remote_code: bool = False) -> None:
        weights, lora = _paths(name)
        self.policy = load_policy(name, dtype=dtype, trust_remote_code=trust_remote_code, device="meta")
        self.lora: Any = None
        card = self.policy.card
        commit = card.base_revision if card and lora else self.policy.revision
        room: dict[str, Any] = {"revision": commit, "tokenizer_revision": commit} if commit else {}
        self.model: Any = None
        vllm = _imported()
        if lora:
            rank = adapter_config(Path(lora))["r"]
            room |= {"enable_lora": True, "max_lora_rank": min((r for r in RANKS if r >= rank), default=rank)}
            self.lora = vllm.lora.request.LoRARequest("policy", 1, lora)
        self.params = vllm.SamplingParams
        kind = str(self.policy.model.dtype).removeprefix("torch.")
        self.start = partial(vllm.LLM, model=weights, dtype=kind, trust_remote_code=trust_remote_code, **room)

    def open(self, columns: int = 0) -> None:
        """Load the weights, with room for a sequence of so many tokens; 0: for as many as the model has positions."""
        room: dict[str, Any] = {"max_model_len": columns} if columns else {}
        if device.kind() == "cuda":  # vLLM would ask for 90 % whatever others hold
            room["gpu_memory_utilization"] = round(0.9 * device.free(), 2)
            room["tensor_parallel_size"] = _sharing(self.policy.model.config, device.count())
        try:
            self.model = self.start(**room)
        except (ValueError, RuntimeError, OSError) as error:
            raise SteerError(f"--engine vllm: {self.policy.name}: {' '.join(str(error).split())[:300]}") from None

    def draw(self, requests: Sequence[EncodedRequest], columns: int = 0) -> list[list[int]]:
        """Draw the new tokens of each response, with the end token, in order; `columns`: see `open`."""
        if self.model is None:
            self.open(columns)
        names = self.policy.markers
        ends = sorted(end_tokens(self.policy))
        params = [
            self.params(
                temperature=request.temperature,
                top_p=request.top_p,
                top_k=request.top_k or -1,  # off
                min_p=request.min_p,
                repetition_penalty=request.repetition_penalty,
                max_tokens=request.max_new_tokens,
                seed=request.seed,
                stop_token_ids=ends,
                bad_words=names or None,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": [*request.prompt, *request.condition]} for request in requests]
        outputs = self.model.generate(prompts, params, lora_request=self.lora, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


def _sharing(config: Any, gpus: int) -> int:
    """Return how many of the visible GPUs share each layer: a power of two among which vLLM can share out its heads."""
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", 1)
    keys = getattr(text, "num_key_value_heads", None) or heads  # more GPUs than these hold copies
    sizes = [n for n in (1, 2, 4, 8, 16) if n <= gpus and heads % n == 0 and max(keys, n) % min(keys, n) == 0]
    if gpus > 1:
        note(f"--engine vllm: {sizes[-1]} of {gpus} GPUs share each layer (a power of two that divides its heads).")
    return sizes[-1]


def _imported() -> Any:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        import vllm
        import vllm.lora.request
    except (ImportError, OSError, RuntimeError) as error:  # the last two: libraries of versions that do not fit
        raise SteerError(
            f"--engine vllm: vLLM is not installed here or does not start ({str(error).splitlines()[0]}). "
            'Run "pip install vllm" in an environment of its own, or use --engine hf.'
        ) from None
    return vllm


def obstacle(adapter: str, condition_tokens: str, use_dora: Any, modules_to_save: Any) -> str:
    """Return what vLLM does not take about an adapter that is trained so, with the setting's name; empty: nothing."""
    if adapter in BASES:
        return f"a base in {8 if adapter == 'qlora8' else 4} bits (adapter)"
    obstacles = {
        "tokens of its own (condition_tokens)": condition_tokens != "text",
        "lengths of weight rows, DoRA (use_dora)": use_dora,
        "modules that are trained whole (modules_to_save)": modules_to_save,
    }
    return next((name for name, there in obstacles.items() if there and adapter != "none"), "")


def _paths(name: str) -> tuple[str, str]:
    """Return the path or name of the full weights, and the folder of the LoRA on top of them or ""."""
    folder = Path(name)
    card = Card.find(folder)
    if card is None or card.adapter == MERGED:
        return name, ""
    if Card.place(folder) != folder:
        raise SteerError(
            f"--engine vllm: {name}: its training is not finished, and vLLM reads no resume points. "
            f'"steer export {name} --output MERGED", then give MERGED.'
        )
    if card.adapter == "none":
        return str(folder / FULL), ""
    own = adapter_config(folder)
    if reason := obstacle(card.adapter, card.condition_tokens, own.get("use_dora"), own.get("modules_to_save")):
        raise SteerError(
            f"--engine vllm: {name}: vLLM takes no adapter with {reason}. "
            f'Merge it first: "steer export {name} --output MERGED", then give MERGED.'
        )
    return _paths(card.base)[0], name
