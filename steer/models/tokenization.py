"""Rows -> token ids. The one place that tokenises: prompt, condition and response by themselves, so masks are spans."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from attribute_models.templates import NONE, options_of
from steer.conditioning.chat import fitted
from steer.conditioning.condition import TEMPLATES
from steer.conditioning.finished import called, divided_at_thought, generation_prompt, place_of
from steer.conditioning.turns import (
    MARK,
    UnprintedError,
    asking,
    at_mark,
    check_printed,
    divided,
    printed,
    say_unprinted,
)
from steer.errors import SteerError
from steer.models.collate import Sequence_
from steer.progress import progress
from steer.rows import Row
from steer.settings import THINKS

AT_ONCE = 1000  # rows between two counts of the progress


class Tokens:
    """Prompt and response ids of every row, tokenised once.

    `template`: that of the conditions; in one that ends the last turn, what the chat template prints after that turn
    becomes part of the condition. `thinking`: what becomes of thoughts, see `answer_parts`; `untold`: ids of rows whose
    thought the chat template has no place for.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        tokenizer: Any,
        end: int | None = None,
        template: str | None = None,
        thinking: str = "drop",
    ) -> None:
        """Tokenise rows; `end`: the token that ends a response, `Policy.end`; None: the tokenizer's EOS."""
        self.tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id if end is None else end
        self.responses: dict[str, list[int]] = {}
        self.untold: set[str] = set()
        self._prompts: dict[str, list[int]] = {}
        self._tails: dict[str, str] = {}
        self._conditions: dict[str, list[int]] = {"": []}
        self._template, self._thinking = template, thinking
        with progress(total=len(rows), what="tokenize") as bar:
            for start in range(0, len(rows), AT_ONCE):
                self._add(rows[start : start + AT_ONCE])
                bar.update(min(AT_ONCE, len(rows) - start))
        say_unprinted(rows, tokenizer)

    def _add(self, rows: Sequence[Row]) -> None:
        """Tokenise some rows."""
        rendered: dict[str, Parts] = {}  # candidates of a prompt follow each other
        parts = []
        for row in rows:
            own = (row["response"], row["tool_calls"]) if row.get("tool_calls") else ()
            own = (*own, row.get("reasoning_content")) if self._thinking in THINKS else own
            key = json.dumps([row["prompt"], row.get("tools"), row.get("chat_template_kwargs"), own])
            if key not in rendered:
                rendered[key] = answer_parts(row, self.tokenizer, self._template, self._thinking)
            parts.append(rendered[key])
        self.untold |= {row["id"] for row, each in zip(rows, parts) if each.untold}
        unique = list(dict.fromkeys(text for each in parts for text in (each.head, *each.learned[::2], each.call)))
        ids = dict(zip(unique, plain_ids(unique, self.tokenizer)))
        self._prompts |= {row["id"]: ids[each.head] for row, each in zip(rows, parts)}
        self._tails |= {row["id"]: each.tail for row, each in zip(rows, parts)}
        # A response is plain text: "<|end|>" inside it must not become the token that ends it.
        responses = plain_ids([row["response"] for row in rows], self.tokenizer, split_special_tokens=True)
        thoughts = list(dict.fromkeys(each.learned[1] for each in parts))
        thought = dict(zip(thoughts, plain_ids(thoughts, self.tokenizer, split_special_tokens=True)))
        for row, each, response in zip(rows, parts, responses):
            if each.call:  # the marks around a call are tokens
                response = ids[each.call]
            opening, learned, closing = each.learned
            response = [*ids[opening], *thought[learned], *ids[closing], *response]
            # A response that was cut off must not learn to end there; but an empty one needs a token.
            cut = response and row.get("finished") is False
            self.responses[row["id"]] = response if cut else [*response, self.end]

    def replace_prompts(self, rows: Sequence[Row], turns: Sequence[Mapping[str, Any]]) -> None:
        """Tokenise rows again, with these turns as their prompt."""
        self._add([{**row, "prompt": list(turns)} for row in rows])

    def condition(self, text: str) -> list[int]:
        """Tokenise a condition, once per distinct text."""
        if text not in self._conditions:
            self._conditions[text] = plain_ids([text], self.tokenizer)[0]
        return self._conditions[text]

    def length(self, row: Row, condition: str = "") -> int:
        """Number of tokens of prompt, condition, and response with its end."""
        return len(self.prefix(row, condition)) + len(self.responses[row["id"]])

    def prefix(self, row: Row, condition: str = "") -> list[int]:
        """Return the ids before the response: prompt and condition."""
        return self._prompts[row["id"]] + self.condition(condition + self._tails[row["id"]])

    def sequence(self, row: Row, condition: str = "") -> Sequence_:
        """Make a candidate of a row."""
        return Sequence_(self.prefix(row, condition), self.responses[row["id"]])


def as_drawn(thinking: str) -> str:
    """Return the `thinking` of rows that a policy drew: of one that thinks they begin with the thought."""
    return "learn" if thinking in THINKS else thinking


def prompt_text(
    prompt: Sequence[Mapping[str, Any]], tokenizer: Any, options: Mapping[str, Any] = NONE, thinking: str = "drop"
) -> str:
    """Render a prompt in the model's chat template, up to where an answer begins; nothing is dropped.

    `options`: what else the template is given, `options_of` a row. `thinking`: that of the policy, see `place_of`.
    """
    return printed(fitted(prompt, tokenizer), tokenizer, options, thinking)


def turns_parts(
    prompt: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    template: str | None,
    options: Mapping[str, Any] = NONE,
    thinking: str = "drop",
) -> tuple[str, str]:
    """Render a prompt before and after the place of a condition, see `prompt_parts`."""
    if in_turn(template):
        return divided(fitted(prompt, tokenizer), tokenizer, options, thinking)
    return prompt_text(prompt, tokenizer, options, thinking), ""


def in_turn(template: str | None) -> bool:
    """Whether conditions of this template end the last turn."""
    return template is not None and TEMPLATES[template].in_turn


def prompt_parts(row: Row, tokenizer: Any, template: str | None = None, thinking: str = "drop") -> tuple[str, str]:
    """Render a row's prompt before and after the place of a condition; SteerError with its id if it is refused.

    `template`: that of the conditions, None without any. The second part is empty unless conditions end the last turn.
    """
    with named(row):
        return turns_parts(row["prompt"], tokenizer, template, options_of(row), thinking)


class Parts(NamedTuple):
    """The texts of a row: before and after the place of a condition, and what is learned before the response.

    `learned`: what the template writes before a thought, the thought, and what it writes after it. `call`: the response
    as the template writes it, if it calls tools. `untold`: its thought has no place in the template.
    """

    head: str
    tail: str
    learned: tuple[str, str, str] = ("", "", "")
    call: str = ""
    untold: bool = False


def answer_parts(row: Row, tokenizer: Any, template: str | None, thinking: str) -> Parts:
    """Render what stands before a row's response; SteerError with its id if the chat template refuses it.

    `thinking`: with "drop" nothing is left of a thought; with "empty" its block is, as an empty one; with "keep" it
    stands before the response, and with "learn" it is learned like it, from where generation begins.
    """
    with named(row):
        asked, options = fitted(row["prompt"], tokenizer), options_of(row)
        turns = asking(asked) if in_turn(template) else asked
        thought = str(row.get("reasoning_content") or "").strip() if thinking in THINKS else ""
        place = place_of(turns, tokenizer, options, "empty" if thought or thinking == "empty" else "drop")
        opened, closing = divided_at_thought(turns, tokenizer, options, place)
        untold, thought = bool(thought and not closing), thought if closing else ""
        before = opened + thought + closing
        check_printed(asked, tokenizer, options, before.replace(MARK, ""))
        call = _call(row, turns, tokenizer, options) if row.get("tool_calls") else ""
        learned = ("", "", "")
        if thinking == "learn":
            begun = generation_prompt(turns, tokenizer, options)
            if opened.startswith(begun):
                before, learned = begun, (opened.removeprefix(begun), thought, closing)
            elif thought:
                raise SteerError(
                    f"row '{row['id']}': the model's chat template has thoughts elsewhere than where its generation "
                    "prompt ends, so they cannot be learned. Use --thinking keep."
                )
        head, tail = at_mark(before) if in_turn(template) else (before, "")
        return Parts(head, tail, learned, call, untold)


def _call(row: Row, turns: Sequence[Any], tokenizer: Any, options: Mapping[str, Any]) -> str:
    """Return a response that calls tools as the template writes it; SteerError if it has no place there."""
    answer = {"role": "assistant", "content": row["response"], "tool_calls": row["tool_calls"]}
    turn = fitted([*row["prompt"], answer], tokenizer)[-1]  # ids of calls go on through the conversation
    text = called(turns, tokenizer, options, turn)
    names = [str((call.get("function") or {}).get("name")) for call in turn["tool_calls"]]
    if not text or not all(name in text for name in names):
        raise SteerError(
            f"row '{row['id']}': its response calls a tool, which the model's chat template does not print where an "
            "answer stands. Leave such rows out."
        )
    return text


@contextmanager
def named(row: Row) -> Iterator[None]:
    """Raise what a chat template refuses as a SteerError with the id of the row."""
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:  # many templates have no system turn, or require turns to alternate
        raise SteerError(
            f"row '{row['id']}': the model's chat template refuses its prompt ({error}). Change such rows, or leave "
            "them out."
        ) from None
    except UnprintedError as error:
        raise SteerError(f"row '{row['id']}': {error}, or leave such rows out.") from None
    except ValueError as error:  # of `options_of`
        raise SteerError(f"row '{row['id']}': {error}.") from None


def plain_ids(texts: Sequence[str], tokenizer: Any, *, split_special_tokens: bool = False) -> list[list[int]]:
    """Tokenise texts without adding special tokens, which the chat template has already written.

    `split_special_tokens`: recognise none inside a text either.
    """
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=split_special_tokens)[
        "input_ids"
    ]
    rows = getattr(tokenizer, "embedded", None)
    if rows and (odd := next((i for each in ids for i in each if i >= rows), None)):
        token = tokenizer.convert_ids_to_tokens(odd)
        raise SteerError(f"a text holds {token}, a token that the model has no embedding of. Take it out.")
    return ids


def limit_tokens(tokenizer: Any, model: Any) -> None:
    """Let the tokenizer know how many rows the model's embeddings have, if it has more tokens (Gemma 3: one)."""
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer.embedded = rows if len(tokenizer) > rows else None


def text_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Tokenise texts without a chat template; each begins as the model's texts do, once.

    They begin with what the tokenizer adds there, else with the begin token if the chat template writes it.
    """
    [whole], [plain] = tokenizer(["x"])["input_ids"], plain_ids(["x"], tokenizer)
    begin: list[int] = next((whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain), [])
    if not begin and tokenizer.bos_token and _begins(tokenizer):
        begin = [tokenizer.bos_token_id]
    result = plain_ids(texts, tokenizer)
    for i, ids in enumerate(result):
        while begin and ids[: len(begin)] == begin:
            ids = ids[len(begin) :]
        result[i] = begin + ids
    return result


def _begins(tokenizer: Any) -> bool:
    """Whether the chat template begins with the begin token."""
    from jinja2 import TemplateError

    try:
        return prompt_text([{"role": "user", "content": "x"}], tokenizer).startswith(tokenizer.bos_token)
    except TemplateError:
        return False
