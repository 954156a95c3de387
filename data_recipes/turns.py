"""Make turns of texts and of the conversations that the layouts hold."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import takewhile
from typing import Any

from data_recipes.ai_sdk import steps
from data_recipes.cells import number
from data_recipes.endings import called, deleted, ended, plain
from data_recipes.marks import LEFT_OUT, Row, Turn
from data_recipes.media import UnreadError, beside
from data_recipes.metadata import name_parts, words
from data_recipes.parts import (
    HIDDEN,
    UNSAID,
    as_json,
    call,
    calls,
    gathered,
    hide,
    parsed,
    text,
    thought_of,
    unfolded,
)
from data_recipes.scores import figures
from data_recipes.speakers import ROLES, spoken
from data_recipes.streams import DataError, kind
from data_recipes.thoughts import is_thought

TURN = ("name", "tool_calls", "tool_call_id")  # what a turn keeps besides role and content
CONTENT = ("value", "parts", "text", "message", "refusal")  # names of what a turn says, if not its content
THOUGHT = ("reasoning_content", "reasoning", "thinking", "thought")  # what a model thought before; the first counts
ANSWERED = ("reasoning_content", "tool_calls", "finished")  # what an answer has besides its text
ABOUT = words("document documents context contexts passages")  # what a turn may be about
TAUGHT = words("""
    weight train training trainable dotrain istrain istrainable trainonturn learn loss lossweight lossmask computeloss
    calculateloss hasloss lossscale lossfactor losscoefficient trained istrained trainon trainonthis trainthis
    shouldtrain totrain trainweight trainingweight turnweight usefortraining includeintraining includeinloss learnable
    islearnable
""")  # 0 or false: not to be learned
UNTAUGHT = words("""
    mask masked ismasked maskloss maskout maskedout ignore ignoreloss ignoreintraining noloss skip skiploss skiptrain
    skiptraining exclude excludefromtraining excludefromloss notrain notraining donttrain donottrain nolearn donotlearn
""")  # 1 or true: the same
LEARNS = ("train", "loss", "mask")  # beginnings of words in names of turns' keys that may say it too
UNSURE = "it may mean not to learn this turn: then write weight 0"
TURNS_CELL = re.compile(r"\[\s*\{\s*['\"](?:role|content|from|value)['\"]\s*:")
TURN_CELL = re.compile(  # a list of turns, a turn, or {messages: [turns]}, that names a role somewhere
    r"\s*[\[{].*['\"](?:role|from|type)['\"]\s*:\s*['\"](?:system|developer|user|human|assistant|ai|gpt|tool)['\"]",
    re.DOTALL,
)
HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")  # Anthropic HH-RLHF: a conversation as one text
HH_BARE = re.compile(r"\s*Human: ?.*\n\nAssistant:", re.DOTALL)
OASST_TURN = re.compile(r"(?:\A|\n+)(prompter|assistant): ")  # OpenAssistant's: starts with "prompter: "
NEMO_TURN = re.compile(r"\n<extra_id_1>(User|Assistant)\n")  # NeMo and HelpSteer: later turns inside the first text


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
        read = _read(raw, column, i, keep)
        if not read:  # a tool turn of approvals alone
            continue
        answers = read[-1]["role"] == "assistant"
        if answers and raw.get("channel") == "analysis":
            thoughts = gathered(analysis, read[-1], {"reasoning_content": read[-1]["content"]})
            read, analysis = [{**read[-1], **thoughts, "content": ""}], {}
            if not read[-1].get("tool_calls"):
                analysis = thoughts
                continue
        if analysis and answers:
            read[-1] |= gathered(analysis, read[-1])
        elif analysis:
            hide(read[0], UNSAID)
        analysis = {}
        result += read
    return [*result, {"role": "assistant", "content": "", **analysis}] if analysis else result


def _read(raw: Row, column: str, i: int, keep: Callable[[str], bool]) -> list[Turn]:
    """Return the turn that a record of a turn holds, with the results of its tools if it holds those too."""
    named = raw.get("role", raw.get("from"))
    if not isinstance(named, str):
        raise DataError(f"column '{column}': turn {i} has no role. Write it as {{role, content}} or {{from, value}}.")
    if deleted(raw):
        raise UnreadError(f"turn {i} of its {column} was deleted")
    if medium := beside(raw):
        raise UnreadError(f"it holds {medium}, and only text can be used")
    role = ROLES.get(named.lower(), named.lower())
    kept = _kept(raw, keep)
    if thought := _thought(raw):
        kept["reasoning_content"] = thought
    content = raw.get("content", raw.get("value", raw.get("parts")))
    silent = bool(kept.get("tool_calls")) or role == "tool"  # may well say nothing
    if content is None or (content == "" and not silent):
        elsewhere = (raw[key] for key in CONTENT if raw.get(key) and isinstance(raw[key], str | list))
        content = next(elsewhere, content)
    if kept.get("tool_calls"):
        kept["tool_calls"] = calls(kept["tool_calls"])
    if isinstance(raw.get("function_call"), dict):  # as OpenAI wrote calls in 2023
        kept.setdefault("tool_calls", [call(raw["function_call"])])
    if named.lower() in ("function_call", "tool_call") and content:  # a turn of ShareGPT whose text is the call
        content, kept["tool_calls"] = "", [call(content)]
    if str(raw.get("recipient")).startswith("functions."):  # of gpt-oss
        asked = {"name": raw["recipient"].removeprefix("functions."), "arguments": parsed(text(content, column))}
        content, kept["tool_calls"] = "", [call(asked)]
    if role == "tool" and _data(content):  # as the tool gave it
        content = as_json(content)
    return unfolded({"role": role, **kept}, content, f"{column}', turn {i} 'content")


def _kept(raw: Row, keep: Callable[[str], bool]) -> Turn:
    """Return what stays of a turn beside its role, its text and its thought, with what is hidden of it named."""
    kept = {key: v for key, v in raw.items() if (key == HIDDEN or keep(key)) and v not in (None, [])}
    for key, v in raw.items():
        if key not in kept and _is_figure(key, v):
            why = UNSURE if _of_learning(key) else "write it into the turn's 'scores' if it is one"
            hide(kept, f"'{key}' of a turn ({why})")
    for key in called(tuple(raw), ABOUT):
        if raw[key] and isinstance(raw[key], str | list | dict):
            hide(kept, f"'{key}' of a turn (write it into the turn's text if the model saw it)")
    kept |= {"finished": False} if ended(raw) is False else {}
    kept |= {} if _taught(raw) else {"weight": 0.0}
    if raw.get("train_detail") or raw.get("training_detail"):  # of Axolotl: which letters of a turn are learned
        hide(kept, "train_detail, which has parts of a turn learned: it is learned whole")
    return kept


def _thought(raw: Row) -> str:
    """Return what a model thought before a turn, wherever the turn holds it beside its text; "" for nothing."""
    named = dict.fromkeys((*THOUGHT, *filter(is_thought, raw)))
    if thought := next((said for key in named if (said := thought_of(raw.get(key))).strip()), ""):
        return thought
    details = raw.get("reasoning_details")  # of OpenRouter
    parts = [part for part in details if isinstance(part, dict)] if isinstance(details, list) else []
    texts = [part.get("text") or part.get("summary") for part in parts]
    return "\n".join(said for said in texts if isinstance(said, str))


def _is_figure(key: str, value: Any) -> bool:
    """Whether a key of a turn may hold a score: a number, or an object with one; of what is learned a word, too."""
    if not isinstance(value, int | float | dict | str) or (isinstance(value, str) and not _of_learning(key)):
        return False
    if key in ("content", "function_call") or plain(key) in (*TAUGHT, *UNTAUGHT):
        return False
    return bool(figures(value if isinstance(value, dict) else {key: value}))


@cache
def _of_learning(key: str) -> bool:
    """Whether a word in a name says that it is about what is learned."""
    return any(part.startswith(LEARNS) for part in name_parts(key))


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
