"""Find out whether a response was cut off (finish_reason, status, truncated and the like), or deleted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from data_recipes.cells import number
from data_recipes.metadata import DELETED, DELETED_AT, words
from data_recipes.parts import parsed

REASONS = words("""
    finishreason finishreasons stopreason stopreasons donereason nativefinishreason stoppingreason endreason stoppedby
    finish stoptype stopcause terminationreason completionreason finishstatus finishdetails stopdetails
""")
CUT = words("""
    truncated istruncated wastruncated responsetruncated truncation cutoff iscutoff hitmaxtokens hitlimit
    hitlengthlimit maxtokensreached maxlengthreached outputtruncated incomplete isincomplete stoppedlimit interrupted
    isinterrupted wasinterrupted aborted isaborted wasaborted cancelled iscancelled wascancelled canceled iscanceled
    wascanceled partial ispartial
""")  # true: cut off
WHOLE = words("finished isfinished completed iscompleted iscomplete ended eos haseos stoppedeos")  # false: cut off
STATES = ("status", "state")  # which say many other things
HOLDERS = words("metadata meta metainfo responsemetadata generationmetadata generationinfo")  # hold what says it
EARLY = re.compile(  # OpenAI, vLLM, Anthropic, Gemini, Bedrock, Mistral, Cohere, Ollama
    r"length|max_?(output_?|new_?)?tokens?|limit|truncat|incomplete|content_?filter|context_?window|abort|cancel|"
    r"time_?out|error|interrupt|safety|recitation|blocklist|prohibited|spii|guardrail|refusal|pause_?turn|filtered",
    re.IGNORECASE,
)
STOPPED = re.compile(
    r"length|max[_ -]?((output|new)[_ -]?)?tokens|incomplete|truncated|interrupted|aborted|cancell?ed|partial"
)
GONE = re.compile(r"(soft[ _-]?)?(deleted|removed)([ _-]by[ _-].+)?", re.IGNORECASE)  # a state
ADDED = words("added adds inserted additions insertions changed replaced unchanged")  # counts of a comparison of texts
ASKS = re.compile(r"param|kwargs|args|config|setting|option|request")
FLAGS = {  # what a flag says, as JSON, tables and Postgres write it
    **dict.fromkeys(("true", "yes", "y", "t", "1", "1.0"), True),
    **dict.fromkeys(("false", "no", "n", "f", "0", "0.0"), False),
}


def ended(record: Mapping[str, Any]) -> bool | None:
    """Return False if a record, choice or message says that its text was cut off, True if it says it was not.

    None where it does not say. Its metadata, which may be JSON in a cell, counts too.
    """
    answer = None
    for column, value in record.items():
        read = _READ.get(plain(column))
        if read is None or value is None:
            continue
        whole = read(value)
        if whole is False and not (plain(column) == "stoppedeos" and flag(record.get("stopped_word"))):
            return False  # a stop word is as good an end of llama.cpp's as an end token
        answer = whole or answer
    return answer


def _reason(value: Any) -> bool | None:
    """Read a reason: a word, an object around one ({type: length}), or a list of them; a number is vLLM's token."""
    value = parsed(value)
    if isinstance(value, list):
        return _all(map(_reason, value))
    if isinstance(value, dict):
        return _all(_reason(value.get(key)) for key in ("type", "reason", "unified"))
    return not EARLY.search(value) if isinstance(value, str) and value.strip() else None


def _coded(value: Any) -> bool | None:
    """Read a reason that may be Google's number: 1 is STOP, 0 says nothing."""
    code = None if isinstance(value, bool) else number(value)
    return _reason(value) if code is None else code == 1 if code else None


def _all(told: Iterable[bool | None]) -> bool | None:
    """Whether all that say anything say that a text is whole; None if none does."""
    given = [each for each in told if each is not None]
    return all(given) if given else None


def _cut(value: Any) -> bool | None:
    return False if flag(value) else None


def _state(value: Any) -> bool | None:
    return False if isinstance(value, str) and STOPPED.fullmatch(value.strip().lower()) else None


def _held(value: Any) -> bool | None:
    value = parsed(value)
    return ended(value) if isinstance(value, dict) else None


def flag(value: Any) -> bool | None:
    """Return what a flag says: true and false, 1 and 0, or words for them; None for anything else."""
    return FLAGS.get(str(value).strip().lower()) if isinstance(value, str | int | float) else None


_ENDS: dict[str, Callable[[Any], bool | None]] = {
    **dict.fromkeys(REASONS, _reason),
    **dict.fromkeys(("finishreason", "finishreasons"), _coded),
    **dict.fromkeys(CUT, _cut),
    **dict.fromkeys(WHOLE, flag),
    "stoppedword": lambda value: flag(value) or None,
    "incompletedetails": lambda details: False if details else None,
}  # how what stands under a name is read
_READ = {**_ENDS, **dict.fromkeys(STATES, _state), **dict.fromkeys(HOLDERS, _held)}


def tells_end(column: str) -> bool:
    """Whether a column says how a response ended: no number in it is a score."""
    return plain(column) in _ENDS


def deleted(record: Mapping[str, Any]) -> str:
    """Return the column by which a record or a turn says that it was deleted, "" if none does.

    >>> deleted({"is_deleted": "true"}), deleted({"deleted_at": "2026-11-30"}), deleted({"deleted": False})
    ('is_deleted', 'deleted_at', '')
    >>> deleted({"deleted": "1"}), deleted({"status": "removed"}), deleted({"added": 3, "removed": 1})
    ('deleted', 'status', '')
    """
    columns = tuple(record)
    flags = [c for c in called(columns, DELETED) if flag(record[c]) and not _counts(c, record[c], columns)]
    times = [c for c in called(columns, DELETED_AT) if _filled(record[c])]
    states = [c for c in called(columns, STATES) if isinstance(s := record[c], str) and GONE.fullmatch(s.strip())]
    return next(iter([*flags, *times, *states]), "")


def _counts(column: str, value: Any, columns: tuple[str, ...]) -> bool:
    """Whether a 1 counts: beside what was added, where no "is" in the name says that it is a flag."""
    one = value is not True and str(value).strip()[:1] == "1"
    return one and not plain(column).startswith(("is", "was")) and bool(called(columns, ADDED))


def _filled(time: Any) -> bool:
    """Whether a time is one: a number above 0, or a text that does not stand for nothing."""
    if (value := number(time)) is not None:
        return value > 0
    return isinstance(time, str) and time.strip().lower() not in ("", "null", "none", "nan", "nat")


@cache
def asks(column: str) -> bool:
    """Whether a column holds what a server was asked for, and not what it did."""
    return bool(ASKS.search(plain(column)))


@lru_cache(maxsize=1000)
def called(columns: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns whose plain name is one of these."""
    return tuple(c for c in columns if isinstance(c, str) and plain(c) in names)


@cache
def plain(column: str) -> str:
    """Return a name without case and separators: finish_reason, finishReason and Finish-Reason are one."""
    return re.sub(r"[^a-z0-9]", "", column.lower())
