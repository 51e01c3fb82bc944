"""PyPI's pistonpy against a service: check.py BASE.

The client knows one server only, which is gone; so its requests are sent to the same paths of BASE, as they are.
"""

import sys
from urllib.parse import urlsplit

import requests

base = sys.argv[1]
send = requests.request


def send_here(method: str, url: str, **rest: object) -> requests.Response:
    return send(method, base + urlsplit(url).path, timeout=60, **rest)


requests.request = send_here

from pistonpy import PistonApp  # noqa: E402 (after the address is changed)
from pistonpy.exceptions import PistonError  # noqa: E402

app = PistonApp()

assert "python" in app.languages, app.languages
assert "py" in app.aliases["python"], app.aliases

answer = app.run(language="python", code="import sys\nprint(input()[::-1], sys.argv[1:])", input="!dlrow", args=["a b"])
assert answer["run"]["stdout"] == "world! ['a b']\n", answer
assert answer["run"]["code"] == 0 and "compile" not in answer, answer

answer = app.run(language="python", code="import sys\nprint('no', file=sys.stderr)\nsys.exit(3)")
assert answer["run"]["code"] == 3 and answer["run"]["stderr"] == "no\n", answer

answer = app.run(language="c", code="int main(void) { return nothing; }")
assert answer["compile"]["code"] == 1 and "nothing" in answer["compile"]["stderr"], answer
assert answer["run"]["code"] == 1, answer

try:
    raise AssertionError(app.run(language="no-such-language", version="1.0.0", code="x"))
except PistonError as error:
    assert str(error) == "no-such-language-1.0.0 runtime is unknown", error

print("ok: pistonpy")
