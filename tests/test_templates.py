"""Chat templates are programs of strangers: what they may do has limits, and within these nothing changes."""
# ruff: noqa: E501  # a template is easier to read on one line

from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from steer.conditioning.chat import PLAIN, rendered
from steer.errors import SteerError
from steer.models.tokenization import prompt_parts

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2?\n"},
    {"role": "assistant", "content": "<think>two</think>Two."},
    {"role": "user", "content": "And then?"},
]
DOUBLE = "{% set ns = namespace(s=['a']) %}{% for i in range(99) %}{% set ns.s = STEP %}{% endfor %}{{ ns.s }}"
ENDLESS = {
    "a wide range": "{% for a in range(10**9) %}{% endfor %}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop that takes nothing": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "a loop in itself": "{% for a in messages recursive %}{{ loop([a, a]) }}{% endfor %}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(90) }}",
    "a filter over and over": "{% for a in range(99999) %}{{ range(99999)|select('none')|list }}{% endfor %}",
    "a search over and over": "{% set r = range(99999)|list %}{% for a in r %}{{ -1 in r }}{% endfor %}",
    "a huge power": "{{ 10 ** (10 ** 9) }}",
    "a huge product": "{% set ns = namespace(n=9) %}{% for a in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "a long text": "{{ 'a' * 10**10 }}",
    "a long list": "{{ [messages] * 10**9 }}",
    "wide padding": "{{ 'a'|center(10**10) }}",
    "wide padding of a method": "{{ 'a'.ljust(10**10) }}",
    "wide padding of each": "{{ range(99999)|map('center', 99999)|list }}",
    "a wide format": "{{ '%10000000000d' % 1 }}",
    "a width that is given": "{{ '%*d' % (10**10, 1) }}",
    "a wide format of a method": "{{ '{:10000000000}'.format(1) }}",
    "a wide indent": "{{ messages|tojson(indent=10**9) }}",
    "a text twice": DOUBLE.replace("STEP", "ns.s ~ ns.s"),
    "a sum": DOUBLE.replace("STEP", "ns.s + ns.s"),
    "a list in itself": DOUBLE.replace("STEP", "[ns.s, ns.s]"),
    "a block twice": "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set s %}{{ ns.s }}{{ ns.s }}{% endset %}"
    "{% set ns.s = s %}{% endfor %}",
    "replaced by more": DOUBLE.replace("['a']", "'a'").replace("STEP", "ns.s.replace('a', 'aaaaaaaa')"),
    "joined by more": "{{ ('y' * 100000).join(['y'] * 99999) }}",
}
FAILING = {
    "it says no": "{{ raise_exception('no system turn') }}",
    "no number": "{{ messages[0] + 1 }}",
    "nothing there": "{{ none.x.y }}",
    "no function": "{{ none() }}",
    "too few turns": "{{ messages[7].content.x }}",
    "by zero": "{{ 1 / 0 }}",
    "no integer": "{{ 'a'|abs }}",
    "no template": "{% for %}",
    "another file": "{% include 'x' %}",
    "a break outside of loops": "{% break %}",
    "nothing to cycle through": "{{ cycler() }}",
}
NORMAL = {
    "plain": PLAIN,
    "loops": "{% for m in messages %}{% if loop.first %}^{% endif %}{{ loop.index0 }}/{{ loop.length }} {{ loop.revindex }}"
    "{{ loop.previtem.role if loop.previtem is defined }}{{ loop.changed(m.role) }}{% if loop.last %}${% endif %}"
    "{% else %}none{% endfor %}{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ m.content|trim }}{% endfor %}",
    "chat": "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set rest = messages[1:] %}{{ messages[0].content }}"
    "{%- else %}{%- set rest = messages %}{%- endif %}\n{% for m in rest %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('role') }}{% endif %}<|{{ m['role'] }}|>\n{% if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content | trim ~ '!' }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "macros": "{% macro turn(m, n=2) %}[{{ caller() if caller }}{{ m.role|upper }}{{ 'x' * n }}]{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% call turn(m, n=1) %}called{% endcall %}{% endfor %}",
    "values": "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% if loop.index is odd %}{% continue %}{% endif %}"
    "{% set ns.n = ns.n + m.content|length %}{% set ns.s = ns.s ~ m.role ~ ns.n %}{% if ns.n > 12 %}{% break %}{% endif %}"
    "{% endfor %}{{ ns.s }}{{ messages|tojson(indent=2) }}{{ '%s: %05.1f' % ('a', 2) }}{{ '{:>5}'.format('b') }}{{ 2 ** 10 }}"
    "{{ missing }}{{ messages|map(attribute='role')|join(', ') }}{{ messages[::-1]|selectattr('role', 'equalto', 'user')|list }}",
    "blocks": "{% set s %}  {{ messages[0].content }} {% endset %}{{ s|replace('brief', 'long')|indent(2) }}"
    "{% filter upper %}a{{ s }}{% endfilter %}{% generation %}{{ messages[-1].content }}{% endgeneration %}"
    "{% for k, v in messages[0]|dictsort recursive %}{{ k }}{% if loop.depth < 2 %}{{ loop([(v, k)]) }}{% endif %}{% endfor %}",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_that_spins_or_eats_memory_is_refused(tokenizer: Any, kind: str) -> None:
    tokenizer.chat_template = ENDLESS[kind]
    with pytest.raises(TemplateError, match=r"too (often|much|big)|huge numbers"):
        rendered(tokenizer, TURNS, add_generation_prompt=True)


@pytest.mark.parametrize("kind", [*FAILING, "nested loops", "a macro that calls itself"])
def test_whatever_a_template_raises_is_one_sentence_that_names_the_row(tokenizer: Any, kind: str) -> None:
    tokenizer.chat_template = (FAILING | ENDLESS)[kind]
    with pytest.raises(SteerError, match=r"row 'r7': the model's chat template refuses its prompt \(.+\)\."):
        prompt_parts({"id": "r7", "prompt": TURNS}, tokenizer)


@pytest.mark.parametrize("kind", NORMAL)
def test_what_stays_within_the_limits_is_rendered_as_transformers_does(tokenizer: Any, kind: str) -> None:
    tokenizer.chat_template = NORMAL[kind]
    plain = chat_template_utils._cached_compile_jinja_template(NORMAL[kind])
    wanted = plain.render(messages=TURNS, tools=None, add_generation_prompt=True, **tokenizer.special_tokens_map)
    assert rendered(tokenizer, TURNS, add_generation_prompt=True) == wanted != ""


def test_long_conversations_are_within_the_limits(tokenizer: Any) -> None:
    turns = [turn for i in range(500) for turn in ({"role": "user", "content": "a b " * 500}, TURNS[2])]
    for kind in ("plain", "chat", "macros"):
        tokenizer.chat_template = NORMAL[kind]
        assert len(rendered(tokenizer, turns, add_generation_prompt=True)) > 1000
