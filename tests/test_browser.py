"""The page in a real headless browser: sliders, streamed text, bars, and text that stays text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from conftest import HANG, Served, dawdling, serving, until
from test_serve_families import policy_of, writing

from steer.models.policy import Policy, load_policy

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: the page is tested where it is")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = HANG * 1000  # Playwright counts milliseconds
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium: the page is tested where there is a browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        found = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=WAIT)
        yield found
        found.close()


def opened(browser: Any, **more: Any) -> Any:
    """An empty page that waits for what it is asked for."""
    page = browser.new_page(**more)
    page.set_default_timeout(WAIT)
    return page


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """The page, ready; it must not have tried to load anything from elsewhere, nor said an error."""
    found = opened(browser, viewport={"width": 1180, "height": 900})
    foreign: list[str] = []
    errors: list[str] = []
    found.on("request", lambda r: foreign.append(r.url) if not r.url.startswith((served.url, "data:")) else None)
    found.on("pageerror", lambda e: errors.append(str(e)))
    found.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    found.goto(served.url)
    found.wait_for_selector("#status.ready")
    yield found
    found.close()
    assert not foreign
    assert not errors


def generate(page: Any, prompt: str) -> list[str]:
    """Press Ctrl+Enter and wait until both panes are done and scored; their texts."""
    page.fill("#prompt", prompt)
    before = page.evaluate("past.length")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("n => past.length > n && !running", arg=before)
    return list(page.locator(".text").all_text_contents())


def obtained(page: Any, pane: str, name: str) -> float:
    """What the bar of an attribute says."""
    meter = page.locator(f".pane.{pane} .meter[aria-label='{name} obtained']")
    assert meter.is_visible()
    return float(meter.evaluate("e => e.ariaValueNow"))


def test_a_slider_is_moved_and_the_obtained_bar_moves(page: Any, served: Any) -> None:
    slider = page.get_by_label("verbosity, target B", exact=True)
    found = {}
    for level in (0, 4):
        slider.focus()  # by keyboard, as everything here
        page.keyboard.press("Home")
        for _ in range(level):
            page.keyboard.press("ArrowRight")
        assert page.locator("#B-verbosity").is_checked()
        assert slider.get_attribute("aria-valuetext") == f"level {level}"
        page.evaluate(f"document.getElementById('seed').value = {level}")
        prompt = "tell me about bees and cows for my song."
        row = {"prompt": [{"role": "user", "content": prompt}], "response": generate(page, prompt)[1]}
        exact = served.service.scorer.score([row], ["verbosity"])[0, 0]
        found[level] = obtained(page, "b", "verbosity")
        assert found[level] == pytest.approx(float(served.service.schema["verbosity"].position(exact)))
    assert found[4] != found[0]
    assert "tokens" in page.locator(".pane.b .facts").inner_text()


def test_unsupported_combinations_are_greyed_and_the_nearest_is_offered(page: Any) -> None:
    pane = page.locator(".pane.a")
    pane.get_by_role("button", name="None").click()
    for name, key in (("helpfulness", "End"), ("warmth", "Home")):
        page.get_by_label(f"{name}, target A", exact=True).focus()
        page.keyboard.press(key)
    page.fill("#prompt", "x")
    assert "too few to be learned" in pane.locator(".note").inner_text()
    assert pane.locator(".scale b.no").count() > 0
    assert page.locator("#go").is_disabled()
    pane.locator(".note button").click()
    assert "Seen together in" in pane.locator(".note").inner_text()
    assert page.locator("#go").is_enabled()


def test_html_in_prompts_and_responses_is_shown_as_text(page: Any) -> None:
    evil = "<img src=x onerror=\"document.title='gone'\"><script>document.title='gone'</script>"
    generate(page, evil)
    page.evaluate(
        "t => { panes[0].text.textContent = ''; panes[0].text.append(t); past[0].answers[0].text = t; remember(); }",
        evil,
    )
    page.locator("#history summary").click()
    entry = page.locator("#past button").first
    assert entry.locator(".what").inner_text().startswith("<img src=x")
    entry.click()
    assert page.locator(".text").first.inner_text() == evil
    assert page.locator("#page img, #page script").count() == 0
    assert page.title() == "steer · policy"


def test_history_outlives_a_reload_and_curl_is_what_was_asked(page: Any, served: Served) -> None:
    texts = generate(page, "it's about bees")
    page.reload()
    page.wait_for_selector("#status.ready")
    page.locator("#history summary").click()
    page.locator("#past button").first.click()
    assert list(page.locator(".text").all_text_contents()) == texts
    command = page.evaluate("panes[0].curl()")
    assert command.startswith(f"curl {served.url}/v1/chat/completions ")
    body = json.loads(command.partition("-d '")[2][:-1].replace("'\\''", "'"))
    assert body["messages"] == [{"role": "user", "content": "it's about bees"}]
    assert body["targets"] == page.evaluate("worded(panes[0].target)")


def test_what_is_copied_gives_what_is_shown(page: Any, served: Served) -> None:
    shown = generate(page, "tell me about bees")
    for i, text in enumerate(shown):
        body = page.evaluate(f"panes[{i}].curl()").partition("-d '")[2][:-1]
        request = Request(f"{served.url}/v1/chat/completions", body.encode(), {"Content-Type": "application/json"})
        with urlopen(request) as answer:
            assert json.load(answer)["choices"][0]["message"]["content"] == text


def test_a_key_is_asked_for_and_a_server_that_has_gone_is_told(browser: Any, policy: Policy) -> None:
    found = opened(browser)
    with serving(policy, api_key="s3cret", max_new_tokens=5) as locked:
        found.goto(locked.url)
        found.wait_for_selector("#locked:not([hidden])")
        for key, told in (("wrong", "the API key is missing or wrong."), ("s3cret", "ready")):
            found.fill("#key", key)
            found.keyboard.press("Enter")
            found.wait_for_function("t => document.getElementById('status').textContent === t", arg=told)
        assert not found.locator("#locked").is_visible()
        found.evaluate("document.getElementById('temperature').value = '0'")  # by chance a drawn one is empty
        assert all(generate(found, "bees"))
    assert set(generate(found, "bees")) == {"The server does not answer. Is it still running?"}
    found.close()


def test_a_model_without_attributes_has_one_pane(browser: Any, tiny: Path) -> None:
    found = opened(browser)
    with serving(load_policy(str(tiny)), max_new_tokens=5) as plain:
        found.goto(plain.url)
        found.wait_for_selector("#status.ready")
        assert len(generate(found, "bees")) == found.locator(".pane").count() == 1
        assert found.locator(".note").inner_text() == "This model was not conditioned on attributes."
    found.close()


def test_escape_stops_and_frees_the_rows(browser: Any, tiny: Path) -> None:
    found = opened(browser)
    with serving(load_policy(str(tiny)), max_new_tokens=480) as endless:  # a random model hardly ever ends by itself
        found.goto(endless.url)
        found.wait_for_selector("#status.ready")
        found.evaluate("document.getElementById('seed').value = '1'")  # by chance a drawn one ends at once
        found.fill("#prompt", "bees")
        with dawdling(endless.service.engine):
            found.keyboard.press("Control+Enter")
            found.wait_for_function("() => panes[0].text.textContent.length > 20")
            found.keyboard.press("Escape")
            found.wait_for_function("() => !running")
            assert found.locator(".facts").inner_text() == "stopped"
            until(lambda: endless.service.engine.running == 0)
        assert endless.service.engine.tokens < 400
    found.close()


def test_a_narrow_screen_shows_the_panes_one_under_the_other(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    a, b = (page.locator(f".pane.{x}").bounding_box() for x in "ab")
    assert a["x"] == b["x"]
    assert a["y"] + a["height"] <= b["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_thought_is_shown_apart_and_folded(browser: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(browser)
    reasoning = found.locator(".thought")
    with serving(policy_of("thinking, optional", tiny, "learn"), max_new_tokens=5) as thinker:
        found.goto(thinker.url)
        found.wait_for_selector("#status.ready")
        assert not reasoning.is_visible()
        writing(thinker, "<think>\nhm <b>hm</b>\n</think>\n\nRed.", monkeypatch)
        assert generate(found, "bees") == ["Red."]
        assert not reasoning.locator("div").is_visible()
        reasoning.locator("summary").click()
        assert reasoning.locator("div").inner_text() == "hm <b>hm</b>"
        writing(thinker, "<think>\nhm", monkeypatch, ended="length")
        assert generate(found, "bees") == [""]
        assert found.locator(".facts").inner_text().endswith(", cut off while it reasoned")
        found.locator("#history summary").click()
        found.locator("#past button").last.click()
        assert reasoning.locator("div").inner_text() == "hm <b>hm</b>"
        writing(thinker, "<think>\n\n</think>\n\nRed.", monkeypatch)
        assert generate(found, "bees") == ["Red."]
        assert not reasoning.is_visible()
    found.close()
