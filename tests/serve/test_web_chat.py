"""The page to chat with, in a real browser."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.places import ROOT
from tests.helpers.servers import WHY_NOT, Server
from tests.helpers.talkers import ANSWER, LOOP, THOUGHT, write_talker

sys.path.insert(0, str(ROOT / "docs"))
import check_site

CHROMIUM = next((path for name in check_site.NAMES if (path := shutil.which(name))), None)
REASON = WHY_NOT or ("" if CHROMIUM else "no browser: apt install chromium")
if REASON and os.environ.get("CI_CHROMIUM") == "required":
    raise RuntimeError(REASON)
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

PAGE = ROOT / "examples" / "web_chat.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a browser."""
    assert CHROMIUM
    started = check_site.Browser(CHROMIUM)
    yield started
    started.close()


def look(browser: Any, expression: str) -> Any:
    """Return what an expression is on the page."""
    answer = browser.call("Runtime.evaluate", expression=expression, awaitPromise=True)
    assert "exceptionDetails" not in answer, answer["exceptionDetails"]
    return answer["result"].get("value")


def wait(browser: Any, expression: str, seconds: float = 60) -> None:
    """Wait until an expression is true on the page."""
    end = time.monotonic() + seconds
    while not look(browser, expression):
        assert time.monotonic() < end, f"never: {expression}; {look(browser, TEXTS)}"
        time.sleep(0.05)


TEXTS = "[...document.querySelectorAll('article')].map(a => a.className + ': ' + a.textContent)"
TEXTS += ".join('\\n')"
IS_DONE = "!document.getElementById('send').hidden"


def say(browser: Any, text: str) -> None:
    """Write something and press Enter."""
    look(browser, f"document.getElementById('text').value = {text!r}; {FOCUS}")
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        browser.call("Input.dispatchKeyEvent", type=kind, **key)


FOCUS = "document.getElementById('text').focus()"


def test_a_chat_in_a_browser(browser: Any) -> None:
    with Server("--page", str(PAGE)) as server:
        found = browser.open(server.url.removesuffix("v1"))
        assert found["errors"] == [] and max(found["wide"].values()) <= 0
        look(browser, "document.getElementById('temperature').value = '0'")
        say(browser, "turn left")
        wait(browser, f"{IS_DONE} && {TEXTS}.includes('turn(90)')")
        say(browser, "<b>Hello</b>")
        wait(browser, f"{IS_DONE} && document.querySelectorAll('.assistant').length === 2")
        assert look(browser, TEXTS).startswith(
            "user: turn left\nassistant: turn(90)\nuser: <b>Hello</b>\nassistant: "
        )
        assert look(browser, "document.querySelectorAll('main b').length") == 0
        said = [event for event in browser.events if event["method"].startswith("Log.")]
        assert [one for one in said if one["params"]["entry"]["level"] != "verbose"] == []
        assert "Runtime.exceptionThrown" not in {event["method"] for event in browser.events}


def test_an_answer_is_stopped_and_an_error_is_shown(browser: Any, tmp_path: pathlib.Path) -> None:
    model = write_talker(tmp_path / "m.trwkv", LOOP, template="robot")
    with Server(model, "--page", str(PAGE), "--max-tokens", "100000000") as server:
        browser.open(server.url.removesuffix("v1"))
        ask = "window.fetch = ((f) => (u, o) => f(u, o && o.body ? {...o, body: o.body.replace("
        look(browser, ask + "'{', '{\"max_tokens\": 100000000, ')} : o))(window.fetch); 1")
        say(browser, "go")
        wait(browser, f"{TEXTS}.includes('so on and so')")
        look(browser, "document.getElementById('stop').click()")
        wait(browser, IS_DONE)
        create = server.client().chat.completions.create
        told = create(model="m", messages=[{"role": "user", "content": "a"}], max_tokens=1)
        assert told.usage.completion_tokens == 1
        look(browser, "document.getElementById('temperature').value = '-1'")
        say(browser, "again")
        wait(browser, "document.querySelector('.error') !== null")
        assert "emperature" in look(browser, "document.querySelector('.error').textContent")
        assert look(browser, "document.getElementById('text').value") == "again"


def test_a_thought_is_dimmed_and_folded(browser: Any, tmp_path: pathlib.Path) -> None:
    model = write_talker(tmp_path / "m.trwkv", THOUGHT, ANSWER, template="think")
    with Server(model, "--page", str(PAGE)) as server:
        browser.open(server.url.removesuffix("v1"))
        look(browser, "document.getElementById('temperature').value = '0'")
        say(browser, "price?")
        wait(browser, f"{IS_DONE} && document.querySelector('.thought') !== null")
        assert look(browser, TEXTS).endswith("assistant: ThoughtA café may be.€5. Yes")
        thought = "document.querySelector('.thought')"
        assert not look(browser, f"{thought}.open")
        assert float(look(browser, f"getComputedStyle({thought}).opacity")) < 1
        look(browser, f"{thought}.firstChild.click()")
        assert look(browser, f"{thought}.lastChild.getBoundingClientRect().height") > 0
        assert look(browser, "JSON.stringify(messages.at(-1))") == (
            '{"role":"assistant","content":"€5. Yes"}'
        )


def test_the_file_itself_asks_a_server_that_lets_it(browser: Any) -> None:
    with Server("--cors", "null") as server:
        browser.open(PAGE.as_uri())
        origin = server.url.removesuffix("/v1")
        look(browser, f"document.getElementById('url').value = {origin!r}")
        look(browser, "document.getElementById('temperature').value = '0'")
        say(browser, "turn left")
        wait(browser, f"{IS_DONE} && {TEXTS}.includes('turn(90)')")
