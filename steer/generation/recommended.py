"""The values that tokens are drawn with: those asked for, those that the model recommends, or chat models' default.

Only `generate` and `serve` follow a recommendation. What is measured, or learned from, is drawn with `Sampling()`: the
model's own distribution.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from steer.generation.settings import AskedSampling, Drawing, Sampling
from steer.models.loading import SAMPLED
from steer.models.policy import Policy
from steer.rows.schema import number_text
from steer.settings import check

# Of a chat model that recommends nothing: at temperature 1 the unlikely words of a small one add up to nonsense.
CHAT = {"temperature": 0.7, "top_p": 0.95}
ASKED = "asked for"


def chosen(policy: Policy, asked: AskedSampling) -> tuple[Sampling, str]:
    """Return the sampling for what a user asks of a policy, and which values come from where; "" if all were asked for.

    SteerError for a recommended value that cannot be.
    """
    wanted = {name: value for name in SAMPLED if (value := getattr(asked, name)) is not None}
    others = {f.name: getattr(asked, f.name) for f in fields(Drawing) if hasattr(asked, f.name)}
    if policy.model is None:  # a server has it
        left = tuple(name for name in SAMPLED if name not in wanted) if asked.sampling == "recommended" else ()
        text = f"{policy.name} is no folder here: the server chooses {', '.join(left)}" if left else ""
        return Sampling(**wanted, **others, left=left), text
    advised, source = _advice(policy) if asked.sampling == "recommended" else ({}, {})
    sampling = Sampling(**others, **(advised | wanted))
    check(sampling, lambda field: f"{policy.name}: generation_config.json: {field.name}")
    text = _text(sampling, source | dict.fromkeys(wanted, ASKED))
    return sampling, text and f"{policy.name} is sampled with {text}"


def _advice(policy: Policy) -> tuple[dict[str, Any], dict[str, str]]:
    """Values that suit a policy, and who recommends each."""
    own = policy.recommended
    samples = own.pop("do_sample", False)
    if "top_k" in own:
        own["top_k"] = int(max(0, own["top_k"]))  # some write -1 for all tokens
    source = dict.fromkeys(SAMPLED, "as the model's generation_config.json recommends")
    if samples:
        return own, source
    if policy.chats:
        return CHAT | own, source | dict.fromkeys(CHAT, "the default for chat models; this one recommends nothing")
    return own, source | dict.fromkeys(CHAT, "the model's own distribution; it has no chat template")


def _text(sampling: Sampling, source: dict[str, str]) -> str:
    """Say which values are used, by source; "" if all were asked for."""
    plain = Sampling()
    names = [name for name in SAMPLED if name in CHAT or getattr(sampling, name) != getattr(plain, name)]
    if not sampling.temperature:
        names = [name for name in names if name in ("temperature", "repetition_penalty")]
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(source.get(name, ASKED), []).append(f"{name} {number_text(getattr(sampling, name))}")
    if set(groups) == {ASKED}:
        return ""
    return "; ".join(f"{', '.join(values)} ({origin})" for origin, values in groups.items())
