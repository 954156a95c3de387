"""Find out whether a response was cut off (finish_reason, status, truncated and the like), or deleted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from data_recipes.cells import WORDS, number, written
from data_recipes.metadata import DELETED, DELETED_AT, words

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


def deleted(record: Mapping[str, Any]) -> str:
    """Return the column by which a record or a turn says that it was deleted, "" if none does.

    >>> deleted({"is_deleted": "true"}), deleted({"deleted_at": "2026-11-30"}), deleted({"deleted": False})
    ('is_deleted', 'deleted_at', '')
    """
    columns = tuple(record)
    flags = [c for c in called(columns, DELETED) if _flag(c, record[c])]
    times = [c for c in called(columns, DELETED_AT) if _filled(record[c])]
    return next(iter([*flags, *times]), "")


def _flag(column: str, value: Any) -> bool:
    """Whether a value says yes; a 1 may be a count, where no "is" in the name says otherwise."""
    sure = value is True or (isinstance(value, str) and written(value) in WORDS)
    return number(value) == 1 and (sure or plain(column).startswith(("is", "was")))


def _filled(time: Any) -> bool:
    """Whether a time is one: a number above 0, or a text that does not stand for nothing."""
    if (value := number(time)) is not None:
        return value > 0
    return isinstance(time, str) and time.strip().lower() not in ("", "null", "none", "nan", "nat")


@lru_cache(maxsize=1000)
def called(columns: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns whose plain name is one of these."""
    return tuple(c for c in columns if isinstance(c, str) and plain(c) in names)


@cache
def plain(column: str) -> str:
    """Return a name without case and separators: finish_reason, finishReason and Finish-Reason are one."""
    return re.sub(r"[^a-z0-9]", "", column.lower())
