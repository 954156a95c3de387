"""What chat applications and the AI SDK export, and what else turns hold that is left out and counted."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from data_recipes import layouts
from steer.rows.reading import Tally, read

Record = dict[str, Any]
USER = {"role": "user", "content": "Is moss a plant?"}
SAID = "Yes, it is."
BUILT_IN = "left out: what tools that a server has itself (a web search, code, ...) did and found"


def lines(folder: Path, records: list[Record]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def only(record: Record) -> Record:
    (row,) = layouts.rows(record)
    return row


# The tools that a server has itself.

SEARCH = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"query": "moss"}}
SPOKEN = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": SAID}]}
CLAUDE = [
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
    {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "url": "u"}]},
    {"type": "text", "text": "Yes, "},
    {"type": "text", "text": "it is.", "citations": [{"url": "u"}]},
]
CODE = [{"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}}, {"text": SAID}]
INSIDE = [
    {"type": "tool_use", "id": "z", "name": "web_search", "input": {}},
    {"type": "tool_result", "tool_use_id": "z", "content": [{"type": "text", "text": "found"}]},
    {"type": "text", "text": SAID},
]


@pytest.mark.parametrize(
    "record",
    [{"request": {"input": [USER]}, "response": {"output": [SEARCH, SPOKEN]}},
     {"request": {"input": [USER, SEARCH, SPOKEN, USER]}, "response": {"output": [SPOKEN]}},
     {"request": {"messages": [USER]}, "response": {"content": CLAUDE}},
     {"messages": [USER, {"role": "assistant", "content": CLAUDE}]},
     {"messages": [USER, {"role": "assistant", "content": INSIDE}]},
     {"contents": [{"parts": [{"text": "?"}]}], "candidates": [{"content": {"role": "model", "parts": CODE}}]}],
)  # fmt: skip
def test_what_a_servers_own_tools_did_is_left_out_and_counted(record: Record, tmp_path: Path) -> None:
    tally = Tally()
    (row,) = read(lines(tmp_path, [record]), tally=tally)
    assert (row["response"], "tool_calls" in row, "_hidden" in json.dumps(row)) == (SAID, False, False)
    assert tally.notes == {BUILT_IN: 1}


def test_thoughts_around_a_search_are_one_thought_in_a_prompt_as_in_a_response() -> None:
    thoughts = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]} for text in ("a", "b")]
    items = [thoughts[0], SEARCH, thoughts[1], SPOKEN]
    row = only({"request": {"input": [USER, *items, USER]}, "response": {"output": items}})
    assert row["prompt"][1]["reasoning_content"] == row["reasoning_content"] == "a\nb"


def test_a_call_after_a_search_belongs_to_the_message_before_it() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "weigh", "arguments": "{}"}
    found = {"type": "function_call_output", "call_id": "c", "output": "3"}
    row = only({"request": {"input": [USER, SPOKEN, SEARCH, call, found]}, "response": {"output": [SPOKEN]}})
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "tool"]
    assert row["prompt"][1]["tool_calls"][0]["function"]["name"] == "weigh"


# The AI SDK.

ASKED = {"id": "1", "role": "user", "parts": [{"type": "text", "text": USER["content"]}]}
CALL = {"toolCallId": "c", "toolName": "weigh"}
INVOCATION = {"state": "result", **CALL, "args": {"of": "moss"}, "result": {"grams": 3}}
LOOKS = {"type": "text", "text": "Let me weigh it."}
STEPS: dict[str, list[Record]] = {
    "5 and later": [ASKED, {"role": "assistant", "metadata": {}, "parts": [
        {"type": "step-start"}, {"type": "reasoning", "text": "hm"}, LOOKS,
        {"type": "tool-weigh", "toolCallId": "c", "state": "output-available", "input": {"of": "moss"},
         "output": {"grams": 3}},
        {"type": "step-start"}, {"type": "source-url", "url": "u"}, {"type": "text", "text": SAID}]}],
    "dynamic": [ASKED, {"role": "assistant", "parts": [{"type": "reasoning", "text": "hm"}, LOOKS,
        {"type": "dynamic-tool", **CALL, "input": {"of": "moss"}, "output": {"grams": 3}},
        {"type": "text", "text": SAID}]}],
    "4": [USER, {"role": "assistant", "content": SAID, "parts": [{"type": "reasoning", "reasoning": "hm"}, LOOKS,
        {"type": "tool-invocation", "toolInvocation": INVOCATION}, {"type": "text", "text": SAID}]}],
    "of the model": [USER,
        {"role": "assistant", "content": [{"type": "reasoning", "text": "hm"}, LOOKS,
                                          {"type": "tool-call", **CALL, "input": {"of": "moss"}}]},
        {"role": "tool", "content": [
            {"type": "tool-result", **CALL, "output": {"type": "json", "value": {"grams": 3}}}]},
        {"role": "assistant", "content": [{"type": "text", "text": SAID}]}],
}  # fmt: skip


@pytest.mark.parametrize("version", STEPS)
def test_each_step_of_a_message_is_a_turn_and_each_result_another(version: str) -> None:
    row = only({"id": "chat", "messages": STEPS[version]})
    user, called, found = row["prompt"]
    assert (user, row["response"], row["scores"]) == (USER, SAID, {})
    assert (called["content"], called["reasoning_content"]) == (LOOKS["text"], "hm")
    assert called["tool_calls"] == [
        {"id": "c", "type": "function", "function": {"name": "weigh", "arguments": {"of": "moss"}}}
    ]
    assert found == {"role": "tool", "content": '{"grams": 3}', "tool_call_id": "c", "name": "weigh"}


def test_messages_of_version_3_call_before_they_answer() -> None:
    row = only({"messages": [USER, {"role": "assistant", "content": SAID, "toolInvocations": [INVOCATION]}]})
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "tool"]
    assert (row["prompt"][1]["content"], row["response"]) == ("", SAID)


def test_a_tool_that_failed_says_why_and_one_that_did_not_answer_ends_the_conversation() -> None:
    failed = {"type": "tool-weigh", "toolCallId": "c", "state": "output-error", "input": {}, "errorText": "no scale"}
    waiting = {"type": "tool-weigh", "toolCallId": "d", "state": "input-available", "input": {}}
    row = only({"messages": [ASKED, {"role": "assistant", "parts": [failed, waiting]}]})
    assert [call["id"] for call in row["tool_calls"]] == ["c", "d"]
    assert row["after_response"][0]["content"] == "no scale"


def test_parts_of_the_interface_and_of_the_provider_are_left_out_and_pictures_leave_out_the_row(tmp_path: Path) -> None:
    parts = [
        {"type": "data-chart", "data": {}},
        {"type": "tool-search", "toolCallId": "c", "providerExecuted": True, "output": "x"},
    ]
    tally = Tally()
    talk = [ASKED, {"role": "assistant", "parts": [*parts, {"type": "text", "text": SAID}]}]
    picture = {**ASKED, "parts": [*ASKED["parts"], {"type": "file", "mediaType": "image/png", "url": "data:x"}]}
    (row,) = read(lines(tmp_path, [{"messages": talk}, {"messages": [picture, *talk[1:]]}]), tally=tally)
    assert (row["response"], [turn["role"] for turn in row["prompt"]]) == (SAID, ["user"])
    assert tally.notes == {BUILT_IN: 1, "left out: parts of messages that only an interface shows (data-...)": 1}
    assert len(tally.dropped) == 1


def test_the_calls_of_a_result_of_generate_text_are_kept() -> None:
    response = {"text": "", "toolCalls": [{"type": "tool-call", **CALL, "input": {}}], "finishReason": "tool-calls"}
    row = only({"messages": [USER], "response": response})
    assert row["tool_calls"][0]["function"] == {"name": "weigh", "arguments": {}}


# Open WebUI.

THOUGHT = '<details type="reasoning" done="true" duration="5">\n<summary>Thought</summary>\n> hm\n> so\n</details>\n'


def _node(name: str, text: str, **more: Any) -> Record:
    return {"id": name, "parentId": "u", "childrenIds": [], "role": "assistant", "content": text, **more}


NODES = {
    "u": {"id": "u", "parentId": None, "childrenIds": ["a", "b", "c"], **USER},
    "a": _node("a", THOUGHT + SAID, model="m1", annotation={"rating": 1, "details": {"rating": 8}}),
    "b": _node("b", "No.", model="m2"),
    "c": _node("c", "Perhaps.", model="m3"),
}


def chat(shown: str) -> Record:
    return {"id": "c", "user_id": "x", "chat": {"title": "t", "history": {"messages": NODES, "currentId": shown}}}


def feedback(rating: Any, siblings: list[str] | None) -> Record:
    data = {"rating": rating, "model_id": "m1", "sibling_model_ids": siblings, "reason": "accurate", "comment": "",
            "details": {"rating": 8}}  # fmt: skip
    meta = {"arena": False, "chat_id": "c", "message_id": "a"}
    return {"id": "f", "version": 0, "type": "rating", "data": data, "meta": meta, "snapshot": {"chat": chat("b")}}


def test_a_chat_of_open_webui_is_the_path_that_it_shows() -> None:
    row = only(chat("a"))
    assert (row["prompt"], row["response"], row["reasoning_content"]) == ([USER], SAID, "hm\nso")
    assert row["scores"] == {"thumbs": 1, "rating": 8}
    other = only(chat("b"))
    assert (other["response"], other["scores"], len(other["_noted"])) == ("No.", {}, 1)


@pytest.mark.parametrize(("rating", "thumb"), [(1, 1), ("1", 1), (-1, 0), ("-1", 0)])
def test_feedback_of_open_webui_is_on_the_answer_that_it_names(rating: Any, thumb: int) -> None:
    row = only(feedback(rating, None))
    assert (row["response"], row["scores"], row["conversation"]) == (SAID, {"thumbs": thumb, "rating": 8}, "c")
    assert (row["id"], row["reason"]) == ("f", "accurate")


@pytest.mark.parametrize(("rating", "preferred"), [(1, [1, 0]), (-1, [0, 1])])
def test_feedback_in_the_arena_compares_the_models_that_it_names(rating: int, preferred: list[int]) -> None:
    rows = layouts.rows(feedback(rating, ["m2"]))
    assert [(row["response"], row["model"]) for row in rows] == [(SAID, "m1"), ("No.", "m2")]
    assert [row["scores"]["preference"] for row in rows] == preferred
    assert len({row["group"] for row in rows}) == 1
    assert rows[0]["scores"] == {"preference": preferred[0], "thumbs": preferred[0], "rating": 8}


def test_feedback_without_its_message_is_refused() -> None:
    record = copy.deepcopy(feedback(1, None))
    record["snapshot"] = {"chat": {}}
    with pytest.raises(layouts.DataError, match="does not hold the message that was rated"):
        layouts.rows(record)


# ChatGPT and Claude.


def _message(name: str, parent: str, role: str, kind: str, to: str = "all", **content: Any) -> Record:
    message = {"author": {"role": role}, "content": {"content_type": kind, **content}, "recipient": to}
    return {name: {"id": name, "parent": parent, "children": [], "message": message}}


def test_a_conversation_of_chatgpt_is_read_along_its_path() -> None:
    mapping = {
        "root": {"id": "root", "parent": None, "message": None},
        **_message("1", "root", "system", "text", parts=[""]),
        **_message("2", "1", "user", "text", parts=[USER["content"]]),
        **_message("2b", "1", "user", "text", parts=["edited away"]),
        **_message("3", "2", "assistant", "text", parts=["Let me look."]),
        **_message("4", "3", "assistant", "thoughts", thoughts=[{"summary": "s", "content": "hm"}]),
        **_message("5", "4", "assistant", "code", to="python", text="print(1)"),
        **_message("6", "5", "tool", "execution_output", text="1"),
        **_message("7", "6", "assistant", "text", parts=[SAID]),
    }
    record = {"title": "t", "conversation_id": "g", "current_node": "7", "mapping": mapping}
    row = only(record)
    assert (row["id"], row["prompt"], row["response"]) == ("g", [USER], f"Let me look.\n{SAID}")
    assert (row["reasoning_content"], row["_noted"]) == ("hm", [BUILT_IN])
    pictured = copy.deepcopy(record)
    pictured["mapping"] |= _message(
        "2", "1", "user", "multimodal_text", parts=[{"content_type": "image_asset_pointer"}, "?"]
    )
    assert "picture" in only(pictured)["_left_out"]


def test_a_conversation_of_claude_is_read_with_its_thought() -> None:
    turns = [
        {"uuid": "1", "sender": "human", "text": USER["content"], "attachments": [], "files": []},
        {
            "uuid": "2",
            "sender": "assistant",
            "text": SAID,
            "content": [{"type": "thinking", "thinking": "hm"}, *INSIDE],
        },
    ]
    row = only({"uuid": "k", "name": "Moss", "chat_messages": turns})
    assert (row["id"], row["prompt"], row["response"]) == ("k", [USER], SAID)
    assert row["reasoning_content"] == "hm"


def test_parts_of_a_turn_that_axolotl_learns_are_said_to_be_ignored() -> None:
    detail = [{"begin_offset": 0, "end_offset": 2, "train": False}]
    row = only({"messages": [USER, {"role": "assistant", "content": SAID, "train_detail": detail}]})
    assert row["_noted"] == ["left out: train_detail, which has parts of a turn learned: it is learned whole"]


# What a second look found.


def test_several_messages_of_one_answer_stay_in_order_and_apart() -> None:
    looks = {**SPOKEN, "content": [{"type": "output_text", "text": "Let me look."}]}
    items = [looks, SEARCH, SPOKEN]
    row = only({"request": {"input": [USER, *items, USER]}, "response": {"output": items}})
    assert row["response"] == row["prompt"][1]["content"] == f"Let me look.\n{SAID}"
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "user"]


def test_a_search_among_tools_is_the_servers_own() -> None:
    items = [{"type": "tool_search_call", "id": "t"}, {"type": "tool_search_output", "id": "t"}, SPOKEN]
    row = only({"request": {"input": [USER, *items, USER]}, "response": {"output": items}})
    assert (row["response"], row["_noted"]) == (SAID, [BUILT_IN])


def test_what_google_searched_and_a_thought_that_claude_does_not_show_are_counted() -> None:
    answer = {"content": {"parts": [{"text": SAID}, {"thought_signature": "x"}]}}
    asked = [{"role": "user", "parts": [{"text": "?"}]}]
    row = only({"contents": asked, "candidates": [{**answer, "groundingMetadata": {"webSearchQueries": ["moss"]}}]})
    assert (row["response"], row["_noted"]) == (SAID, [BUILT_IN])
    assert "_noted" not in only({"contents": asked, "candidates": [{**answer, "groundingMetadata": {}}]})
    thought = {"type": "thinking", "thinking": "", "signature": "x"}
    row = only({"request": {"messages": [USER]}, "response": {"content": [thought, {"type": "text", "text": SAID}]}})
    assert row["_noted"] == ["left out: thoughts that are encrypted"]


def test_a_grade_in_a_log_is_a_score() -> None:
    assert only({"request": {"messages": [USER]}, "response": SAID, "rating": "4/5"})["scores"] == {"rating": 4}


WEIGHS = {"type": "tool-weigh", "toolCallId": "c", "state": "output-available", "input": {}}
STEP = {"type": "step-start"}


def answer(*parts: Record) -> list[Record]:
    return [ASKED, {"role": "assistant", "parts": [*parts]}]


@pytest.mark.parametrize(
    ("part", "found"),
    [(WEIGHS, ""),
     ({**WEIGHS, "state": "output-denied", "approval": {"id": "a", "approved": False, "reason": "no"}}, "no"),
     ({**WEIGHS, "state": "output-denied"}, "Tool execution denied."),
     ({**WEIGHS, "output": {"type": "text", "value": "3", "providerOptions": {}}}, "3")],
)  # fmt: skip
def test_a_tool_that_says_nothing_or_is_denied_answers_its_call(part: Record, found: str) -> None:
    row = only({"messages": answer(STEP, part, STEP, {"type": "text", "text": SAID})})
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "tool"]
    assert (row["prompt"][2]["content"], row["response"], "tool_calls" in row) == (found, SAID, False)


def test_steps_without_a_call_are_apart_and_an_empty_last_one_is_none() -> None:
    looks = {"type": "text", "text": "Let me look."}
    assert only({"messages": answer(STEP, looks, STEP, {"type": "text", "text": SAID})})["response"] == (
        f"Let me look.\n{SAID}"
    )
    row = only({"messages": answer(STEP, looks, {**WEIGHS, "output": 3}, STEP)})
    assert (row["response"], row["tool_calls"][0]["id"]) == ("Let me look.", "c")


def test_calls_of_different_steps_of_version_4_are_turns_and_its_thought_is_one() -> None:
    calls = [
        {"type": "tool-invocation", "toolInvocation": {**INVOCATION, "toolCallId": str(step), "step": step}}
        for step in (0, 1)
    ]
    thought = {"type": "reasoning", "reasoning": "hm"}
    turn = {"role": "assistant", "content": SAID, "reasoning": "hm"}
    row = only({"messages": [USER, {**turn, "parts": [*calls, thought, {"type": "text", "text": SAID}]}]})
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "tool", "assistant", "tool"]
    assert row["reasoning_content"] == "hm"


def test_attachments_of_version_4_leave_out_the_row_and_so_does_a_picture_that_a_tool_found() -> None:
    picture = {"type": "content", "value": [{"type": "media", "data": "x", "mediaType": "image/png"}]}
    asked = {**USER, "experimental_attachments": [{"name": "a.png", "url": "u"}]}
    assert "_left_out" in only({"messages": [asked, {"role": "assistant", "content": SAID}]})
    assert "_left_out" in only({"messages": answer({**WEIGHS, "output": picture}, {"type": "text", "text": SAID})})


def test_thoughts_that_a_provider_encrypted_are_counted_and_approvals_are_no_turns() -> None:
    sealed = {"type": "reasoning", "text": "", "providerMetadata": {"openai": {"reasoningEncryptedContent": "x"}}}
    asks = {"type": "tool-approval-request", "approvalId": "p", "toolCallId": "c"}
    called = {"role": "assistant", "content": [sealed, {"type": "tool-call", **CALL, "input": {}}, asks]}
    given = {"role": "tool", "content": [{"type": "tool-approval-response", "approvalId": "p", "approved": True}]}
    found = {"role": "tool", "content": [{"type": "tool-result", **CALL, "output": {"type": "text", "value": "3"}}]}
    row = only({"messages": [USER, called, given, found, {"role": "assistant", "content": SAID}]})
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "tool"]
    assert row["_noted"] == ["left out: thoughts that are encrypted"]


STEPS_4 = [
    {"text": LOOKS["text"], "toolCalls": [{**CALL, "args": {}}], "toolResults": [{**CALL, "args": {}, "result": 3}],
     "finishReason": "tool-calls"},
    {"text": SAID, "reasoning": "hm", "toolCalls": [], "toolResults": [], "finishReason": "length"},
]  # fmt: skip
STEPS_5 = [
    {"content": [LOOKS, {"type": "tool-call", **CALL, "input": {}},
                 {"type": "tool-result", **CALL, "input": {}, "output": 3}], "finishReason": "tool-calls"},
    {"content": [{"type": "reasoning", "text": "hm"}, {"type": "source", "url": "u"}, {"type": "text", "text": SAID}],
     "finishReason": "length"},
]  # fmt: skip


@pytest.mark.parametrize("response", [{"text": SAID, "steps": STEPS_4}, {"steps": STEPS_5, "totalUsage": {}}])
def test_earlier_steps_of_a_result_of_generate_text_end_its_prompt(response: Record) -> None:
    row = only({"messages": [USER], "response": response})
    assert [(turn["role"], turn["content"]) for turn in row["prompt"]] == [
        ("user", USER["content"]), ("assistant", LOOKS["text"]), ("tool", "3"),
    ]  # fmt: skip
    assert (row["response"], row["reasoning_content"], row["finished"]) == (SAID, "hm", False)


def shown(*nodes: Record, chat: Record | None = None) -> Record:
    messages = {node["id"]: node for node in (NODES["u"], *nodes)}
    history = {"messages": messages, "currentId": nodes[-1]["id"] if nodes else None}
    return {"id": "c", "chat": {"history": history, **(chat or {})}}


def test_a_thought_that_open_webui_writes_as_html_is_read_and_what_it_found_is_counted() -> None:
    escaped = THOUGHT.replace("> hm\n> so", "&gt; 1 &lt; 2\n&gt; so").replace("<details ", '<details id="x" ')
    row = only(shown(_node("a", escaped + SAID, sources=[{"document": ["d"]}])))
    assert (row["response"], row["reasoning_content"], row["_noted"]) == (SAID, "1 < 2\nso", [BUILT_IN])


def test_a_chat_begins_with_its_system_prompt_and_an_answer_that_is_not_done_is_not_finished() -> None:
    row = only(shown(_node("a", SAID, done=False), chat={"params": {"system": "Be brief."}}))
    assert (row["prompt"], row["finished"]) == ([{"role": "system", "content": "Be brief."}, USER], False)


def test_chats_without_an_answer_are_left_out_and_a_failed_last_one_is_no_answer(tmp_path: Path) -> None:
    failed = _node("a", "", error={"content": "no such model"})
    again = {**NODES["u"], "id": "v", "parentId": "b"}
    late = shown(NODES["b"], again, {**failed, "parentId": "v"})
    claude = {"uuid": "k", "chat_messages": [{"sender": "human", "text": "?", "content": []}]}
    nothing = {"current_node": None, "mapping": {}}
    tally = Tally()
    (row,) = read(lines(tmp_path, [shown(failed), shown(), nothing, claude, late]), tally=tally)
    assert (row["response"], len(tally.dropped)) == ("No.", 4)
    assert tally.notes == {"left out: answers without a text at the end of a chat": 1}


def test_feedback_names_models_of_the_arena_and_compares_no_answers_with_the_same_thumb() -> None:
    record = copy.deepcopy(feedback(1, ["m2"]))
    nodes = record["snapshot"]["chat"]["chat"]["history"]["messages"]
    for name in "ab":
        nodes[name] |= {"model": "arena-model", "selectedModelId": nodes[name]["model"]}
    assert [row["model"] for row in layouts.rows(record)] == ["m1", "m2"]
    nodes["b"]["annotation"] = {"rating": 1}
    assert [row["model"] for row in layouts.rows(record)] == ["m1"]


@pytest.mark.parametrize(
    "more", [{"snapshot": "2026-01", "data": {}}, {"chat": {"history": {}}}, {"mapping": {}, "current_node": "x"}]
)
def test_other_records_with_such_columns_are_read_as_before(more: Record) -> None:
    row = only({"prompt": "?", "response": SAID, "rating": 4, **more})
    assert (row["response"], row["scores"]) == (SAID, {"rating": 4})


def conversation(*messages: tuple[str, str, Record, Record]) -> Record:
    """Return a conversation of ChatGPT of (role, content type, content, what else the message has)."""
    mapping: Record = {}
    for number, (role, kind, content, more) in enumerate(messages):
        mapping |= _message(str(number), str(number - 1), role, kind, **content)
        mapping[str(number)]["message"] |= more
    return {"id": "g", "current_node": str(len(messages) - 1), "mapping": mapping}


ASKS = ("user", "text", {"parts": [USER["content"]]}, {})
SAYS = ("assistant", "text", {"parts": [SAID]}, {"recipient": None})


def thinks(text: str) -> tuple[str, str, Record, Record]:
    return "assistant", "thoughts", {"thoughts": [{"content": text}]}, {}


def test_custom_instructions_and_memories_of_chatgpt_are_its_system_prompt() -> None:
    told = ("user", "user_editable_context", {"user_profile": "I am X.", "user_instructions": "Be brief."}, {})
    memory = ("assistant", "model_editable_context", {"model_set_context": "Likes moss."}, {})
    row = only(conversation(told, memory, ASKS, SAYS))
    assert row["prompt"] == [{"role": "system", "content": "I am X.\nBe brief.\nLikes moss."}, USER]


def test_a_thought_belongs_to_its_answer_and_never_to_a_user_or_the_response() -> None:
    analysis = ("assistant", "text", {"parts": ["so"]}, {"channel": "analysis"})
    row = only(conversation(ASKS, thinks("stopped"), ASKS, thinks("hm"), analysis, SAYS))
    assert (row["prompt"], row["response"], row["reasoning_content"]) == ([USER, USER], SAID, "hm\nso")
    assert row["_noted"] == ["left out: thoughts of answers that were stopped"]


def test_an_answer_of_chatgpt_that_was_stopped_is_not_finished_unless_it_goes_on() -> None:
    stopped = ("assistant", "text", {"parts": ["Yes, "]}, {"metadata": {"finish_details": {"type": "max_tokens"}}})
    assert only(conversation(ASKS, stopped))["finished"] is False
    row = only(conversation(ASKS, stopped, ("assistant", "text", {"parts": ["it is."]}, {})))
    assert (row["response"], "finished" in row) == (SAID, False)


def test_marks_of_chatgpts_interface_are_no_text_and_attachments_leave_out_the_row() -> None:
    said = 'Yes, \ue200entity\ue202["plant","it","moss"]\ue201 is. \ue200cite\ue202turn0search0\ue201【4†a】'
    row = only(conversation(ASKS, ("assistant", "text", {"parts": [said]}, {})))
    assert (row["response"], len(row["_noted"])) == (SAID, 1)
    asked = (*ASKS[:3], {"metadata": {"attachments": [{"name": "a.pdf"}]}})
    assert "file" in only(conversation(asked, SAYS))["_left_out"]


def test_what_a_tool_of_chatgpt_did_last_is_counted_and_empty_messages_are_none() -> None:
    empty = [("assistant", "text", {"parts": parts}, {}) for parts in (None, [], [""])]
    row = only(conversation(ASKS, *empty, SAYS, ASKS, ("tool", "multimodal_text", {"parts": [{}]}, {})))
    assert (row["response"], row["_noted"]) == (SAID, [BUILT_IN])


def test_a_conversation_of_claude_is_the_path_to_its_last_message() -> None:
    def turn(name: str, parent: str, sender: str, text: str) -> Record:
        content = [{"type": "token_budget"}, {"type": "text", "text": text}] if sender == "assistant" else []
        return {"uuid": name, "parent_message_uuid": parent, "sender": sender, "text": text, "content": content}

    turns = [turn("1", "0", "human", "Edited away"), turn("2", "1", "assistant", "No."),
             turn("3", "0", "human", USER["content"]), turn("4", "3", "assistant", SAID)]  # fmt: skip
    record = {"uuid": "k", "name": "no", "is_starred": False, "chat_messages": turns}
    row = only(record)
    assert (row["prompt"], row["response"], row["id"]) == ([USER], SAID, "k")
    assert "is_starred" not in row["scores"]
    assert only({**record, "current_leaf_message_uuid": "2"})["response"] == "No."
