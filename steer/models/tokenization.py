"""Rows -> token ids. The one place that tokenises: prompt, condition and response by themselves, so masks are spans."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from attribute_models.arrays import common
from attribute_models.literal import literal, token_ids, unembedded
from attribute_models.templates import NONE, options_of, thought_key
from steer.cache import shared
from steer.conditioning.chat import fitted
from steer.conditioning.condition import TEMPLATES
from steer.conditioning.finished import (
    Called,
    answered_at,
    called,
    calls_apart,
    divided_at_thought,
    ending,
    generation_prompt,
)
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
from steer.models import token_store
from steer.models.collate import Sequence_
from steer.models.token_store import Tokenised, batch_of, columns_of, content_key
from steer.progress import progress
from steer.rows import Row
from steer.rows.lazy import AT_ONCE
from steer.settings import THINKS

Around = tuple[str, str, str]  # what stands before, in and after a thought


class Tokens:
    """Prompt and response ids of every row, tokenised once: those of many rows are in a file that processes share.

    `template`: that of the conditions; in one that ends the last turn, what the chat template prints after that turn
    becomes part of the condition. `thinking`: what becomes of thoughts, see `answer_parts`; `untold`: number of rows
    whose thought the chat template has no place for.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        tokenizer: Any,
        ends: Collection[int] | None = None,
        template: str | None = None,
        thinking: str = "drop",
    ) -> None:
        """Tokenise rows; `ends`: tokens at which decoding stops, see `end_ids`; None: the tokenizer's EOS."""
        self.tokenizer = tokenizer
        self.ends = {tokenizer.eos_token_id} if ends is None else {*ends}
        self.end = end_ids(tokenizer, self.ends)
        self._stops = written(self.ends, tokenizer)
        self._conditions: dict[str, list[int]] = {"": []}
        self._template, self._thinking = template, thinking
        batches = self._stored(rows)
        self._prompts, self._tails, self.responses = columns_of(batches)
        self.untold = sum(batch.column("untold").true_count for batch in batches)
        say_unprinted(rows, tokenizer)

    def _stored(self, rows: Sequence[Row]) -> Sequence[Any]:
        """Return Arrow batches of what is tokenised, or was before, by this process or another one."""
        how = (sorted(self.ends), self._template, self._thinking)
        key = content_key(rows, self.tokenizer, *how) if len(rows) >= token_store.MANY else ""
        if not key:
            return list(self._batches(rows))
        self._tokenised(rows[:1])  # which says what is to be said of the chat template
        return shared("tokens", key, lambda: self._batches(rows))

    def _batches(self, rows: Sequence[Row]) -> Iterable[Any]:
        with progress(total=len(rows), what="tokenize") as bar:
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                yield batch_of([row["id"] for row in part], self._tokenised(part))
                bar.update(len(part))

    def _tokenised(self, rows: Sequence[Row]) -> list[Tokenised]:
        """Tokenise some rows."""
        rendered: dict[str, Parts] = {}  # candidates of a prompt follow each other
        parts = []
        for row in rows:
            own = (row["response"], row["tool_calls"]) if row.get("tool_calls") else ()
            own = (*own, row.get("reasoning_content")) if self._thinking in THINKS else own
            key = json.dumps([row["prompt"], row.get("tools"), row.get("chat_template_kwargs"), own])
            if key not in rendered:
                rendered[key] = answer_parts(row, self.tokenizer, self._template, self._thinking, self._stops)
            parts.append(rendered[key])
        unique = list(dict.fromkeys(text for each in parts for text in (each.head, *each.learned[::2], each.call)))
        ids = dict(zip(unique, plain_ids(unique, self.tokenizer)))
        heads = {each.head: array("i", ids[each.head]) for each in parts}  # candidates of a prompt share it
        tokenised = []
        # A response is plain text: "<|end|>" inside it must not become the token that ends it.
        responses = plain_ids([row["response"] for row in rows], self.tokenizer, only_text=True)
        thoughts = list(dict.fromkeys(each.learned[1] for each in parts))
        thought = dict(zip(thoughts, plain_ids(thoughts, self.tokenizer, only_text=True)))
        for row, each, response in zip(rows, parts, responses):
            if each.call:  # the marks around a call are tokens
                response = ids[each.call]
            opening, learned, closing = each.learned
            response = [*ids[opening], *thought[learned], *ids[closing], *response]
            # A response that was cut off must not learn to end there; but an empty one needs a token.
            cut = response and row.get("finished") is False
            end = self.tokenizer.convert_tokens_to_ids([each.end]) if each.end else self.end
            learned_ids = array("i", response if cut else [*response, *end])
            tokenised.append(Tokenised(heads[each.head], each.tail, learned_ids, each.untold))
        return tokenised

    def replace_prompts(self, rows: Sequence[Row], turns: Sequence[Mapping[str, Any]]) -> None:
        """Tokenise rows again, with these turns as their prompt."""
        changed = [row | {"prompt": list(turns)} for row in rows]
        for row, (prompt, tail, response, _) in zip(rows, self._tokenised(changed)):
            self._prompts[row["id"]], self._tails[row["id"]], self.responses[row["id"]] = prompt, tail, response

    def condition(self, text: str) -> list[int]:
        """Tokenise a condition, once per distinct text."""
        if text not in self._conditions:
            self._conditions[text] = plain_ids([text], self.tokenizer)[0]
        return self._conditions[text]

    def length(self, row: Row, condition: str = "") -> int:
        """Number of tokens of prompt, condition, and response with its end."""
        prompt, tail = self._prompts[row["id"]], self.condition(condition + self._tails[row["id"]])
        return len(prompt) + len(tail) + len(self.responses[row["id"]])

    def prefix(self, row: Row, condition: str = "") -> list[int]:
        """Return the ids before the response: prompt and condition."""
        return [*self._prompts[row["id"]], *self.condition(condition + self._tails[row["id"]])]

    def sequence(self, row: Row, condition: str = "") -> Sequence_:
        """Make a candidate of a row."""
        return Sequence_(self.prefix(row, condition), list(self.responses[row["id"]]))


def as_drawn(thinking: str) -> str:
    """Return the `thinking` of rows that a policy drew: of one that thinks they begin with the thought."""
    return "learn" if thinking in THINKS else thinking


def prompt_text(
    prompt: Sequence[Mapping[str, Any]], tokenizer: Any, options: Mapping[str, Any] = NONE, thinking: str = "drop"
) -> str:
    """Render a prompt in the model's chat template, up to where an answer begins; nothing is dropped.

    `options`: what else the template is given, `options_of` a row. `thinking`: that of the policy, see `place_of`.
    """
    return printed(literal(fitted(prompt, tokenizer), tokenizer), tokenizer, literal(options, tokenizer), thinking)


def turns_parts(
    prompt: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    template: str | None,
    options: Mapping[str, Any] = NONE,
    thinking: str = "drop",
) -> tuple[str, str]:
    """Render a prompt before and after the place of a condition, see `prompt_parts`."""
    if in_turn(template):
        return divided(literal(fitted(prompt, tokenizer), tokenizer), tokenizer, literal(options, tokenizer), thinking)
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
    as the template writes it, if it calls tools. `untold`: its thought has no place in the template. `end`: the token
    that ends it, "" for that of every answer.
    """

    head: str
    tail: str
    learned: tuple[str, str, str] = ("", "", "")
    call: str = ""
    untold: bool = False
    end: str = ""


def answer_parts(row: Row, tokenizer: Any, template: str | None, thinking: str, stops: Sequence[str] = ()) -> Parts:
    """Render what stands before a row's response; SteerError with its id if the chat template refuses it.

    `thinking`: with "drop" nothing is left of a thought; with "empty" its block is, as an empty one; with "keep" it
    stands before the response, and with "learn" it is learned like it, from where generation begins. `stops`: those
    tokens at which decoding stops.
    """
    with named(row):
        asked, options = literal([fitted(row["prompt"], tokenizer), options_of(row)], tokenizer)
        turns = asking(asked) if in_turn(template) else asked
        thought = str(row.get("reasoning_content") or "").strip() if thinking in THINKS else ""
        place = answered_at(turns, tokenizer, options, "empty" if thought or thinking == "empty" else "drop")
        opened, closing = divided_at_thought(turns, tokenizer, options, place)
        begun = generation_prompt(turns, tokenizer, options)
        if thinking == "learn" and not opened.startswith(begun):  # an empty thought, from where generation begins
            place = answered_at(turns, tokenizer, options, "empty")
            opened, closing = divided_at_thought(turns, tokenizer, options, place)
        untold, thought = bool(thought and not closing), thought if closing else ""
        call = Called("", "", "")
        if row.get("tool_calls"):
            call, opened, thought, closing = _call(row, turns, tokenizer, options, stops, (opened, thought, closing))
            if thinking == "empty" and call.before:  # policies of that kind answer after the empty block
                raise _nowhere(row)
        before = opened + literal(thought, tokenizer) + closing
        check_printed(asked, tokenizer, options, before.replace(MARK, ""))
        learned = ("", "", "")
        if thinking == "learn" or (thinking == "drop" and calls_apart(turns, tokenizer, options)):
            if opened.startswith(begun):
                before, learned = begun, (opened.removeprefix(begun), thought, closing)
            elif thought:
                raise SteerError(
                    f"row '{row['id']}': the model's chat template has thoughts elsewhere than where its generation "
                    "prompt ends, so they cannot be learned. Use --thinking keep."
                )
        head, tail = at_mark(before) if in_turn(template) else (before, "")
        return Parts(head, tail, learned, call.text, untold, call.end)


def _call(
    row: Row, turns: Sequence[Any], tokenizer: Any, options: Mapping[str, Any], stops: Sequence[str], around: Around
) -> tuple[Called, str, str, str]:
    """Return a response that calls tools as the template writes it, and what stands before it.

    The latter is before, in and after its thought, as in `around` of an answer's text; the call's `before` is empty if
    that is the same. SteerError if it has no place there, or not all of its calls are written.
    """
    answer = {"role": "assistant", "content": row["response"], "tool_calls": row["tool_calls"]}
    turn = literal(fitted([*row["prompt"], answer], tokenizer)[-1], tokenizer)  # ids go on through the conversation
    call = called(turns, tokenizer, options, turn, stops)
    names = [str((each.get("function") or {}).get("name")) for each in turn["tool_calls"]]
    for some in (turn["tool_calls"][1:], turn["tool_calls"][:-1]):
        other = called(turns, tokenizer, options, {**turn, "tool_calls": some}, stops) if some else None
        if other and (not call or other.text == call.text):
            raise SteerError(
                f"row '{row['id']}': its response calls {len(names)} tools at once, of which the model's chat template "
                "writes one. Leave such rows out."
            )
    if not call or not all(name in call.text for name in names):
        raise _nowhere(row, declare=calls_apart(turns, tokenizer, {**options, "tools": row["tool_calls"]}))
    if not calls_apart(turns, tokenizer, options):
        return call._replace(before=""), *around
    opened, thought, closing = around
    if thought:  # it is followed by a call where that of an answer is by the answer's text
        thinker = called(turns, tokenizer, options, {**turn, thought_key(tokenizer): thought}, stops)
        if thinker and (thinker.before + thinker.text).startswith(opened + thought):
            rest = (thinker.before + thinker.text)[len(opened + thought) :]
            both = re.sub(r"<[^>]*$", "", rest[: common([rest, closing])])  # whole tokens
            return call._replace(text=rest[len(both) :]), opened, thought, both
    return call, call.before, "", ""


def _nowhere(row: Row, *, declare: bool = False) -> SteerError:
    advice = "Declare it in the row's `tools`, from where both are drawn" if declare else "Leave such rows out"
    return SteerError(
        f"row '{row['id']}': its response calls a tool, which the model's chat template does not print where an "
        f"answer stands. {advice}."
    )


def written(ends: Collection[int], tokenizer: Any) -> list[str]:
    """Return the tokens with these ids, in their order; a model can name some that its tokenizer lacks."""
    tokens = tokenizer.convert_ids_to_tokens(sorted(ends))
    return [token for token in tokens if token is not None]


def end_ids(tokenizer: Any, ends: Collection[int]) -> list[int]:
    """Return the tokens that end a response in training: those that the chat template writes up to one of `ends`.

    It is the EOS where the template writes none of these, or after a text. The EOS of some tokenizers ends a text
    (Gemma: <eos>), while the model ends a turn (<end_of_turn>); Cohere's closes the response first, GLM begins the next
    turn.
    """
    from jinja2 import TemplateError

    stops = written(ends, tokenizer)
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Certainly."}]
    try:
        found = ending(turns, tokenizer, NONE, stops)
    except TemplateError:
        found = None
    if found:
        [closing] = plain_ids([found.closing.strip()], tokenizer)
        if not tokenizer.decode(closing, skip_special_tokens=True).strip():
            return [*closing, tokenizer.convert_tokens_to_ids(found.end)]
    return [tokenizer.eos_token_id]


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


def plain_ids(texts: Sequence[str], tokenizer: Any, *, only_text: bool = False) -> list[list[int]]:
    """Tokenise texts without adding special tokens, which the chat template has already written.

    Those that it wrote are recognised, those inside the texts of turns are not. `only_text`: recognise none.
    """
    ids = token_ids(texts, tokenizer, only_text=only_text)
    rows = getattr(tokenizer, "embedded", None)
    if rows and (told := unembedded(ids, tokenizer, rows)):
        raise SteerError(told)
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
