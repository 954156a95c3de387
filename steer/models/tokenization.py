"""Rows -> token ids. The one place that tokenises: prompt, condition and response apart, so masks are token spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steer.conditioning.chat import fitted
from steer.conditioning.turns import UnprintedError, printed, say_unprinted
from steer.errors import SteerError
from steer.models.collate import Sequence_
from steer.rows import Row


class Tokens:
    """Prompt and response ids of every row, tokenised once."""

    def __init__(self, rows: Sequence[Row], tokenizer: Any, end: int | None = None) -> None:
        """`end`: the token that ends a response, `Policy.end`; None: the tokenizer's EOS."""
        self.tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id if end is None else end
        texts = [prompt_of(row, tokenizer) for row in rows]
        say_unprinted(rows, tokenizer)
        unique = list(dict.fromkeys(texts))
        ids = dict(zip(unique, plain_ids(unique, tokenizer)))
        self.prompts = {row["id"]: ids[text] for row, text in zip(rows, texts)}
        # A response is plain text: "<|end|>" inside it must not become the token that ends it.
        responses = plain_ids([row["response"] for row in rows], tokenizer, split_special_tokens=True)
        # One that was cut off never drew its end, and must not learn one there; but something must be drawn.
        self.responses = {
            row["id"]: r if r and row.get("finished") is False else [*r, self.end] for row, r in zip(rows, responses)
        }
        self._conditions: dict[str, list[int]] = {"": []}

    def condition(self, text: str) -> list[int]:
        """Ids of a condition; tokenised once per distinct text."""
        if text not in self._conditions:
            self._conditions[text] = plain_ids([text], self.tokenizer)[0]
        return self._conditions[text]

    def length(self, row: Row, condition: str = "") -> int:
        """Tokens of prompt, condition, and response with its end."""
        return len(self.prompts[row["id"]]) + len(self.condition(condition)) + len(self.responses[row["id"]])

    def sequence(self, row: Row, condition: str = "") -> Sequence_:
        """One candidate."""
        return Sequence_(self.prompts[row["id"]] + self.condition(condition), self.responses[row["id"]])


def prompt_text(prompt: Sequence[Mapping[str, Any]], tokenizer: Any) -> str:
    """A prompt through the model's chat template, up to and including the assistant marker; nothing of it is lost."""
    return printed(fitted(prompt, tokenizer), tokenizer)


def prompt_of(row: Row, tokenizer: Any) -> str:
    """The same for a row; refused by its id where the template takes no such turns."""
    from jinja2 import TemplateError

    try:
        return prompt_text(row["prompt"], tokenizer)
    except TemplateError as error:  # many templates know no system turn, or want turns to alternate
        raise SteerError(
            f"row '{row['id']}': the model's chat template refuses its prompt ({error}). Change such rows, or leave "
            "them out."
        ) from None
    except UnprintedError as error:
        raise SteerError(f"row '{row['id']}': {error}, or leave such rows out.") from None


def plain_ids(texts: Sequence[str], tokenizer: Any, *, split_special_tokens: bool = False) -> list[list[int]]:
    """Ids without special tokens around them: the chat template has already written those.

    With `split_special_tokens` none is recognised inside a text either.
    """
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=split_special_tokens)[
        "input_ids"
    ]
    return ids


def text_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids of texts that stand by themselves, without a chat template: each begins as the model's texts begin, once.

    Which is with what the tokenizer puts there, or else with the begin token where the chat template writes it.
    """
    [whole], [plain] = tokenizer(["x"])["input_ids"], plain_ids(["x"], tokenizer)
    begin: list[int] = next((whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain), [])
    if not begin and tokenizer.bos_token and _begins(tokenizer):
        begin = [tokenizer.bos_token_id]
    found = plain_ids(texts, tokenizer)
    for i, ids in enumerate(found):
        while begin and ids[: len(begin)] == begin:
            ids = ids[len(begin) :]
        found[i] = begin + ids
    return found


def _begins(tokenizer: Any) -> bool:
    """Whether the chat template begins with the begin token."""
    from jinja2 import TemplateError

    try:
        return prompt_text([{"role": "user", "content": "x"}], tokenizer).startswith(tokenizer.bos_token)
    except TemplateError:
        return False
