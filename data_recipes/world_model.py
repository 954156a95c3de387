"""An untrained language model and its tokenizer for the embedded world, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from data_recipes import world_text as text

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def pieces() -> list[str]:
    """Return the vocabulary: words, characters, tags with a digit, and all bytes, so that nothing is unknown.

    A tag with its digit is one word: a model this small would spend its training on tying digits to names, which any
    pretrained one can do.
    """
    texts = [*text.PROMPTS, *text.MANNERS, *text.PURPOSES, *text.CLAUSES, *text.WARMTH, *text.HEDGES, *text.FACTS]
    texts += [f"{subject} {verb} {value}" for facts in text.FACTS.values() for subject, (verb, value) in facts.items()]
    words = sorted({word for phrase in texts for word in text.words_of(phrase)})
    marked = [f"▁{word}" for word in words]
    characters = [chr(c) for c in range(33, 127)]
    tags = [f"▁<{name}>{digit}" for name in text.NAMES for digit in range(10)]
    others = ["▁", "▁<", "\n", *characters, *tags]
    return list(dict.fromkeys([*marked, *text.NAMES, *others])) + [f"<0x{b:02X}>" for b in range(256)]


def save(folder: str | Path, *, seed: int = 0, hidden_size: int = 128, layers: int = 3) -> None:
    """Write tokenizer and random weights (about 0.9 M parameters) that `transformers` loads from `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    fast = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden_size,
        intermediate_size=int(hidden_size * 8 / 3) // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def _tokenizer():  # type: ignore[no-untyped-def]  # transformers ships no types
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = pieces()
    # Any fixed scores do: a whole word must cost less than its characters, a character less than its bytes.
    cost = [-12.0 if p.startswith("<0x") else -3.0 if len(p) > 1 else -6.0 for p in words]
    scored = [(p, 0.0) for p in SPECIAL] + list(zip(words, cost))
    raw = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"▁?<[a-z]+>\d|▁?[^\w\s▁]|\d|\n"), "isolated"),
        ]
    )
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        extra_special_tokens=list(SPECIAL[2:]),
        chat_template=CHAT_TEMPLATE,
    )
