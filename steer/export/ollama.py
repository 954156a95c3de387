"""Write Ollama's Modelfile for an exported policy: turns and condition as a Go template, ends, sampling.

Ollama has no variables of a request in its templates, so the condition is that of one target. Tools are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from steer.conditioning.chat import bare, rendered

Turn = Mapping[str, str]
NAMES = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}
NAMES |= {"repetition_penalty": "repeat_penalty"}
S, U, A, V = (f"mark{i}of" for i in range(4))  # in place of texts


@dataclass(frozen=True)
class Turns:
    """The texts that a chat template writes before and after each turn."""

    begin: str  # a begin token before all turns, which Ollama adds by itself
    default: str  # where there is no system turn, instead of one
    system: tuple[str, str] | None  # before and after a system turn; None if there can be none
    user: tuple[str, str]
    assistant: tuple[str, str]
    last: str  # after the last turn of a user: a condition, the end of the turn, and what begins the answer

    @staticmethod
    def of(tokenizer: Any, attributes: Mapping[str, Any] | None) -> Turns | None:
        """Split a chat template into these texts, at a target; None if it is more than turns one after the other."""
        try:
            turns = _divided(tokenizer, attributes)
            same = all(turns.written(probe) == _text(tokenizer, probe, attributes) for probe in turns.probes)
            _ = turns.go
        except (TemplateError, ValueError):
            return None
        return turns if same else None

    @property
    def probes(self) -> list[list[Turn]]:
        """Return conversations that `written` must render as the chat template does."""
        chat = [_turn("user", "Hello."), _turn("assistant", "Yes?"), _turn("user", "What is 2?")]
        return [chat[:1], chat, *([[_turn("system", "Be kind."), *chat]] if self.system else [])]

    def written(self, chat: Sequence[Turn]) -> str:
        """Render a conversation that ends with a user's turn, as `go` does."""
        around = {"system": self.system or ("", ""), "user": self.user, "assistant": self.assistant}
        text = self.begin + ("" if chat[0]["role"] == "system" else self.default)
        for turn in chat:
            before, after = around[turn["role"]]
            text += before + turn["content"] + (self.last if turn is chat[-1] else after)
        return text

    @property
    def go(self) -> str:
        """Return the Go template."""
        default, last = _literal(self.default), _literal(self.last)
        (u, user), (a, assistant) = (tuple(map(_literal, pair)) for pair in (self.user, self.assistant))
        s, system = map(_literal, self.system or ("", ""))
        parts = ["{{ if not .System }}", default, "{{ end }}"] if default else []
        parts += ["{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}{{ if "]
        if self.system:
            parts += ['eq .Role "system" }}', s, "{{ .Content }}", system, "{{ else if "]
        parts += ['eq .Role "user" }}', u, "{{ .Content }}{{ if $last }}", last, "{{ else }}", user, "{{ end }}"]
        parts += ["{{ else }}", a, "{{ .Content }}{{ if not $last }}", assistant, "{{ end }}{{ end }}{{ end }}"]
        return "".join(parts)


def modelfile(turns: Turns, file: str, ends: Sequence[str], sampling: Mapping[str, Any]) -> str:
    """Return a Modelfile for weights in a file; `ends`: texts that end answers; `sampling`: of generation_config."""
    lines = [f"FROM ./{file}", f'TEMPLATE """{turns.go}"""']
    lines += [f"PARAMETER stop {_quoted(end)}" for end in ends if end]
    lines += [f"PARAMETER {NAMES[name]} {value}" for name, value in sampling.items() if name in NAMES]
    return "\n".join(lines) + "\n"


def _divided(tokenizer: Any, attributes: Mapping[str, Any] | None) -> Turns:
    """Render marks as turns and cut the result at them; ValueError if a part is not where it should be."""
    steerable = tokenizer.chat_template
    last = _text(tokenizer, [_turn("user", U)], attributes).partition(U)[2]
    try:
        tokenizer.chat_template = bare(steerable)
        chat = [_turn("user", U), _turn("assistant", A), _turn("user", V)]
        alone, answered, whole = (rendered(tokenizer, chat[:n]) for n in (1, 2, 3))
        user_end, assistant_end = alone.partition(U)[2], answered.partition(A)[2]
        user = _without(_between(whole, A, V), assistant_end)
        assistant = _without(_between(whole, U, A), user_end)
        token = tokenizer.bos_token or ""
        begin = token if token and alone.startswith(token) and not user.startswith(token) else ""
        start = alone.partition(U)[0].removeprefix(begin)
        system = _system(tokenizer, chat, begin, user)
    finally:
        tokenizer.chat_template = steerable
    if not start.endswith(user):
        raise ValueError("the first turn is written unlike later ones")
    return Turns(begin, start[: len(start) - len(user)], system, (user, user_end), (assistant, assistant_end), last)


def _system(tokenizer: Any, chat: Sequence[Turn], begin: str, user: str) -> tuple[str, str] | None:
    """Return the texts around a system turn; None if the template refuses it, ValueError if it is no separate turn."""
    try:
        text = rendered(tokenizer, [_turn("system", S), *chat])
    except TemplateError:
        return None
    between = _between(text, S, U)
    if not between.endswith(user):
        raise ValueError("a system turn is no turn of its own")
    return text.partition(S)[0].removeprefix(begin), between[: len(between) - len(user)]


def _text(tokenizer: Any, chat: Sequence[Turn], attributes: Mapping[str, Any] | None) -> str:
    """Render a conversation up to where an answer begins, at a target; None: the template's own."""
    options = {} if attributes is None else {"attributes": attributes}
    return rendered(tokenizer, chat, add_generation_prompt=True, **options)


def _between(text: str, first: str, second: str) -> str:
    return text.partition(first)[2].partition(second)[0]


def _without(text: str, start: str) -> str:
    if not text.startswith(start):
        raise ValueError("a turn ends in several ways")
    return text[len(start) :]


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _literal(text: str) -> str:
    """Escape a text for a Go template in a Modelfile; ValueError if it cannot stand there."""
    if '"""' in text:
        raise ValueError("three quotes end a Modelfile's text")
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
