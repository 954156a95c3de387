"""Surface measures of responses, in which degeneration shows first: diversity, repetition, length, truncation.

Words are separated by white space. Every measure depends on length or on the number of candidates, so methods are
comparable only on the same prompts with the same number of candidates each.
"""

import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from steer.errors import SteerError
from steer.evaluation.statistics import interval


def diversity(
    responses: Sequence[str],
    prompts: Sequence[Hashable],
    finished: Sequence[float] | None = None,
    *,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Diversity and degeneration of responses [n] to prompts [n] (ids), 95 % intervals over prompts.

    Averaged over prompts, from each prompt's candidates together (Kirk et al. 2310.06452, "per-input"): `distinct_1`
    and `distinct_2`, and `unique`, the share of distinct responses among those prompts that have two or more.
    From all responses together ("across-input", low when every prompt gets the same text; Li et al. 1510.03055):
    `distinct_1_all` and `distinct_2_all`, without an interval because resampling repeats text.
    Averaged over responses: `repeated_3` (see `repeated`), `words`, and, given `finished` [n] (0 = cut off before
    EOS, NaN = unknown), the share `finished`; the truncation rate is one minus it.
    """
    if len(responses) != len(prompts) or (finished is not None and len(finished) != len(responses)):
        raise SteerError(f"{len(responses)} responses need as many prompts (and finished flags, where given).")
    words = [response.split() for response in responses]
    groups: dict[Hashable, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    rows = np.array([number for number, members in enumerate(groups.values()) for _ in members])
    order = [i for members in groups.values() for i in members]

    def over_prompts(values: Iterable[float]) -> dict[str, float | int | None]:
        return interval(list(values), np.arange(len(groups)), resamples=resamples).json()

    def over_responses(values: Sequence[float]) -> dict[str, float | int | None]:
        return interval([values[i] for i in order], rows, resamples=resamples).json()

    result: dict[str, Any] = {
        f"distinct_{n}": over_prompts(distinct([words[i] for i in members], n) for members in groups.values())
        for n in (1, 2)
    }
    result |= {f"distinct_{n}_all": None if np.isnan(d := distinct(words, n)) else d for n in (1, 2)}
    result["unique"] = over_prompts(
        len({responses[i] for i in members}) / len(members) if len(members) > 1 else np.nan
        for members in groups.values()
    )
    result["repeated_3"] = over_responses([repeated(text) for text in words])
    result["words"] = over_responses([len(text) for text in words])
    if finished is not None:
        result["finished"] = over_responses([float(done) for done in finished])
    return result


def distinct(texts: Iterable[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams of texts (lists of words) together; NaN where there is none.

    >>> distinct([["a", "b"], ["a", "c"]], 1)
    0.75
    """
    grams = [gram for words in texts for gram in _grams(words, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def repeated(words: Sequence[str], n: int = 3) -> float:
    """Share of n-grams that occurred in the same text before (Welleck et al. 1908.04319, seq-rep-n); NaN if too short.

    >>> repeated("a b c a b c".split())
    0.25
    """
    return 1 - distinct([words], n)


def leaked(responses: Sequence[str], pattern: re.Pattern[str]) -> float:
    """Share of responses [n] that match `pattern`, the form of condition text; NaN without responses."""
    return sum(bool(pattern.search(text)) for text in responses) / len(responses) if responses else float("nan")


def _grams(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    """Every n-gram of a text, in order."""
    return zip(*(words[i:] for i in range(n)))
