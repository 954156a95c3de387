"""Name what the layouts hand on: rows, turns, and the marks that they carry until these are counted and said."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Turn = dict[str, Any]
ASKED_WITH = ("tools", "chat_template_kwargs")  # columns that a chat template is given beside the turns
LEFT_OUT = "_left_out"  # why a row is left out and counted, though nothing about its record is wrong
OWN_SCORES = "_own_scores"  # names of the scores that a turn has of its own, where others are its conversation's
ENDLESS = "its thought does not end, so it has no answer"
THOUGHT_ALONE = "it ends with its thought and has no answer"
CUT_OFF = "it was cut off before it answered"
UNWRITTEN = "its response is an empty cell, written as a word (NULL, None, nan)"
UNASKED = "its prompt is an empty cell, written as a word (NULL, None, nan)"
# Such a row is a prompt all the same; a judge gets a blank answer.
NO_ANSWER = (ENDLESS, THOUGHT_ALONE, CUT_OFF, UNWRITTEN)
NOTED = "_noted"  # list of what was changed or kept in a row, "what was done: with what", to be counted and said
OURS = ("id", "group", "conversation", "source", "split", "levels", "target", "predicted", "after_response", "raters")
