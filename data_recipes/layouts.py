"""Turn records as users have them into rows, recognised by their columns.

To add a layout: one function `record -> rows` and one entry in LAYOUTS. Which columns become scores:

- a dict column `scores` or `attributes` names them all; otherwise every top-level column that holds a number, true or
  false, or text that reads as a number (CSV has nothing else) is one, except OURS and what `metadata.py` knows by its
  name; `steer.rows` drops those whose numbers are no ratings;
- a list of at most 20 numbers is what several raters gave: it goes into `raters`, its mean is the score;
- true and false count as 1 and 0; null and blank cells are unknown and left out;
- whatever else the record holds, such as an attribute in words, stays in the row as an extra column.

The named sets and logs (preferences.py, rated.py, oasst.py, logs.py) say themselves which of their values are scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

from data_recipes import (
    apps,
    arena,
    argilla,
    asked,
    lists,
    logs,
    oasst,
    pairs,
    preferences,
    rated,
    spelled,
    studio,
    talks,
    tools,
    traces,
)
from data_recipes.answers import called_with, content_id, make_row
from data_recipes.cells import number
from data_recipes.endings import asks, called, deleted, ended
from data_recipes.marks import CUT_OFF, LEFT_OUT, NO_ANSWER, NOTED, OURS, Row
from data_recipes.media import UnreadError, pictured, stands_for
from data_recipes.metadata import WEIGHTS, words
from data_recipes.parts import HIDDEN, text
from data_recipes.scores import named_scores, ratings, thumbs
from data_recipes.streams import DataError
from data_recipes.tagged import untagged
from data_recipes.thoughts import parted, taken
from data_recipes.turns import answered, fields, turns


def rows(record: Row, *, every: bool = False, spelled: bool = False) -> list[Row]:
    """Return the rows of one record: prompt (turns), response (if it has one), scores (floats), id, extra columns.

    A pair gives two, the chosen one first; a turn of a tree that is asked gives none of its own. A system prompt in a
    column of its own is the first turn, and a response that was cut off is not `finished`. `every` assistant turn of a
    whole conversation becomes a row. A row to be left out and counted says why in LEFT_OUT. A record that fits no
    layout, or whose columns hold something else than the layout wants, is a DataError that names the column and not
    the place. A record with pictures, sound or files is left out. `spelled`: it is as `spelled_out` returned it.
    """
    try:
        pictured(record)
        return _rows(record if spelled else spelled_out(record), every)
    except UnreadError as error:
        row: Row = {"prompt": [], LEFT_OUT: str(error)}
        return [{**row, "id": content_id(row)}]


def _rows(record: Row, every: bool) -> list[Row]:
    record = {**record}
    record = thumbs(argilla.plain(record) if argilla.is_record(record) else record)
    record = asked.blanked(_weighted(record))
    notes = record.pop(NOTED, ())
    system_turns, used = asked.system(record)
    name = recognise(record)
    read = partial(talks.read, column=name, every=every) if name in talks.COLUMNS else LAYOUTS[name][1]
    results = read({c: v for c, v in record.items() if c not in used})
    results = [untagged(parted(row)) for row in taken(record, [rated.corrected(row) for row in results])]
    column = next((c for c in record if c in used and record[c]), "")
    results = [
        _ending({**row, "prompt": asked.before(system_turns, row["prompt"], column)} if system_turns else row)
        for row in results
    ]
    results = [{**row, LEFT_OUT: CUT_OFF} if _silent(row) else row for row in results]
    results = [_noted({**row, NOTED: [*row.get(NOTED, ()), *notes]} if notes else row) for row in results]
    gone = deleted(record)
    results = [_kept(row, gone or (deleted(row) and deleted({**record, **row}))) for row in results]
    beside = called(tuple(record), spelled.BESIDE)
    if unasked := [c for c in beside if all(_told(record[c], row.get(c)) for row in results)]:
        note = f"kept as a column and no part of the prompt: {', '.join(map(repr, unasked))}"
        note += " (write it into the prompt if the model saw it)"
        results = [{**row, NOTED: [*row.get(NOTED, ()), note]} for row in results]
    if _undecided(results):
        why = "its two responses are the same text, so neither can be the better one"
        results = [{**row, LEFT_OUT: why} for row in results]
    return [{**row, "id": content_id(row) if row.get("id") in (None, "") else str(row["id"])} for row in results]


def _kept(row: Row, column: str) -> Row:
    """Say in a row that is still kept why it is left out, where its text or this column says that it was deleted."""
    gone = row.get("response") in GONE
    other = LEFT_OUT in row and row[LEFT_OUT] not in NO_ANSWER
    if other or not (gone or column):
        return row
    return {**row, LEFT_OUT: "its response was deleted" if gone else f"it was deleted ('{column}')"}


def _weighted(record: Row) -> Row:
    """Rename a number in sample_weight, example_weight and the like to weight, which is noted."""
    column = next((c for c in called(tuple(record), WEIGHTS) if number(record[c]) is not None), "weight")
    if column == "weight" or record.get("weight") is not None:
        return record
    note = f"read: '{column}' as the weight"
    renamed = {"weight" if c == column else c: v for c, v in record.items() if c != "weight"}
    return {**renamed, NOTED: [*record.get(NOTED, ()), note]}


def _told(value: object, kept: object) -> bool:
    """Whether a text or a list is still a column of its own in a row."""
    return isinstance(value, str | list) and bool(value.strip() if isinstance(value, str) else value) and kept == value


def _ending(row: Row) -> Row:
    """Set `finished` to true or false in a row that says how its response ended."""
    if "response" not in row or isinstance(row.get("finished"), bool):
        return row
    beside = (v for c, v in row.items() if isinstance(v, dict) and c not in ("scores", "raters", *OURS) and not asks(c))
    end = False if any(ended(inner) is False for inner in beside) else ended(row)
    return {**row, "finished": end} if end is False or (end is not None and "finished" in row) else row


def _silent(row: Row) -> bool:
    """Whether a response that holds nothing was cut off: a model may think, unseen, until no token is left."""
    blank = row.get("response") == "" and not row.get("tool_calls")
    return blank and row.get("finished") is False and LEFT_OUT not in row


def _noted(row: Row) -> Row:
    """Drop a row of weight 0, read another weight, and note what else a row holds that means nothing here."""
    given = row.get("weight") if "response" in row else None
    weight, notes = number(given), list(row.get(NOTED, ()))
    if given is not None and (weight is None or not 0 <= weight < math.inf):
        notes.append("ignored: a weight that is no number of 0 or more")
        weight = None
    if given is not None:
        row = {**row, "weight": weight}
    said = row.get("response") or ""
    if said.rstrip().endswith(ENDS) and (left := _without_end(said)) != said:
        notes.append(f"taken off: {said[len(left) :].split()[-1]} at the end of a response")
        row = {**row, "response": left}
    texts = (row.get("response") or "", *(turn["content"] for turn in row["prompt"]))
    hinted = [part for part in texts if any(hint in part for hint in HINTS)]
    if mark := next((mark for part in hinted for mark in MARKS if mark in part and not _struck(mark, part)), ""):
        notes.append(f"kept as text: {mark} in a prompt or response (give each turn on its own)")
    if place := next((p for turn in row["prompt"] if (p := stands_for(turn["content"]))), ""):
        notes.append(f"kept as text: {place} in a prompt, which may stand for a picture or sound that the model saw")
    if any(turn.get("name") and turn["role"] != "tool" for turn in row["prompt"]):
        notes.append("kept: the name of a turn (few chat templates print it)")
    after = row.get("after_response")
    turns_after = after if isinstance(after, list) else []
    hidden = [
        what for turn in (row, *row["prompt"], *turns_after) if isinstance(turn, dict) for what in turn.get(HIDDEN, ())
    ]
    if hidden:
        notes += [f"left out: {what}" for what in dict.fromkeys(hidden)]
        talks = {"prompt": _shown(row["prompt"]), **({"after_response": _shown(turns_after)} if turns_after else {})}
        row = {**{c: v for c, v in row.items() if c != HIDDEN}, **talks}
    row = {**row, NOTED: notes} if notes else row
    return {**row, LEFT_OUT: "its weight is 0, so it is not to be learned"} if weight == 0 else row


def _shown(talk: list[Row]) -> list[Row]:
    return [{key: value for key, value in turn.items() if key != HIDDEN} for turn in talk]


# What templates write around turns, and after them; HINTS are parts of all of them.
ENDS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "<|return|>", "</s>")
BEGINS = words("""
    <|im_start|> <|start_header_id|> <start_of_turn> [INST] <|channel|> <|begin_of_thought|> <|begin_of_text|> <|end|>
    <|system|> <|user|> <|assistant|>
""")
MARKS = (*BEGINS, *ENDS)
HINTS = ("<|", "[INST]", "_of_turn>", "</s>")


def _struck(mark: str, text: str) -> bool:
    """Whether a mark is the end of a text that was crossed out."""
    return mark == "</s>" and "<s>" in text


def _without_end(response: str) -> str:
    """Return a response without the tokens that end a turn behind it; </s> ends it where no <s> begins anything."""
    left = response.rstrip()
    while end := next((e for e in ENDS if left.endswith(e) and not _struck(e, left)), ""):
        left = left.removesuffix(end).rstrip()
        response = left
    return response


GONE = ("[deleted]", "[removed]", "[deleted by user]")  # what Reddit leaves in place of a text


def _undecided(pair: list[Row]) -> bool:
    """Whether one of two equal responses is said to be better."""
    if len(pair) != 2:
        return False
    texts = [(str(row.get("response")).strip(), called_with(row)) for row in pair]
    preferred = [row.get("scores", {}).get("preference") for row in pair]
    return texts[0] == texts[1] and preferred[0] != preferred[1]


def recognise(record: Row) -> str:
    """Return the first of LAYOUTS whose columns the record has; columns that hold null count only if nothing fits."""
    if name := _first(tuple([c for c in record if record[c] is not None])) or _first(tuple(record)):
        return name
    remedy = f"Name them with --map prompt=COLUMN --map response=COLUMN, or rename them to one of: {USUAL}"
    raise DataError(f"columns {', '.join(record) or '(none)'} fit no known layout. {remedy}.")


def answer_column(layout: str, number: int, rows: int) -> str:
    """Return the column that row `number` (from 0) of a record of so many rows has its response from, if names tell.

    >>> answer_column("prompt, chosen, rejected", 1, 2), answer_column("messages", 0, 1)
    ('rejected', 'response')
    """
    columns = [column for column in LAYOUTS[layout][0] if column not in (*ASKED, "question", *talks.COLUMNS)]
    return columns[number] if len(columns) == rows > 1 else "response"


@lru_cache(maxsize=1000)
def _first(columns: tuple[str, ...]) -> str:
    return next((name for name, (required, _) in LAYOUTS.items() if {*columns}.issuperset(required)), "")


def spelled_out(record: Row) -> Row:
    """Rename columns of tools and traces to those that the layouts know, and others if there is no answer as it is."""
    record = tools.named(studio.plain(record) if studio.is_record(record) else traces.plain(apps.plain(record)))
    if answers(record):
        return record
    other = spelled.known(record)
    return other if answers(other) else record


def answers(record: Row) -> bool:
    """Whether the columns of a record are those of a layout with responses."""
    try:
        return recognise(record) not in ("prompt", "instruction")
    except DataError:
        return False


def _own(record: Row) -> list[Row]:
    """Read rows in the columns of the contract; all other columns pass through."""
    response = text(record["response"], "response")
    scores, notes = own_scores(record)
    row = {**record, "prompt": turns(record["prompt"], "prompt"), "response": response, **scores}
    return [{**row, NOTED: [*record.get(NOTED, ()), *notes]} if notes else row]


def own_scores(record: Row) -> tuple[Row, list[str]]:
    """Return `scores` of a record as numbers; several of an attribute are its raters', and go into `raters` too.

    Also what is to be noted.
    """
    scores, notes = named_scores(record.get("scores") or {}) or (record["scores"], [])
    raters = dict(fields(record.get("raters"), "raters"))
    if isinstance(scores, dict):
        raters |= {name: several for name, value in scores.items() if (several := ratings(value)) is not None}
        scores = {name: _score(value) for name, value in scores.items()}
    return {"scores": scores, **({"raters": raters} if raters else {})}, notes


def _score(value: object) -> object:
    each = ratings(value)
    if each is not None:
        known = [v for v in each if v is not None]
        return sum(known) / len(known)
    return number(value) if isinstance(value, int) else value


def _answer(record: Row, column: str) -> list[Row]:
    """Read what was asked, and the response as a text, as turns, or as a server wrote it."""
    if isinstance(record[column], dict) and not {"role", "from"} & record[column].keys():
        return logs.answer(record, column)
    logs.check(record, record[column])
    prompt, used = asked.question(record)
    if prompt and prompt[-1] == {"role": "assistant", "content": record[column]}:  # what was asked ends with the answer
        prompt = prompt[:-1]
    return [make_row(record, {*used, column}, *answered(prompt, record[column], column))]


def _completions(record: Row) -> list[Row]:
    """Read completions: UltraFeedback's objects with annotations, or a list of texts."""
    completions = record["completions"]
    texts = isinstance(completions, list) and not all(isinstance(each, dict) for each in completions)
    return lists.several(record, "completions") if texts else rated.ultrafeedback(record)


def _argilla(record: Row) -> list[Row]:
    if not isinstance(record["fields"], dict):
        raise DataError("'fields' is no object. Write the fields of an Argilla record as {name: text}.")
    return rows(argilla.plain(record))


def _prompt(record: Row) -> list[Row]:
    """Read a prompt without a response, to generate from."""
    prompt, used = asked.question(record)
    return [{**{c: v for c, v in record.items() if c not in used}, "prompt": prompt}]


def _alpaca(record: Row) -> list[Row]:
    if isinstance(record.get("output"), list):
        return lists.several({**record, "prompt": None}, "output")
    prompt, used = asked.question({**record, "prompt": None})
    return [make_row(record, {*used, "output", "history"}, prompt, text(record.get("output"), "output"))]


# What a refusal names.
USUAL = "prompt, response; messages; conversations; instruction, output; prompt, chosen, rejected; "
USUAL += "prompt, response_a, response_b; prompt, responses; request, response"
ASKED = ("prompt", "messages", "instruction")
OTHERS = [("instruction", "completions")]  # UltraFeedback's
SAID = ("response", "completion", "generation")

# Name -> (columns that it is recognised by, record -> rows). The first that fits counts; where name and columns are
# the same, the layout belongs to no published set.
LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[Row], list[Row]]]] = {
    "prompt, response, scores": (("prompt", "response", "scores"), _own),
    "prompt, response, levels": (("prompt", "response", "levels"), _own),
    "prompt, response, target": (("prompt", "response", "target"), _own),
    "spans of traces": ((traces.NO_CALL,), traces.nothing),
    "OASST messages": (("message_id", "text", "role", "thread"), oasst.message),
    "OASST trees": (("message_tree_id", "prompt"), oasst.tree),
    "HelpSteer2 preferences": (preferences.HELPSTEER2, preferences.helpsteer2),
    "HelpSteer3 preferences": (preferences.HELPSTEER3, preferences.helpsteer3),
    "PKU-SafeRLHF": (("prompt", "response_0", "response_1", "better_response_id"), preferences.safe_rlhf),
    "SHP": (("history", "human_ref_A", "human_ref_B", "labels"), preferences.shp),
    "summarize-from-feedback comparisons": (("info", "summaries", "choice"), preferences.summaries),
    "summarize-from-feedback axis": (("info", "summary"), rated.summary_axes),
    "WebGPT comparisons": (("question", "answer_0", "answer_1", "score_0"), preferences.webgpt),
    "Prometheus preferences": (("orig_instruction", "orig_response_A", "orig_response_B"), preferences.prometheus),
    "Prometheus feedback": (("orig_instruction", "orig_response", "orig_score"), rated.prometheus),
    "UltraFeedback": (("instruction", "completions"), _completions),
    "SummEval": (("decoded", "expert_annotations"), rated.summeval),
    "AlpacaEval annotations": (("instruction", "output_1", "output_2"), preferences.alpaca_eval),
    "OpenAI preferences": (("input", "preferred_output", "non_preferred_output"), preferences.openai),
    "request, response": (("request", "response"), logs.exchange),
    "messages, choices": (("messages", "choices"), logs.completion),
    "prompt, choices": (("prompt", "choices"), logs.completion),
    "custom_id, request": (("custom_id", "request"), logs.asked),
    "conversation_a, conversation_b": (("conversation_a", "conversation_b"), arena.talks),
    **{
        f"{ask}, {say}_a, {say}_b": ((ask, f"{say}_a", f"{say}_b"), arena.answers)
        for ask in (*ASKED, "question")
        for say in arena.SAID
    },
    "prompt, chosen, rejected": (("prompt", "chosen", "rejected"), pairs.pair),
    "chosen, rejected": (("chosen", "rejected"), pairs.pair),
    **{", ".join(names): (names, pairs.named) for names in pairs.NAMED},
    **{f"messages, {name}": (("messages", name), pairs.beside) for name in pairs.BESIDE},
    "Argilla records": (("fields", "responses"), _argilla),
    "Argilla suggestions": (("fields", "suggestions"), _argilla),
    **{
        f"{ask}, {say}": ((ask, say), partial(lists.several, column=say))
        for ask in ASKED
        for say in lists.LISTS
        if (ask, say) not in OTHERS
    },
    **{f"{ask}, {say}": ((ask, say), partial(_answer, column=say)) for ask in ASKED for say in SAID},
    **{column: ((column,), partial(talks.read, column=column)) for column in talks.COLUMNS},
    "instruction, output": (("instruction", "output"), _alpaca),
    "instruction": (("instruction",), _alpaca),
    "prompt": (("prompt",), _prompt),
}
