"""Shared by all layouts: make turns of texts, scores of values and rows of answers."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from itertools import takewhile
from typing import Any

from data_recipes.ai_sdk import steps
from data_recipes.cells import graded, number
from data_recipes.endings import deleted, ended, plain, tells_end
from data_recipes.metadata import metadata, words
from data_recipes.parts import (
    HIDDEN,
    UNSAID,
    UnreadError,
    as_json,
    beside,
    call,
    calls,
    gathered,
    hide,
    parsed,
    text,
    thought_of,
    unfolded,
)
from data_recipes.speakers import ROLES, spoken
from data_recipes.streams import DataError, kind

Row = dict[str, Any]
Turn = dict[str, Any]

TURN = ("name", "tool_calls", "tool_call_id")  # what a turn keeps besides role and content
ASKED_WITH = ("tools", "chat_template_kwargs")  # columns that a chat template is given beside the turns
CONTENT = ("value", "parts", "text", "message", "refusal")  # names of what a turn says, if not its content
THOUGHT = ("reasoning_content", "reasoning", "thinking", "thought")  # names of what a model thought before it answered
ANSWERED = ("reasoning_content", "tool_calls", "finished")  # what an answer has besides its text
TAUGHT = words("""
    weight train training trainable dotrain istrain istrainable trainonturn learn loss lossweight lossmask computeloss
    calculateloss hasloss
""")  # 0 or false: not to be learned
UNTAUGHT = words("mask masked ismasked maskloss ignore ignoreloss noloss skip exclude")  # 1 or true: the same
LEFT_OUT = "_left_out"  # why a row is left out and counted, though nothing about its record is wrong
OWN_SCORES = "_own_scores"  # names of the scores that a turn has of its own, where others are its conversation's
ENDLESS = "its thought does not end, so it has no answer"
THOUGHT_ALONE = "it ends with its thought and has no answer"
CUT_OFF = "it was cut off before it answered"
NO_ANSWER = (
    ENDLESS,
    THOUGHT_ALONE,
    CUT_OFF,
)  # the row is a prompt all the same, and where answers are judged a blank one
NOTED = "_noted"  # list of what was changed or kept in a row, "what was done: with what", to be counted and said
OURS = ("id", "group", "conversation", "source", "split", "levels", "target", "predicted", "after_response", "raters")
TOKENS = ("input_ids", "attention_mask", "labels", "tokens")  # lists of numbers that are no ratings
MOST_RATERS = 20  # a longer list of numbers is something else
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
SIGNS = {"+": "plus_", "-": "minus_", "_": "", "%": "percent_"}
TURNS_CELL = re.compile(r"\[\s*\{\s*['\"](?:role|content|from|value)['\"]\s*:")
TURN_CELL = re.compile(  # a list of turns, a turn, or {messages: [turns]}, that names a role somewhere
    r"\s*[\[{].*['\"](?:role|from|type)['\"]\s*:\s*['\"](?:system|developer|user|human|assistant|ai|gpt|tool)['\"]",
    re.DOTALL,
)
HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")  # Anthropic HH-RLHF: a conversation as one text
HH_BARE = re.compile(r"\s*Human: ?.*\n\nAssistant:", re.DOTALL)
OASST_TURN = re.compile(r"(?:\A|\n+)(prompter|assistant): ")  # OpenAssistant's: starts with "prompter: "
NEMO_TURN = re.compile(r"\n<extra_id_1>(User|Assistant)\n")  # NeMo and HelpSteer: later turns inside the first text


ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def content_id(row: Row) -> str:
    """Return 16 hex digits of prompt and response: the same content has the same id in every file."""
    others = [row.get(name) for name in (*ASKED_WITH, "tool_calls")]
    content = ENCODER.encode([row.get("prompt"), row.get("response"), *(others if any(others) else [])])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def asked_with(row: Row) -> str:
    """Return as JSON what a prompt holds beside the texts of its turns: calls, tools, template options; "" for none.

    JSON that is a text counts as what it holds.
    """
    calls = [(i, turn["tool_calls"]) for i, turn in enumerate(row["prompt"]) if turn.get("tool_calls")]
    if not calls and not any(map(row.get, ASKED_WITH)):
        return ""
    parts = {"calls": calls, **{name: row.get(name) for name in ASKED_WITH}}
    parts = {name: value for name, part in parts.items() if (value := _unpacked(part))}
    return json.dumps(parts, sort_keys=True, default=str) if parts else ""


def _unpacked(value: Any) -> Any:
    """Return a value with every text in it that is a JSON object or list as that."""
    if isinstance(value, str):
        return parsed(value)
    if isinstance(value, dict):
        return {name: _unpacked(inner) for name, inner in value.items() if inner is not None}
    return [_unpacked(inner) for inner in value] if isinstance(value, list | tuple) else value


def fields(value: Any, column: str) -> Row:
    """Return an object; null is an empty one."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise DataError(f"column '{column}': holds {kind(value)}, wanted an object. Correct the record.")


def objects(value: Any, column: str) -> list[Row]:
    """Return a list of objects; an object of lists (as `datasets` shows it) becomes one, null is an empty one."""
    if isinstance(value, dict) and value and all(isinstance(inner, list) for inner in value.values()):
        value = [dict(zip(value, inner)) for inner in zip(*value.values())]
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(inner, dict) for inner in value):
        raise DataError(f"column '{column}': holds {kind(value)}, wanted a list of objects. Correct the record.")
    return value


def turns(value: Any, column: str, *, asked: bool = True) -> list[Turn]:
    """Return turns; a text is one user turn, or a conversation as HH-RLHF, OpenAssistant or NeMo write it.

    `asked`: they are a prompt, and no answer.
    """
    if value is None:
        return []
    value = from_cell(value, column)
    if isinstance(value, str):
        return _transcript(value, asked) or [{"role": "user", "content": value}]
    return conversation(value, column)


def from_cell(value: Any, column: str) -> Any:
    """Return the turns that a cell of a table holds as JSON or as Python prints them; other values unchanged."""
    if not isinstance(value, str) or not (TURNS_CELL.match(value) or TURN_CELL.match(value)):
        return value
    parsed: Any = None
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError):
            parsed = read(value)
            break
    found = parsed.get("messages", [parsed]) if isinstance(parsed, dict) else parsed
    are_turns = [*map(_is_turn, found)] if isinstance(found, list) else []
    if are_turns and all(are_turns):
        return found
    if any(are_turns) or (parsed is None and TURNS_CELL.match(value)):
        raise DataError(f"column '{column}': holds turns as text that cannot be read. Save the file as JSON lines.")
    return value


def _is_turn(value: Any) -> bool:
    """Whether a value is a turn: who speaks, and a text or a call."""
    if not isinstance(value, dict) or {"from", "value"} <= value.keys() or {"role", "content"} <= value.keys():
        return isinstance(value, dict)
    turn = spoken(value)
    return "role" in turn and any(turn.get(key) for key in ("content", "tool_calls", "function_call", "parts"))


def _transcript(value: str, asked: bool) -> list[Turn]:
    """Return the turns of a conversation written as one text; none if it is no conversation."""
    if (spoken := _hh(value)) or value.startswith("prompter: "):
        parts = (HH_TURN.split(spoken) if spoken else OASST_TURN.split(value))[1:]
        texts = [(ROLES.get(role.lower(), "assistant"), part) for role, part in zip(parts[::2], parts[1::2])]
        if asked and not texts[-1][1].strip():  # ends with the marker "Assistant:"
            texts.pop()
        bare = spoken not in ("", value)  # the empty line in front is lost
        if asked and bare and texts[-1][0] == "assistant":  # a text about a conversation
            return []
        return [{"role": role, "content": part} for role, part in texts]
    first, *more = NEMO_TURN.split(value)
    if not more:
        return []
    later = [{"role": role.lower(), "content": part} for role, part in zip(more[::2], more[1::2])]
    return [{"role": "user", "content": first}, *later]


def _hh(value: str) -> str:
    """Return a conversation of HH-RLHF, whose first turn may have lost the empty line in front; "" for other texts."""
    return value if HH_TURN.match(value) else f"\n\n{value.lstrip()}" if HH_BARE.match(value) else ""


def conversation(value: Any, column: str, keep: Callable[[str], bool] = TURN.__contains__) -> list[Turn]:
    """Return turns with role and content from role/content or from/value; those not to be learned have weight 0.

    What a model thought is `reasoning_content`, and calls of tools are `tool_calls`, however they are written. Of other
    keys those to `keep` stay; numbers in the rest are counted as left out.
    """
    value = from_cell(value, column)
    if not isinstance(value, list):
        raise DataError(f"column '{column}': holds {kind(value)}, wanted a list of turns {{role, content}}.")
    result: list[Turn] = []
    analysis: Turn = {}  # of gpt-oss: a thought in a turn of its own, which waits for its answer
    for i, raw in ((i, step) for i, turn in enumerate(value, start=1) for step in steps(turn)):
        raw = spoken(raw) if isinstance(raw, dict) else {}
        role = raw.get("role", raw.get("from"))
        if not isinstance(role, str):
            raise DataError(
                f"column '{column}': turn {i} has no role. Write it as {{role, content}} or {{from, value}}."
            )
        if deleted(raw):
            raise UnreadError(f"turn {i} of its {column} was deleted")
        if medium := beside(raw):
            raise UnreadError(f"it holds {medium}, and only text can be used")
        kept = {key: v for key, v in raw.items() if (key == HIDDEN or keep(key)) and v not in (None, [])}
        for key, v in raw.items():
            if isinstance(v, int | float | dict) and key not in kept and _is_figure(key, v):
                hide(kept, f"'{key}' of a turn (write it into the turn's 'scores' if it is one)")
        kept |= {"finished": False} if ended(raw) is False else {}
        kept |= {} if _taught(raw) else {"weight": 0.0}
        if raw.get("train_detail") or raw.get("training_detail"):  # of Axolotl: which letters of a turn are learned
            hide(kept, "train_detail, which has parts of a turn learned: it is learned whole")
        if thought := next((said for key in THOUGHT if (said := thought_of(raw.get(key))).strip()), ""):
            kept["reasoning_content"] = thought
        elif isinstance(details := raw.get("reasoning_details"), list):  # of OpenRouter
            texts = [part.get("text") or part.get("summary") for part in details if isinstance(part, dict)]
            thought = "\n".join(x for x in texts if isinstance(x, str))
            kept |= {"reasoning_content": thought} if thought else {}
        content = raw.get("content", raw.get("value", raw.get("parts")))
        silent = bool(kept.get("tool_calls")) or ROLES.get(role.lower(), role.lower()) == "tool"  # may well say nothing
        if content is None or (content == "" and not silent):
            elsewhere = (raw[key] for key in CONTENT if raw.get(key) and isinstance(raw[key], str | list))
            content = next(elsewhere, content)
        if kept.get("tool_calls"):
            kept["tool_calls"] = calls(kept["tool_calls"])
        if isinstance(raw.get("function_call"), dict):  # as OpenAI wrote calls in 2023
            kept.setdefault("tool_calls", [call(raw["function_call"])])
        if role.lower() in ("function_call", "tool_call") and content:  # a turn of ShareGPT whose text is the call
            content, kept["tool_calls"] = "", [call(content)]
        if str(raw.get("recipient")).startswith("functions."):  # of gpt-oss
            named = {"name": raw["recipient"].removeprefix("functions."), "arguments": parsed(text(content, column))}
            content, kept["tool_calls"] = "", [call(named)]
        role = ROLES.get(role.lower(), role.lower())
        if role == "tool" and _data(content):  # as the tool gave it
            content = as_json(content)
        read = unfolded({"role": role, **kept}, content, f"{column}', turn {i} 'content")
        if role == "assistant" and raw.get("channel") == "analysis":
            thoughts = gathered(analysis, read[-1], {"reasoning_content": read[-1]["content"]})
            read, analysis = [{**read[-1], **thoughts, "content": ""}], {}
            if not read[-1].get("tool_calls"):
                analysis = thoughts
                continue
        if analysis and role == "assistant":
            read[-1] |= gathered(analysis, read[-1])
        elif analysis:
            hide(read[0], UNSAID)
        analysis = {}
        result += read
    return [*result, {"role": "assistant", "content": "", **analysis}] if analysis else result


def _is_figure(key: str, value: Any) -> bool:
    """Whether a key of a turn may hold a score: a number, or an object with one."""
    if key in ("content", "function_call") or plain(key) in (*TAUGHT, *UNTAUGHT):
        return False
    return bool(figures(value if isinstance(value, dict) else {key: value}))


def _data(content: Any) -> bool:
    """Whether what a tool gave is data, not a text or parts of one."""
    if isinstance(content, list):
        return any(not isinstance(part, str) and not (isinstance(part, dict) and "type" in part) for part in content)
    return isinstance(content, dict | int | float)


def _taught(raw: Row) -> bool:
    """Whether a turn may be learned, as far as it says so itself."""
    off = [number(value) for key, value in raw.items() if plain(key) in TAUGHT]
    masked = [number(value) for key, value in raw.items() if plain(key) in UNTAUGHT]
    return 0.0 not in off and not any(masked)


def cut(talk: list[Turn], last: int | None = None) -> tuple[list[Turn], str | None, Row]:
    """Return the turns before the response, the response, and its other values.

    The response is the last assistant turn that may be learned; where there are only others, the row says why it is
    left out. Without an assistant turn all is prompt. Turns that follow go into the column `after_response`.
    """
    answers = [i for i, turn in enumerate(talk) if turn["role"] == "assistant"]
    if last is None and not answers:
        return talk, None, {}
    learned = [i for i in answers if talk[i].get("weight") != 0]
    last = (learned or answers)[-1] if last is None else last
    after: Row = {key: talk[last][key] for key in (*ANSWERED, HIDDEN) if key in talk[last]}
    if last not in learned:
        which = "none of its assistant turns is" if not learned else f"turn {last + 1} is not"
        after[LEFT_OUT] = f"{which} to be learned (weight 0 or train false)"
    if talk[last + 1 :]:
        after["after_response"] = talk[last + 1 :]
    return talk[:last], talk[last]["content"], after


def answered(prompt: list[Turn], value: Any, column: str) -> tuple[list[Turn], str | None, Row]:
    """Cut as `cut` does, for a response that is a text, a turn, or turns that may repeat the prompt."""
    value = from_cell(value, column)
    value = [value] if isinstance(value, dict) and ("role" in value or "from" in value) else value
    spoken = isinstance(value, str) and (HH_TURN.match(value) or (not prompt and _hh(value)))
    said = isinstance(value, list) and any(isinstance(v, dict) and ("type" not in v or "role" in v) for v in value)
    if not spoken and not said:
        return prompt, text(value, column), {}
    return cut(_whole(prompt, turns(value, column, asked=False), column))


def _whole(prompt: list[Turn], answer: list[Turn], column: str) -> list[Turn]:
    """Join prompt and answer into one conversation without repetitions and gaps.

    The answer may hold the whole prompt, or more (the turns before its question, a system turn), or less.
    """
    own, others = ([(turn["role"], turn["content"].strip()) for turn in side] for side in (prompt, answer))
    if others[: len(own)] == own:
        return answer
    if answer[0]["role"] == "assistant":
        return [*prompt, *answer]
    last = max((i for i, (role, _) in enumerate(others) if role == "assistant"), default=len(others))
    question = others[:last]
    system, other_system = (
        list(takewhile(lambda turn: turn[0] in ("system", "developer"), side)) for side in (own, question)
    )
    same = not system or not other_system or system == other_system
    bare, bare_question = own[len(system) :], question[len(other_system) :]
    if same and any(bare_question[i : i + len(bare)] == bare for i in range(len(bare_question))):
        return [*prompt[: len(system)], *answer] if system and not other_system else answer
    if same and bare[len(bare) - len(bare_question) :] == bare_question:
        return [*(answer[: len(other_system)] if other_system and not system else []), *prompt, *answer[last:]]
    rest = "\n".join(part for _, part in question)
    if all(part in rest for _, part in own):
        return answer
    raise DataError(
        f"columns 'prompt', '{column}': each holds a question, and not the same one. Remove 'prompt' where '{column}' "
        f"is the whole conversation, or keep the answer alone in '{column}'."
    )


THUMBED = re.compile(
    r"rating|thumbs?|score|quality|feedback|label|vote|reaction|kto ?(tag|label)|(user|human) ?(rating|feedback)"
)
GRADED = re.compile(  # columns where 4/5 and 4 stars are grades
    r"(.*[ _-])?(ratings?|scores?|stars?|grades?|quality|overall|helpful(ness)?|correct(ness)?|coherence|complexity|"
    r"verbosity)"
)
FEEDBACK_OBJECT = re.compile(r"((user|human)[ _-]?)?(feedback|ratings?|score)")
UP = re.compile(r"(thumbs? ?)?up|like[ds]?|good|positive|desirable|desired|chosen|accept(ed)?|upvoted?|👍.?")
DOWN = re.compile(r"(thumbs? ?)?down|dislike[ds]?|bad|negative|undesirable|undesired|rejected|reject|downvoted?|👎.?")


def thumbs(record: Row) -> Row:
    """Replace thumbs, likes and other words of praise and blame in columns of feedback by true or false."""
    replaced = {c: t for c, v in record.items() if isinstance(v, str) and (t := thumb(c, v)) is not None}
    return {**record, **replaced} if replaced else record


def thumb(column: str, value: Any) -> bool | None:
    """Return whether a word praises or blames, in a column of feedback; None for any other value or column."""
    spaced = column.strip().lower().replace("_", " ").replace("-", " ")
    if not isinstance(value, str) or len(value) > 20 or not THUMBED.fullmatch(spaced):
        return None
    word = re.sub(r"[ _-]+", " ", value.strip().lower())
    if column.lower() == "label" and word in ("positive", "negative"):  # usually the sentiment of the topic
        return None
    return True if UP.fullmatch(word) else False if DOWN.fullmatch(word) else None


@cache
def attribute(name: str) -> str:
    """Return an attribute's name for a column: plus_1 for "+1", hate_speech_threats for "hate speech, threats".

    Accents are taken off: Qualitat for "Qualität".
    """
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        return name
    name = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    name = SIGNS.get(name[:1], name[:1]) + name[1:]
    name = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_-]", "_", name)).strip("_-")
    return name if re.match(r"[A-Za-z]", name) else f"n_{name}"


def _nameless(name: str) -> bool:
    """Whether nothing of a name says what an attribute is: its letters are none from a to z, or it has only signs."""
    made = attribute(name)
    return made[:2] == "n_" and not re.search("[A-Za-z]", name) and (made == "n_" or any(map(str.isalpha, name)))


def ratings(value: Any) -> list[float | None] | None:
    """Return the scores of several raters (null: not rated), or None if a value is no short list of numbers."""
    if not isinstance(value, list) or not 0 < len(value) <= MOST_RATERS:
        return None
    if not all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in value):
        return None
    return None if all(v is None for v in value) else [number(v) for v in value]


def named_once(names: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each column as an attribute; DataError if one can have none, or two are alike: one is lost."""
    attributes = {column: attribute(name) for column, name in names.items()}
    if unnamed := next((column for column in attributes if _nameless(names[column])), ""):
        raise DataError(
            f"column '{unnamed}': an attribute has a name of letters from a to z. Give it one, for example with "
            f"--map quality={unnamed}, or rename the column."
        )
    first: dict[str, str] = {}
    for column, name in attributes.items():
        other = first.setdefault(re.sub("[_-]+", "_", name.lower()), column)
        if other != column:
            raise DataError(f"columns '{other}', '{column}': both name the attribute '{name}'. Rename one of them.")
    return attributes


def scored(offered: Row) -> tuple[Row, Row]:
    """Return the `scores` among values, and `raters` for values that list several ratings: their mean is the score."""
    scores: Row = {}
    raters: Row = {}
    for column, value in offered.items():
        each = ratings(value)
        if each is not None:
            known = [v for v in each if v is not None]
            raters[column], scores[column] = each, sum(known) / len(known)
        elif (score := number(value)) is not None:
            scores[column] = score
        elif GRADED.fullmatch(column.lower()) and (grade := graded(value)):
            scores[column] = grade[0]
    names = named_once({column: column for column in scores})
    scores = {names[column]: score for column, score in scores.items()}
    raters = {names[column]: each for column, each in raters.items()}
    return scores, {"raters": raters} if raters else {}


def figures(value: Any) -> Row:
    """Return the numbers, thumbs too, of {name: 4}, {name: {value: 4}} or [{name, value}]; empty for anything else.

    A value may be called `score` too, and a name `key`; several values of one name are a list of numbers.
    """
    if isinstance(value, list) and all(named_as(each) for each in value):
        found: dict[str, list[Any]] = {}
        for each in value:
            for name, given in figures({named_as(each): each}).items():
                found.setdefault(name, []).append(given)
        return {name: each[0] if len(each) == 1 else [number(v) for v in each] for name, each in found.items()}
    if not isinstance(value, dict):
        return {}
    plain = {n: v.get("value", v.get("score")) if isinstance(v, dict) else v for n, v in value.items()}
    return {n: v for n, v in thumbs(plain).items() if number(v) is not None and may_score(n)}


def named_as(entry: Any) -> str:
    """Return the name that an entry of a list of scores has; "" if it has none."""
    name = entry.get("name", entry.get("key")) if isinstance(entry, dict) else ""
    return name if isinstance(name, str) else ""


def inside(record: Row) -> tuple[Row, Row]:
    """Return the figures in objects of feedback, and the record without them; its own columns come first.

    >>> inside({"prompt": "Hi", "feedback": {"rating": 4, "thumbs": "up", "comment": "nice"}})
    ({'rating': 4, 'thumbs': True}, {'prompt': 'Hi', 'feedback': {'comment': 'nice'}})
    """
    found: Row = {}
    for column, value in record.items():
        if not isinstance(value, dict | list) or not FEEDBACK_OBJECT.fullmatch(column.lower()):
            continue
        whole = value if isinstance(value, dict) else {}
        one = next((key for key in ("value", "type") if figures({column: whole.get(key)})), "")
        offered = {column: whole[one]} if one else value
        numbers = {n: v for n, v in figures(offered).items() if n not in {*record, *found} - {column}}
        found |= numbers
        entries = value if isinstance(value, list) else []
        left: Any = {n: v for n, v in whole.items() if n not in (*numbers, one)}
        left = left or [each for each in entries if named_as(each) not in numbers]
        if numbers:
            record = {c: left if c == column else v for c, v in record.items() if c != column or left}
    return found, record


def make_row(record: Row, used: set[str], prompt: list[Turn], response: str | None, after: Row | None = None) -> Row:
    """Return a row whose scores come from the columns that are not used; the others stay as extra columns."""
    rest = {column: value for column, value in record.items() if column not in used and value not in (None, "")}
    rest, named, offered = _named_scores(rest)
    found, rest = ({}, rest) if named else inside(rest)
    offered = offered if named else {column: rest.pop(column) for column in list(rest) if may_score(column)}
    scores, raters = scored({**offered, **found})
    others = {name: v for name, v in offered.items() if name in found or attribute(name) not in scores}
    words = {name: v for name, v in others.items() if v not in (None, "")}
    rest |= {column: str(rest[column]) for column in ("group", "source", "split") if column in rest}
    row: Row = {**words, **rest, **(after or {}), "prompt": prompt, "scores": scores, **raters}
    return row if response is None else {**row, "response": response}


def _named_scores(rest: Row) -> tuple[Row, bool, Row]:
    """Return the columns without the one that names all scores, whether there is one, and what it offers."""
    for column in ("scores", "attributes"):
        if (found := named_scores(rest.get(column))) is not None:
            offered, notes = found
            rest = {**rest, **({NOTED: [*rest.get(NOTED, ()), *notes]} if notes else {})}
            return {c: v for c, v in rest.items() if c != column}, True, offered
    value = parsed(rest.get("scores"))
    if isinstance(value, list) and all(v is None for v in value):  # nobody rated it
        return {c: v for c, v in rest.items() if c != "scores"}, False, {}
    if value is not None and ratings(value) is None and number(value) is None:
        raise DataError(
            f"column 'scores': holds {kind(value)}, wanted an object {{attribute: number}}. Rename the column."
        )
    return rest, False, {}


def named_scores(value: Any) -> tuple[Row, list[str]] | None:
    """Return what a column `scores` says of each attribute, and what is to be noted; None if it names none.

    It is {name: 4}, {name: {value: 4}}, a list of {name, value}, or one of them as JSON in a cell.
    """
    value = parsed(value)
    if isinstance(value, dict):
        inner = {n: v for n, v in value.items() if isinstance(v, dict)}
        nested = figures(inner) if inner else {}
        found, more = {**value, **nested}, any(len(inner[n]) > 1 for n in nested)
    elif isinstance(value, list) and value and all(map(named_as, value)):
        found = figures(value)
        more = any(
            named_as(entry) not in found and entry.get("value", entry.get("score")) is not None for entry in value
        )
    else:
        return None
    return found, ["left out: what 'scores' holds beside numbers"] if more else []


@cache
def may_score(column: str) -> bool:
    """Whether a number in this column can be a score."""
    return column not in (*OURS, *TOKENS) and not metadata(column) and not tells_end(column)


def candidates(record: Row, used: set[str], prompt: list[Turn], answers: dict[str, Row]) -> list[Row]:
    """Return one row per answer, all of one group: the record's columns, then the answer's own.

    Of records that name their group each comparison is a group of its own, named after both.

    An answer holds `response`, `scores` and what belongs to it alone; its key ends its id. Columns of the record that
    are not used stay as they are, and none of them becomes a score.
    """
    shared = {column: value for column, value in record.items() if column not in used and value not in (None, "")}
    if isinstance(shared.get("source"), list) and all(isinstance(part, str) for part in shared["source"]):
        shared["source"] = ", ".join(shared["source"])
    shared |= {column: str(shared[column]) for column in ("source", "split") if column in shared}
    name = "" if record.get("id") in (None, "") else str(record["id"])
    own_id = name or content_id({"prompt": prompt, "response": [answer["response"] for answer in answers.values()]})
    group = str(record.get("group") or own_id)
    if group != own_id and any("preference" in answer.get("scores", {}) for answer in answers.values()):
        group += f":{own_id}"  # a preference says nothing about the answers of another comparison
    rows = []
    for key, answer in answers.items():
        own = {column: value for column, value in answer.items() if value is not None}
        scores = {n: s for n, v in own.get("scores", {}).items() if (s := number(v)) is not None}
        scores = {name: scores[column] for column, name in named_once({n: n for n in scores}).items()}
        row = {**shared, **own, "prompt": prompt, "scores": scores, "group": group}
        rows.append({**row, "id": f"{name}:{key}" if name else ""})
    return rows
