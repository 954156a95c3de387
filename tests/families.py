"""Toys with the traits of families of chat models: templates of our own, tokenizers, and what becomes of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from steer.conditioning.switches import with_defaults


class Family(NamedTuple):
    """A template with the trait of a family; `before`: what stands before an answer to ASK, `end`: what ends it.

    `thought`: what stands before it with the thought "hm"; None: the template prints none.
    """

    template: str
    before: str
    end: str
    thought: str | None
    tools: bool = True  # declarations and calls are printed
    call: str = "<call>weigh what=moss</call>"  # what a call becomes
    learns: bool = True  # a thought stands where the generation prompt ends
    call_end: str = ""  # what ends a call, if it is not `end`
    lead: str = ""  # what is drawn before an answer where a tool could be called instead
    stops: tuple[str, ...] = ()  # tokens that the model ends with, the tokenizer's first; none: `end`
    start: str = ""  # what `before` begins with that stands at the start of a conversation only
    switch: tuple[str, Any] | None = None  # the option that turns thinking on, which is off by itself
    empty: str = ""  # what stands before an answer with an empty thought; "": as `thought`


ASK: list[dict[str, Any]] = [{"role": "user", "content": "Describe apples."}]
TOOLS = [{"type": "function", "function": {"name": "weigh", "description": "", "parameters": {"type": "object"}}}]
CALL = {"id": "123456789", "type": "function", "function": {"name": "weigh", "arguments": '{"what": "moss"}'}}

_DECLARED = "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif %}"
_CALLS = (
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{% for name, value in c.function.arguments.items() %} "
    "{{ name }}={{ value }}{% endfor %}</call>{% endfor %}"
)
_TURN = "<|im_start|>{{ m.role }}\n"
_THOUGHT = "<think>\n{{ (m.reasoning_content or '') | trim }}\n</think>\n\n"
_LAST = "{% if m.role == 'assistant' and (loop.last or m.reasoning_content) %}"


def _chatml(before_content: str, prompt: str, content: str = "{{ m.content }}" + _CALLS) -> str:
    return (
        f"{_DECLARED}{{% for m in messages %}}{_TURN}{before_content}{content}<|im_end|>\n{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|im_start|>assistant\n{prompt}{{% endif %}}"
    )


_ASKED = "<|im_start|>user\nDescribe apples.<|im_end|>\n<|im_start|>assistant\n"
_OFF = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
FAMILIES = {
    "plain": Family(_chatml("", ""), _ASKED, "<|im_end|>", f"{_ASKED}<think>\nhm\n</think>\n\n"),
    "thinking, optional": Family(
        _chatml(_LAST + _THOUGHT + "{% endif %}", _OFF),
        f"{_ASKED}<think>\n\n</think>\n\n",
        "<|im_end|>",
        f"{_ASKED}<think>\nhm\n</think>\n\n",
    ),
    "thinking, prefilled": Family(
        _chatml(_LAST + _THOUGHT + "{% endif %}", "<think>\n"),
        f"{_ASKED}<think>\n\n</think>\n\n",
        "<|im_end|>",
        f"{_ASKED}<think>\nhm\n</think>\n\n",
    ),
    "thinking, prefilled and not kept": Family(
        _chatml("", "<think>\n", "{{ m.content.split('</think>')[-1] | trim }}" + _CALLS),
        f"{_ASKED}<think>\n\n</think>\n\n",
        "<|im_end|>",
        f"{_ASKED}<think>\nhm\n</think>\n\n",
    ),
    "thinking, prefilled, left open and not kept": Family(  # as Nemotron Nano's second
        _chatml("{% if m.role == 'assistant' and loop.last %}<think>\n{% endif %}", "<think>\n"),
        f"{_ASKED}<think>\n\n</think>\n\n",
        "<|im_end|>",
        f"{_ASKED}<think>\nhm\n</think>\n\n",
    ),
    "thinking, closed where there is none": Family(
        _chatml(
            "{% if m.role == 'assistant' %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}{% endif %}"
            "</think>{% endif %}",
            "<think>",
        ),
        f"{_ASKED}</think>",
        "<|im_end|>",
        f"{_ASKED}<think>hm</think>",
    ),
    "channels": Family(
        _DECLARED + "{% for m in messages %}{% if m.role == 'assistant' and m.thinking %}<|start|>assistant<|channel|>"
        "analysis<|message|>{{ m.thinking }}<|end|>{% endif %}<|start|>{{ m.role }}"
        "{% for c in m.tool_calls or [] %} to={{ c.function.name }}<|channel|>commentary<|message|>"
        "{{ c.function.arguments | tojson }}<|call|>{% else %}"
        "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
        "{{ m.content | tojson if m.role == 'tool' else m.content }}"
        "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        "<|start|>user<|message|>Describe apples.<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
        "<|start|>user<|message|>Describe apples.<|end|><|start|>assistant<|channel|>analysis<|message|>hm<|end|>"
        "<|start|>assistant<|channel|>final<|message|>",
        call=' to=weigh<|channel|>commentary<|message|>{"what": "moss"}',
        call_end="<|call|>",
        lead="<|channel|>final<|message|>",
        stops=("<|return|>", "<|call|>"),
    ),
    "closed before its end": Family(  # as Cohere's: the last token ends the turn, the one before it the answer
        _chatml("", "", "{{ m.content }}" + _CALLS + "{{ '[CLOSED]' if m.role == 'assistant' }}"),
        _ASKED,
        "[CLOSED]<|im_end|>",
        f"{_ASKED}<think>\nhm\n</think>\n\n",
        stops=("<|im_end|>",),
    ),
    "ended by the next turn": Family(  # as GLM's; the tokenizer's EOS ends texts
        _DECLARED
        + "{% for m in messages %}<|{{ 'observation' if m.role == 'tool' else m.role }}|>\n{{ m.content }}"
        + _CALLS
        + "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|user|>\nDescribe apples.<|assistant|>\n",
        "<|user|>",
        "<|user|>\nDescribe apples.<|assistant|>\n<think>\nhm\n</think>\n\n",
        call_end="<|observation|>",
        stops=("</s>", "<|observation|>", "<|user|>"),
    ),
    "alternation, no system": Family(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
        "<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}",
        _ASKED.replace("assistant", "model"),
        "<|im_end|>",
        _ASKED.replace("assistant", "model") + "<think>\nhm\n</think>\n\n",
        tools=False,
    ),
    "system merged": Family(
        "{% if messages[0].role == 'system' %}{% set first = messages[0].content ~ '\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for m in messages %}"
        "{% if m.role == 'user' %}[INST] {{ (first if loop.first else '') ~ m.content }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
        "[INST] Describe apples. [/INST]",
        "</s>",
        "[INST] Describe apples. [/INST] <think>\nhm\n</think>\n\n",
        tools=False,
    ),
    "system in the last turn": Family(  # of the user, while it is the last of all: a finished turn has none
        "{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content ~ '\n\n' %}"
        "{% elif m.role == 'user' %}[INST]{{ (ns.system if loop.last else '') ~ m.content }}[/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
        "[INST]Describe apples.[/INST]",
        "</s>",
        "[INST]Describe apples.[/INST]<think>\nhm\n</think>\n\n",
        tools=False,
    ),
    "thinking, on demand": Family(
        _chatml("", "{% if enable_thinking %}<think>\n{% endif %}"),
        _ASKED,
        "<|im_end|>",
        f"{_ASKED}<think>\nhm\n</think>\n\n",
        switch=("enable_thinking", True),
    ),
    "thinking, on demand and closed otherwise": Family(  # as DeepSeek's V3.1: thoughts are never printed
        _chatml(
            "{% if m.role == 'assistant' %}</think>{% endif %}",
            "{{ '<think>' if thinking is defined and thinking else '</think>' }}",
            "{{ m.content.split('</think>')[-1] }}" + _CALLS,
        ),
        f"{_ASKED}</think>",
        "<|im_end|>",
        f"{_ASKED}<think>hm</think>",
        switch=("thinking", True),
        empty=f"{_ASKED}</think>",
    ),
    "thinking, on demand at the start": Family(
        "<|im_start|>effort\n{{ reasoning_effort or 'none' }}<|im_end|>\n"
        + _chatml("{% if m.reasoning %}<think>{{ m.reasoning }}</think>{% endif %}", ""),
        f"<|im_start|>effort\nnone<|im_end|>\n{_ASKED}",
        "<|im_end|>",
        f"<|im_start|>effort\nhigh<|im_end|>\n{_ASKED}<think>hm</think>",
        start="<|im_start|>effort\nnone<|im_end|>\n",
        switch=("reasoning_effort", "high"),
        empty=f"<|im_start|>effort\nnone<|im_end|>\n{_ASKED}<think></think>",
    ),
    "thinking, announced in words": Family(
        _chatml("", "These are my thoughts:\n"),
        _ASKED,
        "<|im_end|>",
        f"{_ASKED}<think>\nhm\n</think>\n\n",
        learns=False,
    ),
    "thinking, an empty block in every answer": Family(
        _chatml("{% if m.role == 'assistant' %}<think></think>{% endif %}", ""),
        f"{_ASKED}<think></think>",
        "<|im_end|>",
        f"{_ASKED}<think>hm</think>",
    ),
    "thinking, before calls only": Family(  # as early templates of Gemma 4
        _chatml(
            "{% if m.reasoning and m.tool_calls %}<|channel|>thought\n{{ m.reasoning }}\n<|message|>{% endif %}",
            "",
        ),
        _ASKED,
        "<|im_end|>",
        f"{_ASKED}<|channel|>thought\nhm\n<|message|>",
    ),
    "thinking, a part of the content": Family(  # as Ministral's
        _chatml(
            "",
            "",
            "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
            "{% if part.type == 'thinking' %}<think>({{ part.thinking }})</think>{% else %}{{ part.text }}"
            "{% endif %}{% endfor %}{% endif %}" + _CALLS,
        ),
        _ASKED,
        "<|im_end|>",
        f"{_ASKED}<think>(hm)</think>",
    ),
    "thinking, a block of the content": Family(  # as Apertus's
        _chatml(
            "",
            "",
            "{% if m.content is mapping %}{% for b in m.content.blocks %}{{ '<think>' ~ b.text ~ '</think>' "
            "if b.type == 'thoughts' else b.text }}{% endfor %}{% else %}{{ m.content }}{% endif %}" + _CALLS,
        ),
        _ASKED,
        "<|im_end|>",
        f"{_ASKED}<think>hm</think>",
    ),
    "content in parts": Family(
        _chatml(
            "",
            "",
            "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}" + _CALLS,
        ),
        _ASKED,
        "<|im_end|>",
        f"{_ASKED}<think>\nhm\n</think>\n\n",
    ),
    "arguments as text": Family(
        _chatml(
            "",
            "",
            "{{ m.content }}{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + ' ' "
            "+ c.function.arguments + '</call>' }}{% endfor %}",
        ),
        _ASKED,
        "<|im_end|>",
        f"{_ASKED}<think>\nhm\n</think>\n\n",
        call='<call>weigh {"what": "moss"}</call>',
    ),
}
CALLS = {  # how families write a call
    "values": "{{ ' ' if not loop.first or m.content }}<call>{{ c.function.name }}{% for name, value in "
    "c.function.arguments.items() %} {{ name }}={{ value if value is string else value | tojson }}{% endfor %}</call>",
    "object": "{{ '\n' if not loop.first or m.content }}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>',
    "list with ids": "{{ '[TOOL_CALLS][' if loop.first else ', ' }}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{{ ']' if loop.last }}",
    "id before": "[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]{{ c.function.arguments | tojson }}",
    "elements": "{{ '\n' if not loop.first or m.content }}<tool_call>\n<function={{ c.function.name }}>\n{% for name, "
    "value in c.function.arguments.items() %}<parameter={{ name }}>\n{{ value if value is string else value | tojson }}"
    "\n</parameter>\n{% endfor %}</function>\n</tool_call>",
    "types in attributes": '<call><invoke name="{{ c.function.name }}">{% for name, value in '
    """c.function.arguments.items() %}<value name="{{ name }}" string="{{ 'true' if value is string else 'false' }}">"""
    "{{ value if value is string else value | tojson }}</value>{% endfor %}</invoke></call>",
    "texts in quotes of their own": "<call>call:{{ c.function.name }}{{ '{' }}{% for name, value in "
    "c.function.arguments | dictsort %}{{ name }}:{{ '<|q|>' ~ value ~ '<|q|>' if value is string else value | tojson "
    "}}{{ ',' if not loop.last }}{% endfor %}}</call>",
    "as Python": "{{ '<call>[' if loop.first else ', ' }}{{ c.function.name }}({% for name, value in "
    'c.function.arguments.items() %}{{ name }}={{ "\'" ~ value ~ "\'" if value is string else value }}'
    "{{ ', ' if not loop.last }}{% endfor %}){{ ']</call>' if loop.last }}",
    "numbered": "{{ '<call>' if loop.first }}[begin]functions.{{ c.function.name }}:{{ loop.index0 }}[ARGS]"
    "{{ c.function.arguments | tojson }}[end]{{ '</call>' if loop.last }}",
}


def with_calls(name: str) -> str:
    """Return the template of "plain" whose calls are written in one of CALLS."""
    return _chatml("", "", "{{ m.content }}{% for c in m.tool_calls or [] %}" + CALLS[name] + "{% endfor %}")


# Mistral's: calls and results have ids of nine letters and digits.
_CHECKED = "id is not defined or {0}id | length != 9 %}}{{{{ raise_exception('nine characters') }}}}{{% endif %}}"
NINE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{% if m.tool_call_" + _CHECKED.format("m.tool_call_") + "[RESULT "
    "{{ m.tool_call_id }}]{{ m.content }}{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% if c." + _CHECKED.format("c.") + CALLS["list with ids"] + "{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = [
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
    "<|im_start|>",
    "<|im_end|>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "<|call|>",
    "</s>",
    "[CLOSED]",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
]


def tokenizer_of(name: str, folder: Path) -> Any:
    """Return the tokenizer of a family: that of a model in a folder, with the family's tokens and template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.add_tokens(["<think>", "</think>", "<call>", "</call>"])
    tokenizer.chat_template = FAMILIES[name].template
    tokenizer.eos_token = (FAMILIES[name].stops or (FAMILIES[name].end,))[0]
    return tokenizer


def think(name: str, tokenizer: Any) -> None:
    """Let the template of a family think, if it does not by itself."""
    if switch := FAMILIES[name].switch:
        tokenizer.chat_template = with_defaults(tokenizer.chat_template, dict([switch]))


def stops_of(name: str, tokenizer: Any) -> list[int]:
    """Return the tokens at which a model of the family stops."""
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(FAMILIES[name].stops or (FAMILIES[name].end,)))
    return ids
