"""Part a reply, while it is drawn, into what was thought, what was answered, and the tools that are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from attribute_models.templates import options_of
from steer.conditioning.chat import fitted
from steer.conditioning.finished import Block, block_of, called, lead_of
from steer.generation.calls import Call, Syntax, syntax_of
from steer.generation.text import Text
from steer.models.policy import Policy, end_tokens
from steer.models.tokenization import plain_ids, written
from steer.progress import note_once
from steer.rows import Row
from steer.settings import THINKS

Token = tuple[int, Any]  # its id, and what is kept beside it


class Form(NamedTuple):
    """What a reply may hold besides its text: a thinking block, calls of declared tools, `lead` before its text."""

    block: Block | None = None
    syntax: Syntax | None = None
    tools: Sequence[Any] = ()
    lead: str = ""

    @staticmethod
    def of(policy: Policy, row: Row) -> Form:
        """Return the form of the policy's replies to the prompt of a row."""
        tokenizer, options = policy.tokenizer, options_of(row)
        tools, thinks = options.get("tools") or (), policy.thinking in THINKS
        turns = fitted(row["prompt"], tokenizer)
        lead = lead_of(turns, tokenizer, options)
        block = block_of(turns, tokenizer, options) if thinks else None
        if block and lead:  # it does not stand between a thought and a call
            block = Block(block.opening, block.closing.removesuffix(lead), "")
        if block:
            block = Block(*(_decoded(text, tokenizer) for text in block))
        stops = written(end_tokens(policy), tokenizer) if tools else ()
        syntax = syntax_of(tokenizer, options, stops) if tools else None
        if tools and not syntax:
            note_once("the chat template writes calls of tools in a way that is not read here: they stay in the text.")
        return Form(block, syntax, tools, _decoded(lead, tokenizer))

    @property
    def plain(self) -> bool:
        """Whether a reply is nothing but its text."""
        return self.block is None and self.syntax is None and not self.lead


class Piece(NamedTuple):
    """What is new in a reply. `tokens`: those of the text, as (where it begins, its id, what is kept beside it)."""

    thought: str = ""
    text: str = ""
    calls: tuple[Call, ...] = ()
    tokens: tuple[tuple[int, int, Any], ...] = ()

    def with_rest(self, rest: Piece) -> Piece:
        """Return this with what comes after it."""
        parts = (self.thought + rest.thought, self.text + rest.text)
        return Piece(*parts, (*self.calls, *rest.calls), (*self.tokens, *rest.tokens))


class Reply:
    """A growing reply: first what was thought, then the answer, then the calls that end it.

    `text`: that of the answer, cut off at the first stop text. A thought without an end has no answer. Calls are read
    when the reply has ended; what cannot be read is text. `before`: the tokens that the text continues, if any.
    """

    def __init__(self, tokenizer: Any, form: Form, stops: Sequence[str] = (), before: Sequence[int] = ()) -> None:
        self.text = Text(tokenizer, stops, before=before)
        self._thought = _Thought(tokenizer, form.block) if form.block else None
        self._lead = _Lead(tokenizer, form.lead) if form.lead else None
        self._calls = _Calls(tokenizer, form.syntax, form.tools) if form.syntax else None
        self._space, self._begun = "", not form.block

    def push(self, token: int, beside: Any = None) -> Piece:
        """Add a token and return what is certain now."""
        new: Token = token, beside
        thought, tokens = self._thought.push(new) if self._thought else ("", [new])
        if self._thought:
            self._space += self._thought.rest()
        if self._lead:
            tokens = [each for token_ in tokens for each in self._lead.push(token_)]
        if self._calls:
            tokens = [each for token_ in tokens for each in self._calls.push(token_)]
        return self._answered(tokens, thought)

    def finish(self, *, whole: bool) -> Piece:
        """Return the rest; `whole`: the model ended the reply, so that calls in it are complete."""
        thought, tokens = self._thought.finish() if self._thought else ("", [])
        if self._thought:
            self._space += self._thought.rest()
        if self._lead:
            tokens = [each for token in tokens for each in self._lead.push(token)] + self._lead.finish()
        before: str = ""
        calls: list[Call] = []
        if self._calls:
            tokens = [each for token in tokens for each in self._calls.push(token)]
            before, calls, later = self._calls.finish(whole=whole and not self.text.stopped)
            tokens += later
        piece = self._answered(tokens, thought)
        text = piece.text + self._led(self.text.finish() + before) + self._space
        return piece._replace(text=text.rstrip() if calls else text, calls=tuple(calls))

    def _answered(self, tokens: Sequence[Token], thought: str) -> Piece:
        text, places = "", []
        for token, beside in tokens:
            text += self.text.push(token)
            places.append((self.text.begun, token, beside))
        return Piece(thought, self._led(text), tokens=tuple(places))

    def _led(self, text: str) -> str:
        """Leave out white space after a thought, and keep back that which may stand before a call."""
        text = self._space + text if self._begun else (self._space + text).lstrip()
        self._begun = self._begun or bool(text)
        kept = text.rstrip() if self._calls else text
        self._space = text[len(kept) :]
        return kept


def parted(tokenizer: Any, form: Form, ids: Sequence[int], *, whole: bool) -> Piece:
    """Part a reply that was drawn, without its end token; `whole`: the model ended it."""
    reply = Reply(tokenizer, form)
    pieces = [*map(reply.push, ids), reply.finish(whole=whole)]
    return Piece("".join(p.thought for p in pieces), "".join(p.text for p in pieces), pieces[-1].calls)


def written_as(parts: Piece, ids: Sequence[int], tokenizer: Any, row: Row, stops: Sequence[str] = ()) -> bool:
    """Whether the chat template writes text and calls of a reply as they were drawn, after what else is in `ids`.

    `stops`: the tokens that end a reply.
    """
    answer = {"role": "assistant", "content": parts.text, "tool_calls": list(parts.calls)}
    turns = fitted([*row["prompt"], answer], tokenizer)
    try:
        call = called(turns[:-1], tokenizer, options_of(row), turns[-1], stops)
    except TemplateError:
        return False
    [again] = plain_ids([call.text if call else ""], tokenizer)
    drawn: str = tokenizer.decode(ids)
    return call is not None and drawn.rstrip().endswith(tokenizer.decode(again).strip())


class _Thought:
    """Tells the tokens of a thought from those of the answer after it."""

    def __init__(self, tokenizer: Any, block: Block) -> None:
        self.tokenizer, self.block = tokenizer, block
        self._ended, self._opened = False, not block.opening
        self._first: list[Token] = []  # tokens before it is certain how the reply begins
        self._text, self._space = Text(tokenizer, [block.closing], special=True), ""
        self._begun = False

    def push(self, token: Token) -> tuple[str, list[Token]]:
        """Add a token; return what is certain of the thought, and the tokens that belong to the answer."""
        if self._ended:
            return "", [token]
        if self._opened:
            return self._thinking(self._text.push(token[0])), []
        self._first.append(token)
        begins = self.tokenizer.decode([id for id, _ in self._first]).lstrip()
        opening, _, plain = self.block
        if begins.startswith(opening):
            self._opened = True
            return self._thinking(begins[len(opening) :]), []
        if plain and begins.startswith(plain):
            self._ended = True
            return "", []
        if opening.startswith(begins) or plain.startswith(begins):
            return "", []
        self._ended = True
        return "", self._first

    def rest(self) -> str:
        """Return, once, the beginning of the answer in the token that ended the thought."""
        rest, self._text.after = self._text.after, ""
        return rest

    def finish(self) -> tuple[str, list[Token]]:
        """Return the rest of both; a thought without an end has no answer."""
        if self._ended or not self._opened:
            return "", [] if self._ended else self._first
        return self._thinking(self._text.finish()), []

    def _thinking(self, text: str) -> str:
        """Leave out white space around the thought."""
        self._ended = self._text.stopped
        text = self._space + text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        kept = text.rstrip()
        self._space = text[len(kept) :]
        return kept


class _Lead:
    """Leaves out what is drawn before the text of an answer."""

    def __init__(self, tokenizer: Any, lead: str) -> None:
        self.tokenizer, self.lead = tokenizer, lead
        self._first: list[Token] = []
        self._ended = False

    def push(self, token: Token) -> list[Token]:
        """Add a token; return those that are no part of it."""
        if self._ended:
            return [token]
        self._first.append(token)
        begins = self.tokenizer.decode([id for id, _ in self._first]).strip()
        self._ended = begins.startswith(self.lead) or not self.lead.startswith(begins)
        if not self._ended or begins.startswith(self.lead):
            return []
        return self._first

    def finish(self) -> list[Token]:
        """Return the rest of a reply that ended in it."""
        return [] if self._ended else self._first


class _Calls:
    """Keeps tokens back that may begin a call."""

    def __init__(self, tokenizer: Any, syntax: Syntax, tools: Sequence[Any]) -> None:
        self.tokenizer, self.syntax, self.tools = tokenizer, syntax, tools
        self._text = Text(tokenizer, [syntax.first.strip()], special=True)
        self._back: list[tuple[Token, int]] = []  # each with the place where it ends

    def push(self, token: Token) -> list[Token]:
        """Add a token; return those that begin no call."""
        self._text.push(token[0])  # after its stop text it stays as it is
        self._back.append((token, self._text.length))
        if self._text.stopped:
            return []
        certain = sum(end <= self._text.emitted for _, end in self._back)
        free, self._back = [each for each, _ in self._back[:certain]], self._back[certain:]
        return free

    def finish(self, *, whole: bool) -> tuple[str, list[Call], list[Token]]:
        """Return the text before the calls and the calls, if they can be read; else the tokens as what is left."""
        back = [token for token, _ in self._back]
        self._text.finish()
        if self._text.stopped and whole:
            first = self.syntax.first.strip()
            before, _, rest = self.tokenizer.decode([id for id, _ in back]).partition(first)
            if calls := self.syntax.read(first + rest, self.tools):
                return before, calls, []
            note_once("a response calls a tool in a way that cannot be read for certain: the call stays in its text.")
        return "", [], back


def _decoded(text: str, tokenizer: Any) -> str:
    """Return a text as it comes back from its tokens, without white space around it."""
    if not text.strip():
        return ""
    decoded: str = tokenizer.decode(plain_ids([text.strip()], tokenizer)[0])
    return decoded.strip()
