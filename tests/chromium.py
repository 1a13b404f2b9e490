"""A headless Chromium, driven over a pipe by its DevTools protocol: what a page asks for, and what it complains of."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_SECONDS = 60.0


def find_chromium() -> str | None:
    """Return the path of an installed Chromium."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


@dataclass
class Visit:
    """What came of loading a page."""

    requests: list[str] = field(default_factory=list)
    """Of all that was asked for beside the page itself, the address."""
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings: of the console, exceptions, what the page's own policy forbade."""


class Chromium:
    """A browser process with one tab; as a context it ends with the block."""

    def __init__(self, executable: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        their_input, self._output = os.pipe()
        self._input, their_output = os.pipe()
        # Its sandbox needs privileges that containers lack; the pages are our own.
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        arguments += ["--disable-background-networking", f"--user-data-dir={self._profile.name}"]
        # It reads commands from descriptor 3 and answers on 4.
        on_pipes = f'exec "$@" --remote-debugging-pipe 3<&{their_input} 4>&{their_output}'
        self._process = subprocess.Popen(
            ["bash", "-c", on_pipes, "bash", executable, *arguments],
            pass_fds=(their_input, their_output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_input)
        os.close(their_output)
        self._unread = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The end of its commands ends it.
        os.close(self._output)
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._input)
        self._profile.cleanup()

    def visit(self, page: Path) -> Visit:
        """Load a file and wait until nothing is under way any more."""
        address = page.absolute().as_uri()
        self._events.clear()
        loader = self.send("Page.navigate", url=address)["loaderId"]
        while not any(_is_idle(event, loader) for event in self._events):
            self._events.append(self._read())
        visit = Visit()
        for event in self._events:
            method, details = event.get("method"), event.get("params", {})
            if method == "Network.requestWillBeSent" and details["request"]["url"] != address:
                visit.requests.append(details["request"]["url"])
            elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
                visit.complaints.append(json.dumps(details["args"]))
            elif method == "Runtime.exceptionThrown":
                visit.complaints.append(json.dumps(details["exceptionDetails"]))
            elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
                visit.complaints.append(details["entry"]["text"])
        return visit

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def look(self, *, width: int, height: int = 900, is_dark: bool = False) -> None:
        """Set the size of the window, in CSS pixels, and the colours that the reader prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """Return the whole page as PNG."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def print_pdf(self) -> bytes:
        """Return the page as it is printed."""
        answer = self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(answer["data"])

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a command; events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._output, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self._unread:
            readable, _, _ = select.select([self._input], [], [], max(0.0, give_up_at - time.monotonic()))
            assert readable, "Chromium does not answer"
            some = os.read(self._input, 1 << 20)
            assert some, "Chromium ended"
            self._unread += some
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


def _is_idle(event: dict[str, Any], loader: str) -> bool:
    details = event.get("params", {})
    is_ours = event.get("method") == "Page.lifecycleEvent" and details.get("loaderId") == loader
    return is_ours and details.get("name") == "networkIdle"
