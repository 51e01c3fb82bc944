"""A browser by raw WebDriver: what the tests of the pages need of it, in the standard library only."""

import base64
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Shift": "\ue008", "Control": "\ue009", "Escape": "\ue00c", "Home": "\ue011",
        "ArrowDown": "\ue015", "End": "\ue010"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Browser:
    """One headless Chromium with a profile of its own."""

    def __init__(self):
        port = free_port()
        # Chromium leaves what it did not get to remove; it goes with this.
        self.directory = tempfile.TemporaryDirectory(prefix="sandboxd-pages-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        env={**os.environ, "TMPDIR": self.directory.name})
        self.url = f"http://127.0.0.1:{port}"
        self.session = ""
        options = {
            # Root's browser has no sandbox of its own; the pages are ours.
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,860",
                     "--no-first-run", "--disable-extensions", "--disable-background-networking"],
        }
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        deadline = time.monotonic() + 60
        while True:
            try:
                value = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
                break
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.1)
        self.session = f"/session/{value['sessionId']}"
        self.call("POST", f"{self.session}/timeouts", {"script": 60_000, "pageLoad": 60_000})

    def close(self):
        try:
            if self.session:
                self.call("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.wait()
            self.directory.cleanup()

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {json.load(error)['value']['message']}") from None

    def open(self, url):
        self.call("POST", f"{self.session}/url", {"url": url})

    def script(self, text, *arguments):
        """The value of `return …`, in the page."""
        return self.call("POST", f"{self.session}/execute/sync", {"script": text, "args": list(arguments)})

    def find(self, selector):
        return self.call("POST", f"{self.session}/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.call("POST", f"{self.session}/element/{self.find(selector)}/click", {})

    def clear(self, selector):
        self.call("POST", f"{self.session}/element/{self.find(selector)}/clear", {})

    def keys(self, *names):
        """Presses keys where the focus is: texts as they are; `Control+Enter` is a chord."""
        actions = []
        for name in names:
            parts = name.split("+") if name != "+" and all(part in KEYS or len(part) == 1 for part in name.split("+")) else None
            sequence = [KEYS.get(part, part) for part in parts] if parts and len(parts) > 1 else None
            if sequence:
                actions += [{"type": "keyDown", "value": key} for key in sequence]
                actions += [{"type": "keyUp", "value": key} for key in reversed(sequence)]
                continue
            for key in [KEYS[name]] if name in KEYS else name:
                actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self.call("POST", f"{self.session}/actions", {"actions": [source]})

    def set(self, selector, text):
        """Puts text into a field at once, as a paste would."""
        self.script("const [s, t] = arguments; const e = document.querySelector(s); e.focus(); e.value = t;"
                    "e.dispatchEvent(new Event('input', {bubbles: true}));", selector, text)

    def text(self, selector):
        """What a reader sees of it."""
        return self.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def focus(self):
        return self.script("return document.activeElement.id || document.activeElement.textContent.trim() || document.activeElement.tagName")

    def wait(self, condition, what, seconds=15):
        """Waits until a function or a script's expression holds, and gives its value."""
        deadline = time.monotonic() + seconds
        while True:
            value = condition() if callable(condition) else self.script(f"return {condition}")
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s for: {what}")
            time.sleep(0.05)

    def cdp(self, command, **parameters):
        return self.call("POST", f"{self.session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width, height, touch=False):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)

    def scheme(self, name):
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def offline(self, offline):
        self.cdp("Network.enable")
        self.cdp("Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1)

    def complaints(self):
        """What the console got since the last call: errors of scripts, of the policy, of resources."""
        entries = self.call("POST", f"{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", f"{self.session}/screenshot")))
