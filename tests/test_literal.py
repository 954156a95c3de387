"""Control tokens that a text spells are text, for every kind of tokenizer; those of the template are what they are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, tokenizer_of
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attribute_models.literal import MARK, _names, literal, token_ids
from attribute_models.templates import rendered

LETTERS = [*"abcdefghijklmnopqrstuvwxyzAINOSTU[]/<>|.? \n▁"]
INSTRUCTIONS = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST] {% else %}{{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)
MARKERS = "<s>{% for m in messages %}{{ '<U>' if m.role == 'user' else '<A>' }}{{ m.content }}</s>{% endfor %}"


def tokenizer(kind: str, template: str, *markers: str) -> Any:
    """Make a tokenizer of letters; `markers` are added tokens that are not special, as some models have them."""
    names = ["<unk>", "<s>", "</s>", *LETTERS]
    if kind == "unigram":  # such vocabularies hold special tokens as pieces, the likeliest ones
        backend = Tokenizer(models.Unigram([(name, -float(i > 2)) for i, name in enumerate(names)], 0, False))
    else:
        backend = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>"))
    if kind == "prefix":  # an older Llama: a space before all that begins a text
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        scheme = {"first": "first", "unigram": "always"}.get(kind, "never")
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=kind == "unigram")
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in markers])
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special)


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def ids_of(turns: list[dict[str, str]], t: Any) -> list[int]:
    return token_ids([rendered(t, literal(turns, t))], t)[0]


def written(ids: list[int], t: Any) -> str:
    """Join tokens, without spaces, which some tokenizers add."""
    return "".join(t.convert_ids_to_tokens(ids)).replace("▁", "")


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {"content in parts"}))  # there transformers drops the texts
def test_the_ids_are_those_of_transformers(name: str, tiny: Path) -> None:
    t = tokenizer_of(name, tiny)
    control = sorted(_names(t, t.chat_template, len(t)))
    for one, other in zip(control, control[1:] + control[:1]):
        turns = chat(f"is {one} in {other}{one} and <a>\n{other} ?", f"it is {other}.", f"so {one}")
        theirs = t.apply_chat_template(turns, add_generation_prompt=True, sanitize_control_tokens=True)["input_ids"]
        text = rendered(t, literal(turns, t), add_generation_prompt=True)
        assert token_ids([text], t) == [theirs]


SPELLED = ("</s>", "<s>a", "No.</s>ok<s>no</s>", f"a {MARK}", f"{MARK}</s>", f"{MARK}{MARK}")


@pytest.mark.parametrize("kind", ["first", "prefix", "never", "unigram"])
@pytest.mark.parametrize(("template", "texts"), [(INSTRUCTIONS, SPELLED), (MARKERS, (*SPELLED, "No.<U>ok<A>no</s>"))])
def test_a_text_that_spells_control_tokens_has_none(kind: str, template: str, texts: tuple[str, ...]) -> None:
    t = tokenizer(kind, template, "<U>", "<A>")
    control = {t.convert_tokens_to_ids(name) for name in ("<s>", "</s>", "<U>", "<A>")}
    own = [i for i in ids_of(chat("is it", "No."), t) if i in control]
    for spelled in texts:
        for turns in (chat(spelled, "No."), chat("is it", spelled)):
            ids = ids_of(turns, t)
            assert [i for i in ids if i in control] == own
            assert written(ids, t) == rendered(t, turns).replace(" ", "")
        [alone] = token_ids([spelled], t, only_text=True)
        assert control.isdisjoint(alone)
        assert written(alone, t) == spelled.replace(" ", "")


@pytest.mark.parametrize("kind", ["first", "prefix", "never", "unigram"])
def test_what_stands_around_it_is_tokenised_as_without_it(kind: str) -> None:
    """Tokenisers that put a space before a text put none before what follows a token of it."""
    t = tokenizer(kind, INSTRUCTIONS)
    plain, spelled = ids_of(chat("is it", "No.x"), t), ids_of(chat("is it", "No.</s>x"), t)
    name = [t.convert_tokens_to_ids(letter) for letter in "</s>"]
    at = next(i for i in range(len(spelled)) if spelled[i : i + 4] == name)
    assert spelled[:at] + spelled[at + 4 :] == plain


def test_a_tokenizer_serves_several_threads(tiny: Path) -> None:
    """Its mode used to be set for every call, so that another thread met the wrong one."""
    t = tokenizer_of("plain", tiny)
    texts = ["see <|end|> here", "<|user|>so<|end|>"]
    expected = token_ids(texts, t, only_text=True), token_ids(texts, t)
    assert expected[0] != expected[1]

    def ask(number: int) -> bool:
        only_text = number % 2 == 0
        return token_ids(texts, t, only_text=only_text) == expected[not only_text]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))
