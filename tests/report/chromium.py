"""A headless Chromium, driven through its debugging pipe: what tests of pages need of a browser."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

COMMAND = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --enable-unsafe-swiftshader --hide-scrollbars --remote-debugging-pipe"
)


class Browser:
    """One page at a time, with the errors that its console tells (its warnings are about the speed of drawing)."""

    def __init__(self, profile: Path) -> None:
        here, theirs, answers, ours = *os.pipe(), *os.pipe()
        script = f'exec "$0" {FLAGS} --user-data-dir="$1" 3<&{here} 4>&{ours} about:blank'
        shell = ["bash", "-c", script, str(COMMAND), str(profile)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(shell, pass_fds=(here, ours), **quiet)
        os.close(here)
        os.close(ours)
        self._to, self._from = theirs, answers
        self._number, self._rest = 0, b""
        self.said: list[str] = []
        self.fetched: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)
        self.process.terminate()
        self.process.wait(30)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._call(method, session=self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._rest += part
        line, self._rest = self._rest.split(b"\0", 1)
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        name, of = event.get("method"), event.get("params", {})
        if name == "Runtime.consoleAPICalled" and of["type"] in ("error", "assert"):
            self.said.append(" ".join(str(each.get("value", each.get("description"))) for each in of["args"]))
        elif name == "Runtime.exceptionThrown":
            self.said.append(json.dumps(of["exceptionDetails"])[:500])
        elif name == "Log.entryAdded" and of["entry"]["level"] == "error":
            self.said.append(of["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.fetched.append(of["request"]["url"])

    def open(self, page: Path, width: int = 1440, height: int = 1000, dark: bool = False) -> None:
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.said.clear()
        self.fetched.clear()
        self.call("Page.navigate", url=page.as_uri())
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} is not true after {timeout_s} s; the console: {self.said}")
            time.sleep(0.1)

    def picture(self, path: Path, whole: bool = False) -> None:
        """Saves what is seen, or the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
