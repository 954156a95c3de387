"""What becomes of each family of templates in training, generation and export: the table of docs/families.md."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from families import ASK, CALL, FAMILIES, TOOLS, stops_of, tokenizer_of
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM

from attribute_models.templates import rendered
from data_recipes import world_model
from steer.conditioning.chat import fitted
from steer.conditioning.condition import render
from steer.conditioning.switches import switch_of, with_defaults
from steer.errors import SteerError
from steer.export.template import fitting
from steer.generation.reply import Form, parted
from steer.models.collate import line
from steer.models.policy import Policy, end_tokens
from steer.models.tokenization import Tokens, turns_parts
from steer.progress import quiet
from steer.rows.schema import Attribute, Schema
from steer.settings import THINKING, THINKS

SCHEMA = Schema((Attribute("quality", 1, 3, 1, 1.0, (1.5, 2.5), ("1", "2", "3"), (1.0, 2.0, 3.0)),), {(2,): 9})
TEMPLATES = ("tags", "words")
WEIGHED = {"type": "object", "properties": {"what": {"type": "string"}}}
SYSTEM = {"role": "system", "content": "Be a pirate."}
DECLARED = [{"type": "function", "function": {"name": "weigh", "description": "", "parameters": WEIGHED}}]
CALLED = [*ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "3 kg"}]
ANSWERED = [*ASK, {"role": "assistant", "content": "Red."}, *ASK]
# Conversations as clients send them, and what else they give the template.
TALKS: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    (ASK, {}),
    (ANSWERED, {}),
    ([SYSTEM, *ASK], {}),
    ([SYSTEM, *ANSWERED], {}),
    (ASK, {"enable_thinking": True}),
    (ASK, {"enable_thinking": False}),
    (CALLED, {"tools": TOOLS}),
]
HEAD = ("family", "condition placed", "thinking", "tools", "turns", "end trained", "export steers", "generate stops")


def table() -> str:
    """Measure every family and write the table."""
    with TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()), quiet():
        world_model.save(Path(folder), hidden_size=32, layers=2)
        lines = [[name, *_cells(name, Path(folder))] for name in FAMILIES]
    lines = [[cell.replace("|", "\\|") for cell in cells] for cells in lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in ([*HEAD], ["---"] * len(HEAD), *lines))


def _cells(name: str, folder: Path) -> Iterator[str]:
    tokenizer = tokenizer_of(name, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.generation_config.eos_token_id = stops_of(name, tokenizer)
    policy = Policy(model, tokenizer, name=name)
    yield _those(TEMPLATES, lambda kind: "".join(turns_parts(ASK, tokenizer, kind)) == FAMILIES[name].before)
    yield _those(THINKING, lambda kind: _thinks(kind, tokenizer)) + _asked(tokenizer)
    yield _tools(tokenizer, policy)
    yield "shared" if _shared(tokenizer) else "apart"
    yield f"`{tokenizer.decode(policy.end)}`"
    yield _exports(tokenizer)
    yield "yes" if _stops(policy) else "no"


def _row(**more: Any) -> dict[str, Any]:
    return {"id": "a", "prompt": ASK, "response": "Red.", **more}


def _condition(kind: str) -> str:
    return render({"quality": 2}, SCHEMA, ("quality",), kind)


def _those(kinds: tuple[str, ...], holds: Callable[[str], bool]) -> str:
    """Name the kinds for which something holds, and those that are refused."""
    parts = []
    for kind in kinds:
        try:
            parts += [kind] if holds(kind) else []
        except SteerError:
            parts.append(f"~~{kind}~~")
    return ", ".join(parts) or "none"


def _thinks(kind: str, tokenizer: Any) -> bool:
    """Whether a thought is nowhere, before the response, or a part of it, as `--thinking` says."""
    row, plain = _row(reasoning_content="hm"), tokenizer.chat_template
    switch = switch_of(tokenizer)
    if kind in THINKS and switch:
        tokenizer.chat_template = with_defaults(plain, {switch.name: switch.on})
    try:
        return _places(row, kind, tokenizer)
    finally:
        tokenizer.chat_template = plain


def _asked(tokenizer: Any) -> str:
    """Name the option that a family is asked to think with, if it does not by itself."""
    switch = switch_of(tokenizer)
    return f", by `{switch.name}={str(switch.on).lower()}`" if switch and not switch.default else ""


def _places(row: dict[str, Any], kind: str, tokenizer: Any) -> bool:
    prefix, response = (tokenizer.decode(ids) for ids in Tokens([row], tokenizer, None, "words", kind).sequence(row))
    wanted = {"keep": (1, 0), "learn": (0, 1)}.get(kind, (0, 0))
    return (prefix.count("hm"), response.count("hm")) == wanted and response.count("Red.") == 1


def _tools(tokenizer: Any, policy: Policy) -> str:
    """Name what the model reads of tools, whether a response may call one, and is read when it is drawn."""

    def printed(kind: str) -> bool:
        if kind == "declarations":
            return "weigh" in "".join(turns_parts(ASK, tokenizer, "tags", {"tools": TOOLS}))
        if kind == "calls":
            return "moss" in "".join(turns_parts(CALLED[:2] + ASK, tokenizer, "tags"))
        row = _row(response="", tool_calls=[CALL], tools=DECLARED)
        ids = Tokens([row], tokenizer, end_tokens(policy)).responses["a"]
        if kind == "responses that call":
            return "moss" in tokenizer.decode(ids)
        [call] = parted(tokenizer, Form.of(policy, row), ids[:-1], whole=True).calls or [{"function": {}}]
        return call["function"].get("arguments") == {"what": "moss"}

    return _those(("declarations", "calls", "responses that call", "drawn calls"), printed)


def _shared(tokenizer: Any) -> bool:
    """Whether a conversation's turns stand once in its line of tokens, and each but the last answer twice."""
    said = ["bees", "honey", "trees", "shade", "apples", "red"]
    talk = [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(said)]
    rows = [_row(id=str(i), prompt=talk[:i], response=word) for i, word in enumerate(said) if i % 2]
    tokens = Tokens(rows, tokenizer)
    text = tokenizer.decode(line([tokens.sequence(row, _condition("tags")) for row in rows]).ids)
    return [text.count(word) for word in said] == [1, 2, 1, 2, 1, 1]


def _exports(tokenizer: Any) -> str:
    """Count the conversations that an exported template writes as training does, with either kind of condition."""
    base, equal, accepted = tokenizer.chat_template, 0, 0
    for kind in TEMPLATES:
        for talk, options in TALKS:
            tokenizer.chat_template = base
            try:
                head, tail = turns_parts(talk, tokenizer, kind, options)
            except (TemplateError, SteerError):  # the family knows no system, or no tools
                continue
            turns, condition = fitted(talk, tokenizer), _condition(kind)
            tokenizer.chat_template, _ = fitting(tokenizer, SCHEMA, ("quality",), kind)
            asked = {"add_generation_prompt": True, "attributes": {"quality": 3}, **options}
            equal += rendered(tokenizer, turns, **asked) in (head + condition + tail, f"{head} {condition}{tail}")
            accepted += 1
    tokenizer.chat_template = base
    return f"{equal} of {accepted}"


def _stops(policy: Policy) -> bool:
    """Whether decoding ends at the token that training puts after an answer."""

    def end(module: Any, inputs: Any, logits: Any) -> Any:
        logits[..., policy.end[-1]] += 1e4
        return logits

    policy.model.lm_head.register_forward_hook(end)
    (row,) = policy.generate(["Describe apples."], max_new_tokens=4, temperature=0.0)
    return bool(row["finished"]) and row["response"] == ""
