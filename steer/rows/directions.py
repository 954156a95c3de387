"""Decide which end of an attribute is better: from well-known names, with warnings if the scores contradict a guess.

The only place that decides. A name is taken apart into words (`is_toxic`, `toxicityScore`, `Toxicity` are alike), and
words like `non`, `free` and `avoidance` turn it round. A name that says nothing is guessed to be better when higher.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from steer.rows.schema import Attribute

ORIGINS = ("given", "known", "guessed")  # by a flag or a schema.json; by the name; by nothing
BETTER = {1: "higher", -1: "lower", 0: "neither"}
FLAGS = "--higher, --lower or --neither"
SAY_END = 'Say which is better when higher: "steer label ROWS --higher NAME --output LABELS".'

# Words, \w* where a word goes on; the first list that has a word of a name counts.
LOWER = r"""
    toxic\w* detox\w* insult\w* profan\w* threat\w* obscen\w* vulgar\w* hate hateful\w* hatred harm harms
    harmful\w* offens\w* offend\w* violen\w* sexual\w* sexis\w* racis\w* explicit\w* flirt\w* nsfw porn\w*
    abus\w* abuse attack\w* danger\w* unsafe\w* risk\w* illegal\w* crim\w* weapon\w* suicid\w* selfharm
    harass\w* bully\w* derogat\w* stereotyp\w* discriminat\w* bias biased biases hallucinat\w* error errors
    mistake\w* bug bugs fault\w* defect\w* repetit\w* repeat\w* redundan\w* duplicat\w* hedg\w* refus\w*
    evasi\w* perplex\w* ppl loss losses nll rank ranks ranking latency delay slow\w* cost costs price spam\w*
    severity severe fail\w* misinform\w* disinform\w* misleading mislead\w* decept\w* deceiv\w* deceit\w*
    manipulat\w* sycophan\w* flatter\w* incorrect\w* inaccura\w* inconsisten\w* incoheren\w* irrelevan\w*
    unhelpful\w* untruth\w* dishonest\w* unfaithful\w* unfair\w* unnatural\w* unclear\w* unreadab\w* impolite\w*
    rude\w* disrespect\w* inappropriat\w* offtopic hostil\w* aggressi\w* anger angry sarcas\w* arrogan\w*
    plagiar\w* leak\w* pii mismatch\w* contradict\w* vague\w* ambigu\w* confus\w* confabulat\w* fabricat\w*
    jailbreak\w* swear\w* curse cursing slur slurs downvote\w* dislike\w* complain\w* flagged violat\w* minus
    wer cer distance divergence regret boring boredom noise noisy annoy\w* creep\w* disgust\w* slop falsehood\w*
    false wrong\w* bad badness worse worst negativ\w* untrust\w* useless\w* nonsens\w* gibberish overrefus\w*
    overclaim\w* overconfiden\w* truncat\w* inflammator\w* unsubstant\w* reject\w* judgemental\w* judgmental\w*
    down dissatisf\w* undesirab\w* unethical\w* unprofessional\w* escalat\w* regenerat\w* uncertain\w* issue issues
    monger\w* fearmonger\w* denigrat\w* demean\w* dehumani\w* jailbroken nonfactual\w* ter
"""
NEITHER = r"""
    verbos\w* complex\w* length\w* len long short brevity words word characters character chars char sentence
    sentences token tokens paragraphs lines syllables formal\w* informal\w*
"""
HIGHER = r"""
    quality qualit\w* help helpful\w* correct\w* coheren\w* truth\w* honest\w* harmless\w* safe safer safety
    safely accura\w* fluen\w* relevan\w* consisten\w* factual\w* informativ\w* natural\w* clarity clear clearly
    depth engag\w* polite\w* empath\w* warm warmth prefer\w* reward\w* satisf\w* useful\w* complet\w*
    instruction\w* follow\w* ground\w* faithful\w* acceptab\w* accepted good goodness thumbs like likes
    upvote\w* star stars friendl\w* kind kindness respect\w* appropriat\w* valid\w* win wins won winrate pass
    passed passes success\w* better best grammat\w* coverage civil\w* fair fairness trust\w* reliab\w* robust\w*
    readab\w* understandab\w* plus precision recall f1 bleu rouge meteor bertscore elo utility usefulness
    kto desirab\w*
    insight\w* logical\w* reasoning\w* reasonab\w* soundness nontoxic unbiased adequa\w* creativ\w* concise\w*
    chrf comet bleurt
"""
GENERIC = r"""
    rating\w* score\w* overall total grade\w* mark marks points mean average avg final fine grained turn conversation
    human user expert judge gold feedback da
"""
TURNS = r"""
    not non no un anti without free avoid\w* lack lacks resist\w* prevent\w* reduc\w* absen\w* less never low poor neg
"""


def _words(text: str) -> re.Pattern[str]:
    return re.compile("|".join(text.split()))


_ENDS = ((_words(LOWER), -1), (_words(NEITHER), 0), (_words(HIGHER), 1))
_FLAGS = re.compile(r"(is|was)?(reported|blocked|hidden|interrupted)")  # in longer names they say something else
_GENERIC, _TURNS = _words(GENERIC), _words(TURNS)


@cache
def of_name(name: str) -> tuple[int, str]:
    """Return (1 higher is better, -1 lower, 0 neither; "known" or "guessed").

    >>> of_name("isToxic"), of_name("non_toxic"), of_name("spiciness")
    ((-1, 'known'), (1, 'known'), (1, 'guessed'))
    """
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    words = [part.lower() for part in parts]
    words = [w for w in words if w not in ("up", "down")] if {"up", "down"} <= {*words} else words  # thumbs_up_down
    joined = [*words, "".join(words)]  # off-topic, self_harm and nonToxic
    if _FLAGS.fullmatch(joined[-1]):
        return -1, "known"
    ends = [end for word in joined[:-1] for pattern, end in _ENDS if pattern.fullmatch(word)]
    ends = ends or [end for pattern, end in _ENDS if pattern.fullmatch(joined[-1])]
    if not ends:
        return 1, "known" if words and all(_GENERIC.fullmatch(word) for word in words) else "guessed"
    turned = sum(bool(_TURNS.fullmatch(word)) for word in words) % 2
    origin = "known" if len(set(ends)) == 1 else "guessed"  # words that say different things: the last one counts
    return (-ends[-1] if turned else ends[-1]), origin


def better_ends(attributes: Sequence[Attribute], flags: str = "") -> list[str]:
    """Return lines: which end of each attribute is better, guesses apart; `flags`: the command that corrects them."""
    sure = [
        f"{BETTER[end]}: {', '.join(names)}"
        for end in (1, -1, 0)
        if (names := [a.name for a in attributes if a.direction == end and a.origin != "guessed"])
    ]
    lines = [f"better is {'; '.join(sure)}."] if sure else []
    guessed = [f"{a.name} ({BETTER[a.direction]})" for a in attributes if a.origin == "guessed"]
    if guessed:
        lines.append(
            f"better is, *guessed*, for nothing says so: {', '.join(guessed)}. Where that is wrong: "
            f"--higher NAME, --lower NAME or --neither NAME{flags}."
        )
    if not any(a.direction for a in attributes):
        lines.append(f"no attribute has a better end, so no row gets a reward: --higher NAME or --lower NAME{flags}.")
    return lines


def named_score(name: str) -> bool:
    """Whether a name says that it is a score: it has a better end, or says score or rating (not `length`)."""
    direction, origin = of_name(name)
    return (origin == "known" and direction != 0) or bool(re.search(r"scor|rating|grade", name.lower()))


FEWEST = 20  # rows that two scores must share
LEAST = 0.1  # correlation below which nothing is said


def doubts(
    attributes: Sequence[Attribute],
    column: Callable[[int], np.ndarray[Any, Any]],
    report: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return a warning for each attribute that is guessed to be good and goes with what is bad.

    `column`: gives the scores [n] of an attribute by its place. Scores of a scorer that is not shown, by
    its `report`, to predict an attribute speak neither for nor against it.
    """
    import numpy as np

    from attribute_models.metrics import spearman  # neither is needed to say what a name means

    warnings, empty = [], _empty(report)
    for j, a in enumerate(attributes):
        if a.origin != "guessed" or a.direction <= 0 or a.name in empty:
            continue
        against = []
        for i, b in enumerate(attributes):
            guessed, other = column(j), column(i)
            known = ~(np.isnan(guessed) | np.isnan(other))
            n = int(known.sum())
            if i == j or not b.direction or n < FEWEST or b.name in empty:
                continue
            rho = spearman(guessed[known], other[known]) or 0.0
            if -rho * b.direction > max(LEAST, 2 / np.sqrt(n - 1)):
                against.append((abs(rho), f"{rho:+.2f} with {b.name} ({BETTER[b.direction]} is better)", b))
        others = [b for b in attributes if b.direction and b is not a and b.name not in empty]
        sure = any(b.origin != "guessed" for *_, b in against)
        if against and (sure or 2 * len(against) > len(others)):
            shown = ", ".join(text for _, text, _ in sorted(against, key=lambda pair: -pair[0])[:3])
            warnings.append(
                f"warning: '{a.name}' is guessed to be better when higher, but correlates {shown}. If lower is better: "
                f"--lower {a.name}; if neither is: --neither {a.name}."
            )
    return warnings


def _empty(report: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the attributes that a scorer is not shown to predict, by its report."""
    return {line["attribute"] for line in report if line.get("learnable") is False}


def unlearned(attributes: Iterable[Attribute], report: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a warning if attributes enter the reward that their scorer is not shown to predict."""
    empty = _empty(report)
    names = [a.name for a in attributes if a.name in empty and a.direction and a.weight]
    if not names:
        return []
    flags = " ".join(f"--neither {name}" for name in names)
    count, them = ("counts", "it") if len(names) == 1 else ("count", "them")
    return [
        f"warning: {', '.join(names)} {count} in the reward, though the scorer is not shown to predict {them} better "
        f"than length and the mean do. {flags} leaves {them} out."
    ]
