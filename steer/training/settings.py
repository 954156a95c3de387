"""Settings of training: everything a caller may choose, with defaults and help."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import (
    DTYPE,
    DTYPES,
    HELD_OUT,
    LIMIT,
    MICRO_BATCH_TOKENS,
    SEED,
    SHARE,
    THINKING,
    TRUST_REMOTE_CODE,
    option,
)

# Panels of --help.
METHOD, CONDITION, WEIGHTS = "Method", "Condition", "Weights that are trained"
OPTIMIZER, SPEED, ROWS, LOGGING = "Optimizer", "Memory and speed", "Rows", "Logging and resume points"


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of `train`, the same for all methods."""

    set: tuple[str, ...] = option(
        (), "A setting of the method, NAME=VALUE (repeat the flag); `steer methods METHOD` explains them.", panel=METHOD
    )
    init: str = option("", "Policy whose adapter training starts from; of the same base and rank.", panel=METHOD)
    attribute: tuple[str, ...] = option(
        (), "Condition on these (repeat the flag); default: all that are scored.", panel=CONDITION
    )
    template: str = option(
        "auto",
        "How a condition is written: `words` at the end of the turn that is answered, `tags` before the response, or "
        "as SteerLM does; `auto` takes words where the base is a chat model, else tags; "
        "`decision-transformer` prints every row's own reward, `reward-bins` the mean one of its level.",
        choices=("auto", "tags", "words", "steerlm", "decision-transformer", "reward-bins"),
        panel=CONDITION,
    )
    phrase: tuple[str, ...] = option(
        (),
        "With --template words: how an attribute is asked for, such as `words=Answer in about {centre} words.`; "
        "{level}, {most} and {name} can stand in it too; or a sentence for each level, the lowest first, with `|` "
        "between them (repeat the flag).",
        panel=CONDITION,
    )
    condition_tokens: str = option(
        "text",
        "`special`: every level becomes a token whose row is trained; for models that never saw tags.",
        choices=("text", "special"),
        panel=CONDITION,
    )
    thinking: str = option(
        "drop",
        "What becomes of thoughts before logged answers (`reasoning_content`): `drop`, and the answer stands where the "
        "chat template has one without a thought; `empty`, behind an empty thinking block; `keep`, the answer is "
        "learned after its thought; `learn`, both are. With the last two the policy thinks before it answers.",
        choices=THINKING,
        panel=CONDITION,
    )
    template_option: tuple[str, ...] = option(
        (),
        "A value that the chat template is always given, in training, generation and export, NAME=VALUE (repeat the "
        "flag); a row's own `chat_template_kwargs` go before it. Where `--thinking keep` or `learn` needs an option to "
        "turn thinking on (`thinking=true`, `enable_thinking=true`, ...) it is found by trying.",
        panel=CONDITION,
    )
    attribute_dropout: float = option(
        0.1, "Chance that one attribute is left out of a condition.", least=0, most=1, panel=CONDITION
    )
    condition_dropout: float = option(
        0.05, "Chance that the whole condition is left out.", least=0, most=1, panel=CONDITION
    )
    scorer: str = option(
        "",
        "On-policy methods: scores fresh responses, as in `steer label`; default: the one that labelled the rows.",
        panel=METHOD,
    )
    max_new_tokens: int = option(256, "On-policy methods: longest fresh response.", least=1, panel=METHOD)
    adapter: str = option(
        "lora",
        "What is trained: adapters, adapters on a base in 4 bits (NF4) or in 8 (int8), or all weights.",
        choices=("lora", "qlora", "qlora8", "none"),
        panel=WEIGHTS,
    )
    lora_r: int = option(32, "Rank of the adapters.", least=1, panel=WEIGHTS)
    lora_alpha: int = option(64, "Scale of the adapters.", least=1, panel=WEIGHTS)
    lora_dropout: float = option(
        0.0,
        "Dropout inside the adapters; off, as the base's own, where the policy is compared with a frozen one.",
        least=0,
        most=1,
        panel=WEIGHTS,
    )
    target_modules: tuple[str, ...] = option(
        (),
        "Layers that get adapters, by the end of their names, as in PEFT (repeat the flag); default: all linear ones "
        "of the text model but the head.",
        panel=WEIGHTS,
    )
    target_parameters: tuple[str, ...] = option(
        (),
        "Parameters that get adapters without being a layer, such as stacked experts: `experts.gate_up_proj` (repeat "
        "the flag).",
        panel=WEIGHTS,
    )
    modules_to_save: tuple[str, ...] = option(
        (), "Modules that are trained whole beside the adapters, such as `lm_head` (repeat the flag).", panel=WEIGHTS
    )
    use_dora: bool = option(False, "DoRA: the length of every weight row is trained by itself.", panel=WEIGHTS)
    use_rslora: bool = option(
        False, "rsLoRA: adapters are scaled by alpha / sqrt(rank), not alpha / rank.", panel=WEIGHTS
    )
    init_lora_weights: str = option(
        "default",
        "How adapters start. `pissa` and `olora` take the main directions out of the base; they are saved for the "
        "whole base, with twice the rank. `loftq` corrects the 4 bits of `--adapter qlora`, and cannot be merged.",
        choices=("default", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora", "loftq"),
        panel=WEIGHTS,
    )
    loraplus_lr_ratio: float = option(
        1.0, "LoRA+: learning rate of the adapters' B matrices, as a multiple of A's.", above=0, panel=OPTIMIZER
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate; default: the method's own, a tenth of that for all weights.",
        above=0,
        panel=OPTIMIZER,
    )
    lr_scheduler_type: str = option(
        "cosine", "After the warm-up.", choices=("cosine", "linear", "constant"), panel=OPTIMIZER
    )
    warmup_steps: float = option(0.05, "Optimizer steps, or their share if below 1.", least=0, panel=OPTIMIZER)
    optimizer: str = option(
        "adamw",
        "AdamW; with its state in 8 bits; paged out of a full GPU.",
        choices=("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"),
        panel=OPTIMIZER,
    )
    weight_decay: float = option(0.0, "AdamW's.", least=0, panel=OPTIMIZER)
    max_grad_norm: float = option(1.0, "Gradients are clipped to it.", least=0, panel=OPTIMIZER)
    num_train_epochs: float = option(
        0.0, "Passes over the groups (0: two, or more if that is under 100 steps; printed).", least=0, panel=OPTIMIZER
    )
    max_steps: int = option(0, "Optimizer steps, whatever the epochs (0: by epochs).", least=0, panel=OPTIMIZER)
    batch_size: int = option(
        0,
        "Prompts, or conversations of which every turn is a row, per optimizer step, over all processes (0: 32, or 8 "
        "on few rows).",
        least=0,
        panel=OPTIMIZER,
    )
    micro_batch_tokens: int = option(0, MICRO_BATCH_TOKENS, least=0, panel=SPEED)
    max_length: int = option(1024, "Longer rows are left out and counted.", least=1, panel=ROWS)
    truncate: str = option(
        "none",
        "Cut rows that are longer, and count them: `prompt` drops its earliest turns but the system's, `response` cuts "
        "it, so that its end is not learned.",
        choices=("none", "prompt", "response"),
        panel=ROWS,
    )
    dtype: str = option("auto", DTYPE, choices=DTYPES, panel=SPEED)
    attn_implementation: str = option(
        "",
        "Attention of transformers: sdpa, eager, flex_attention, ...; default: the model's own, or on a CUDA GPU "
        "flex_attention where a pass of the training is faster with it.",
        panel=SPEED,
    )
    gradient_checkpointing: bool = option(False, "Less memory, more time.", panel=SPEED)
    plain_layout: bool = option(
        False,
        "Each candidate behind its own prompt, in its own row: slower, the same results.",
        panel=SPEED,
    )
    save_steps: int = option(100, "Optimizer steps between two resume points.", least=1, panel=LOGGING)
    logging_steps: int = option(10, "Optimizer steps between two lines of metrics.jsonl.", least=1, panel=LOGGING)
    eval_steps: int = option(
        0, "Optimizer steps between two losses on held-out rows (0: none).", least=0, panel=LOGGING
    )
    early_stopping: int = option(
        0,
        "Stop after so many held-out losses in a row that are no new best, and keep the best weights (0: off).",
        least=0,
        panel=LOGGING,
    )
    track: str = option(
        "none",
        "Also tell a tracker what metrics.jsonl says.",
        choices=("none", "tensorboard", "wandb", "trackio"),
        panel=LOGGING,
    )
    held_out: float = option(SHARE, HELD_OUT, least=0, most=1, panel=ROWS)
    seed: int = option(0, SEED, least=0)
    limit: int = option(0, LIMIT, least=0, panel=ROWS)
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE, panel=WEIGHTS)
