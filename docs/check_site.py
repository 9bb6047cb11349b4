"""Open every page of the built site in a headless Chromium: ``python docs/check_site.py site``.

A page must load without a console error. Every formula must have some height, every picture must
show, and every internal link must lead to a page and a place that exist. No page may be wider than
the window, be it that of a computer or of a telephone. In the window of a computer, every table
must show all its columns. The script talks to the browser over two pipes with the DevTools
protocol, so that it needs nothing but Chromium.
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urldefrag

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (1280, 400)
"""Pixels of the window of a computer and of a telephone."""

LOOK = """(async () => {
  await document.fonts.ready;
  for (const image of document.images) {
    image.loading = 'eager';
    await image.decode().catch(() => 0);
  }
  const formulas = [...document.querySelectorAll('math')];
  return JSON.stringify({
    formulas: formulas.length,
    flat: formulas.filter(m => m.getBoundingClientRect().height < 4).map(m => m.textContent),
    left: [...document.querySelectorAll('article p, article li')].map(p => p.textContent)
      .filter(text => /\\$\\$|\\\\frac/.test(text)),
    pictures: document.images.length,
    missing: [...document.images].filter(i => i.naturalWidth === 0).map(i => i.src),
    links: [...document.links].map(a => a.href),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    cut: [...document.querySelectorAll('.table-wrapper')]
      .filter(box => box.scrollWidth > box.clientWidth + 1)
      .map(box => box.querySelector('th').textContent),
  });
})()"""

WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Browser:
    """A headless Chromium.

    Parameters
    ----------
    path : str
        Its executable.
    """

    def __init__(self, path: str) -> None:
        self._profile = tempfile.mkdtemp()
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def wire() -> None:  # DevTools reads from 3 and writes to 4
            high = [os.dup(fd) for fd in (to_browser, from_browser)]
            for fd, wanted in zip(high, (3, 4), strict=True):
                os.dup2(fd, wanted)

        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]
        options += [
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile}",
        ]
        self._process = subprocess.Popen(
            [path, *options, "about:blank"],
            close_fds=False,
            preexec_fn=wire,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._read, self._number = os.fdopen(self._in, "rb"), 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result, and keep other events in `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, method: str) -> None:
        """Wait for an event that has not been seen since the last `open`."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._message())

    def _message(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has ended")
            data += byte
        return json.loads(data)

    def open(self, url: str) -> dict[str, Any]:
        """Load a page; return what is on it.

        ``errors`` is what console and network said, and ``wide`` by how many pixels the page is
        wider than each window of WIDTHS.
        """
        self.events.clear()
        self.resize(WIDTHS[0])
        self.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired")
        found = json.loads(self.evaluate(LOOK))
        found["errors"] = list(self._errors())
        found["wide"] = {}
        for width in reversed(WIDTHS):
            self.resize(width)
            found["wide"][width] = self.evaluate(WIDE)
        return found

    def resize(self, width: int) -> None:
        """Give the window a width in pixels."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True)
        return answer["result"]["value"]

    def _errors(self) -> Iterator[str]:
        for event in self.events:
            method, told = event.get("method"), event.get("params", {})
            if method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                yield f"{told['entry']['text']} {told['entry'].get('url', '')}"
            elif method == "Runtime.exceptionThrown":
                yield told["exceptionDetails"]["text"]
            elif method == "Runtime.consoleAPICalled" and told["type"] in (
                "error",
                "warning",
                "assert",
            ):
                yield " ".join(str(argument.get("value")) for argument in told["args"])
            elif method == "Network.responseReceived" and told["response"]["status"] >= 400:
                yield f"{told['response']['status']} {told['response']['url']}"

    def picture(self) -> bytes:
        """Return a PNG of the whole page."""
        return base64.b64decode(
            self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        )

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._out)
        self._read.close()
        shutil.rmtree(self._profile, ignore_errors=True)


def problems(found: dict[str, dict[str, Any]], base: str) -> Iterator[str]:
    """Yield what is wrong with pages: what `Browser.open` returned, by their address."""
    for url, page in found.items():
        name = url.removeprefix(base)
        yield from (f"{name}: console: {error}" for error in page["errors"])
        yield from (f"{name}: formula not drawn: {text}" for text in page["flat"])
        yield from (f"{name}: formula left as text: {text[:80]}" for text in page["left"])
        yield from (f"{name}: picture does not show: {source}" for source in page["missing"])
        yield from (f"{name}: columns cut off: the table of {heading!r}" for heading in page["cut"])
        for width, more in page["wide"].items():
            if more > 0:
                yield f"{name}: {more} pixels wider than a window of {width}"
        for link in page["links"]:
            target, place = urldefrag(link)
            if not target.startswith(base) or target not in found:
                continue
            if place and unquote(place) not in found[target]["ids"]:
                yield f"{name}: links to {link.removeprefix(base)}, which has no such place"


def main() -> int:
    """Check all pages; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("site", type=pathlib.Path, help="folder that Sphinx wrote")
    parser.add_argument(
        "--pictures", type=pathlib.Path, help="save a screenshot of every page into this folder"
    )
    args = parser.parse_args()
    chromium = next((path for name in NAMES if (path := shutil.which(name))), None)
    if chromium is None:
        print("no Chromium found: apt install chromium")
        return 1

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(args.site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}/"
    browser, found, wrong = Browser(chromium), {}, []
    try:
        for path in sorted(args.site.rglob("*.html")):
            name = path.relative_to(args.site).as_posix()
            found[base + name] = browser.open(base + name)
            if args.pictures:
                args.pictures.mkdir(parents=True, exist_ok=True)
                (args.pictures / f"{path.stem}.png").write_bytes(browser.picture())
        linked = {urldefrag(link)[0] for page in found.values() for link in page["links"]}
        for link in sorted(linked):
            if (
                link.startswith(base)
                and not args.site.joinpath(
                    unquote(link.removeprefix(base)) or "index.html"
                ).exists()
            ):
                wrong.append(f"{link.removeprefix(base)}: linked to, but not there")
    finally:
        browser.close()
        server.shutdown()
    wrong += problems(found, base)
    print("\n".join(wrong), end="\n" * bool(wrong))
    sums = {key: sum(page[key] for page in found.values()) for key in ("formulas", "pictures")}
    drawn = f"{sums['formulas']} formulas, {sums['pictures']} pictures"
    print(f"{len(found)} pages, {drawn}, {len(wrong)} problems")
    return int(bool(wrong) or not sums["formulas"] or not sums["pictures"])


if __name__ == "__main__":
    sys.exit(main())
