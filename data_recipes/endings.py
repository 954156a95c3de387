"""Find out whether a response was cut off, from finish_reason, stop_reason, status, truncated and the like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from data_recipes.metadata import words

REASONS = words("""
    finishreason stopreason donereason nativefinishreason stoppingreason endreason stoppedby finish stoptype stopcause
    terminationreason completionreason finishstatus
""")
CUT = words("""
    truncated istruncated wastruncated responsetruncated cutoff iscutoff hitmaxtokens hitlimit hitlengthlimit
    maxtokensreached maxlengthreached outputtruncated incomplete isincomplete
""")  # true: cut off
WHOLE = ("finished", "isfinished", "completed", "iscompleted", "iscomplete", "ended", "eos", "haseos")  # false: cut off
EARLY = re.compile(  # OpenAI, vLLM, Anthropic, Gemini, Bedrock, Mistral, Cohere, Ollama
    r"length|max_?(output_?|new_?)?tokens?|limit|truncat|incomplete|content_?filter|context_?window|abort|cancel|"
    r"time_?out|error|interrupt|safety|recitation|blocklist|prohibited|spii|guardrail|refusal|pause_?turn|filtered",
    re.IGNORECASE,
)
FALSE, TRUE = ("false", "no", "0"), ("true", "yes", "1")


def ended(record: Mapping[str, Any]) -> bool | None:
    """Return False if a record, choice or message says that its text was cut off, True if it says it was not.

    None where it does not say.
    """
    answer = None
    for column, value in record.items():
        name = plain(column)
        if name not in _NAMES or value is None:
            continue
        word = str(value).strip().lower()
        if name in WHOLE:
            whole = False if word in FALSE else True if word in TRUE else None
        elif name in CUT:
            whole = False if word in TRUE else None
        elif name == "incompletedetails":
            whole = False if value else None
        elif name == "status":
            whole = False if word in ("incomplete", "truncated") else None
        elif name == "finishreason" and type(value) is int:  # Google's, as a number: 1 is STOP, 0 says nothing
            whole = value == 1 if value else None
        else:
            whole = not EARLY.search(word) if isinstance(value, str) and word else None
        if whole is False:
            return False
        answer = answer if whole is None else whole
    return answer


_NAMES = {*REASONS, *CUT, *WHOLE, "status", "incompletedetails"}


def tells_end(column: str) -> bool:
    """Whether a column says how a response ended: no number in it is a score."""
    return plain(column) in _NAMES and plain(column) != "status"


@lru_cache(maxsize=1000)
def called(columns: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns whose plain name is one of these."""
    return tuple(c for c in columns if isinstance(c, str) and plain(c) in names)


@cache
def plain(column: str) -> str:
    """Return a name without case and separators: finish_reason, finishReason and Finish-Reason are one."""
    return re.sub(r"[^a-z0-9]", "", column.lower())
