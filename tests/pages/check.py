"""Tries the pages in a headless Chromium: check.py --pages URL | --base URL [--screenshots DIR] [TEST…]

--pages: where the pages are served from; the API behind them is the stand-in of mock.py, and everything is tried.
--base: a real service with its own pages and API; what only the stand-in can be told to do is left out, by name.
"""

import argparse
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
import traceback
import urllib.parse
import urllib.request

import mock
from webdriver import Browser, free_port

TESTS = []
MOCKED = set()


def test(function):
    TESTS.append(function)
    return function


def mocked(function):
    """A test that needs the stand-in to misbehave on purpose."""
    MOCKED.add(function.__name__)
    return test(function)


class Page:
    """The browser at one server."""

    def __init__(self, browser, base, screenshots):
        self.browser, self.base, self.screenshots = browser, base, screenshots
        self.expected = 0

    def mock(self, **state):
        request = urllib.request.Request(f"{self.base}/mock", json.dumps(state).encode(), method="POST")
        urllib.request.urlopen(request).read()

    def state(self):
        return json.load(urllib.request.urlopen(f"{self.base}/mock"))

    def play(self, address="/play", language="python"):
        self.browser.open("about:blank")
        self.browser.open(self.base + "/pages/icon.svg")
        self.browser.script("sessionStorage.clear(); localStorage.clear()")
        self.browser.open(self.base + address)
        self.browser.wait("!document.getElementById('language').disabled", "the language list")
        if language:
            self.choose(language)

    def choose(self, language):
        self.browser.script("const s = document.getElementById('language'); s.value = arguments[0];"
                            "s.dispatchEvent(new Event('change', {bubbles: true}))", language)

    def run(self, code, seconds=20):
        self.browser.set("#code", code)
        self.browser.click("#run")
        self.finished(seconds)

    def finished(self, seconds=20):
        self.browser.wait("document.getElementById('stop').disabled", "the end of the run", seconds)
        # The output is put on the page in an animation frame.
        self.browser.script("return new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(1))))")

    def output(self):
        return self.browser.script("return document.getElementById('text').textContent")

    def verdict(self):
        return self.browser.text("#verdict")

    def stream(self, name):
        return self.browser.script("return [...document.querySelectorAll(`#text .${arguments[0]}`)].map(e => e.textContent).join('')", name)

    def shot(self, name):
        # Colours take a moment to change.
        time.sleep(0.2)
        self.browser.screenshot(self.screenshots / f"{name}.png")

    def no_scroll(self):
        wide = self.browser.script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], f"the page is {wide[0]} wide in a window of {wide[1]}"


def same(actual, expected):
    assert actual == expected, f"{actual!r} is not {expected!r}"


def within(part, whole):
    assert part in whole, f"{part!r} is not in {whole!r}"


@test
def a_program_runs_with_input_and_arguments_and_its_streams_stay_apart(page):
    page.play()
    page.browser.set("#stdin", "Ada\n")
    page.browser.set("#args", "one 'two words' \"a \\\"b\\\"\" c\\ d")
    page.run("import sys\nprint('out', input(), sys.argv[1:])\nprint('err', file=sys.stderr)")
    same(page.stream("stdout"), "out Ada ['one', 'two words', 'a \"b\"', 'c d']\n")
    same(page.stream("stderr"), "err\n")
    within("Finished", page.verdict())
    within("Wall time", page.verdict())
    assert page.browser.script("return getComputedStyle(document.querySelector('#text .stderr')).color") != \
        page.browser.script("return getComputedStyle(document.querySelector('#text .stdout')).color")
    page.browser.click("[name=show][value=stderr]")
    same(page.browser.text("#text").strip(), "err")
    page.browser.click("[name=show][value=stdout]")
    within("out Ada", page.browser.text("#text"))
    assert "err" not in page.browser.text("#text")


@test
def output_comes_while_the_program_runs_and_stop_ends_it(page):
    page.play()
    page.browser.set("#code", "import time\nprint('first')\ntime.sleep(9)\nprint('last')")
    page.browser.click("#run")
    page.browser.wait(lambda: "first" in page.output(), "the first line")
    assert not page.browser.script("return document.getElementById('stop').disabled"), "it still runs"
    within("Running", page.verdict())
    started = time.monotonic()
    page.browser.click("#stop")
    page.finished()
    assert time.monotonic() - started < 3
    within("Stopped", page.verdict())
    assert "last" not in page.output()


@test
def escape_stops_and_the_verdict_names_the_limit_that_was_hit(page):
    page.play()
    page.browser.set("#code", "import time\ntime.sleep(9)")
    page.browser.keys("Control+Enter")
    page.browser.wait(lambda: "Running" in page.verdict(), "the run")
    page.browser.keys("Escape")
    page.finished()
    within("Stopped", page.verdict())
    page.browser.click(".limits summary")
    page.browser.set("[data-limit=wall_time_ms]", "0.5")
    page.run("import time\ntime.sleep(9)")
    within("Time limit", page.verdict())
    within("Limit of wall time: 500 ms. Measured: ", page.verdict())
    within("sandboxd ended the program", page.verdict())
    page.browser.set("[data-limit=wall_time_ms]", "soon")
    page.browser.click("#run")
    within("is not a number above 0", page.verdict())
    same(page.browser.script("return document.activeElement.dataset.limit"), "wall_time_ms")


@test
def what_a_program_writes_stays_text(page):
    page.play()
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    page.run(f"print({attack!r})\nprint('\\x1b[31mred\\x1b[0m \\x1b[2J\\x1b]0;title\\x07 \\u202eabc \\x00')\n"
             "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe bytes\\n')")
    within(attack, page.output())
    same(page.browser.script("return document.querySelectorAll('#output img, #output script').length"), 0)
    same(page.browser.script("return document.querySelector('.ansi-red').textContent"), "red")
    within("^[[2J", page.output())
    within("<U+202E>abc ^@", page.output())
    within("\ufffd\ufffd bytes", page.output())
    assert "owned" not in page.browser.script("return document.title")


@mocked
def hostile_words_in_verdicts_languages_and_files_stay_text_too(page):
    attack = "<img src=x onerror=alert(1)>"
    page.play()
    page.mock(answer={"status": "syscall_denied", "message": attack, "exit_code": None, "signal": attack,
                      "evidence": {"limit": {"name": attack, "value": 1, "measured": 2}, "oom_kills": 0, "process_limit_hits": 0,
                                   "killed_by": attack, "denied_syscalls": [{"name": attack, "count": 2}]},
                      "files_out": [{"name": attack, "bytes": 1, "content": "eA==", "encoding": "base64"}]})
    page.run("pass")
    within(attack, page.verdict())
    same(page.browser.script("return document.querySelectorAll('#verdict img, #files img').length"), 0)


@test
def a_link_holds_the_program(page):
    page.play()
    code = "print('gr\u00fc\u00dfe \U0001f600', input())\n" * 50
    page.browser.set("#code", code)
    page.browser.set("#stdin", "<&\"'\n")
    page.browser.set("#args", "a b")
    page.browser.click("#share")
    page.browser.wait("location.hash.startsWith('#program=')", "the link")
    page.browser.wait(lambda: page.browser.text("#note"), "a word about the link")
    address = page.browser.script("return location.href")
    assert len(address) < 400, f"{len(address)} characters"
    page.browser.open("about:blank")
    page.browser.open(page.base + "/pages/icon.svg")
    page.browser.script("sessionStorage.clear()")
    page.browser.open(address)
    page.browser.wait("document.getElementById('code').value.length > 0", "the program of the link")
    same(page.browser.script("return ['code', 'stdin', 'args', 'language'].map(id => document.getElementById(id).value)"),
         [code, "<&\"'\n", "a b", "python"])
    same(page.output(), "")
    # What a browser without compression makes can be read too, and a damaged link is said to be one.
    plain = page.browser.script(
        "const save = CompressionStream; delete window.CompressionStream;"
        "return import('/pages/share.js').then(async share => {"
        "  const text = await share.encode({language: 'bash', code: 'echo hi'}); window.CompressionStream = save;"
        "  return [text, await share.decode(text), await share.decode('#program=AAAA').catch(e => 'damaged')] })")
    assert plain[0].startswith("#plain=") and plain[1:] == [{"language": "bash", "code": "echo hi"}, "damaged"], plain
    page.browser.script("location.hash = '#program=AAAA'")
    page.browser.wait(lambda: "damaged" in page.browser.text("#note"), "a word about the damage")


@test
def the_editor_indents_and_can_be_left_by_keyboard(page):
    page.play()
    browser = page.browser
    browser.set("#code", "")
    browser.keys("def f(x):", "Enter", "return x", "Enter", "Shift+Tab", "f(1)")
    value = "return document.getElementById('code').value"
    same(browser.script(value), "def f(x):\n    return x\nf(1)")
    same(browser.text(".gutter"), "1\n2\n3")
    browser.keys("Control+a", "Tab")
    same(browser.script(value), "    def f(x):\n        return x\n    f(1)")
    browser.keys("Shift+Tab")
    same(browser.script(value), "def f(x):\n    return x\nf(1)")
    browser.keys("Control+z")
    same(browser.script(value), "    def f(x):\n        return x\n    f(1)")
    same(browser.focus(), "code")
    browser.set("#code", "x" * 400)
    browser.keys("Home", "End")
    assert browser.script("return document.getElementById('editor').scrollLeft") > 1000, "the caret is in view"
    browser.keys("Home")
    same(browser.script("return document.getElementById('editor').scrollLeft"), 0)
    browser.set("#code", "def f(x):\n    return x\nf(1)")
    browser.keys("Escape", "Tab")
    same(browser.focus(), "stdin")
    browser.keys("Shift+Tab")
    same(browser.focus(), "code")


@test
def colours_follow_the_language(page):
    page.play(language=None)

    def kinds(language, text):
        return page.browser.script("""
            const [language, text] = arguments;
            return import('/pages/highlight.js').then(({ paint }) => {
              const pieces = paint(text, language);
              if (pieces.map(p => p.textContent ?? p).join('') !== text) throw new Error('the text was changed');
              return pieces.filter(p => p.className).map(p => `${p.className}:${p.textContent}`) })""", language, text)

    same(kinds("python", 'x = f"""a\n\'b""" # c "d"\nif y1: 0x1F'),
         ['string:f"""a\n\'b"""', 'comment:# c "d"', "word:if", "number:0x1F"])
    same(kinds("python", "print('open\nreturn 1"), ["string:'open", "word:return", "number:1"])
    same(kinds("javascript", "const r = /[\"/]'/g; a / b / c // 'd'\n`x\n${y}`"),
         ["word:const", "string:/[\"/]'/g", "comment:// 'd'", "string:`x\n${y}`"])
    same(kinds("cpp", '#include <x>\nauto s = R"q(")" // no)q"; /* a\nb */ int n = 1\'000;'),
         ["meta:#include", "word:auto", 'string:R"q(")" // no)q"', "comment:/* a\nb */", "word:int", "number:1'000"])
    same(kinds("bash", "echo $# ${#a} a#b \\' # it's\ncat <<'END'\nit's\nEND\nif true"),
         ["comment:# it's", "string:<<'END'\nit's\nEND", "word:if"])
    same(kinds("cobol", "if 'x'"), [])
    for language in ("python", "bash", "cpp", "c", "javascript", "typescript"):
        started = time.monotonic()
        for hostile in ("'" * 20000, "/*" * 10000, '"\\' * 10000, "<<A\n" * 4000, 'R"(' * 9000, "`" * 20001, "/[" * 9000, "\t" * 20000):
            kinds(language, hostile)
        assert time.monotonic() - started < 8, f"{language}: colours took {time.monotonic() - started:.1f} s"


@test
def everything_can_be_done_by_keyboard(page):
    page.play(language=None)
    browser = page.browser
    browser.script("document.activeElement.blur()")
    seen = []
    for _ in range(30):
        browser.keys("Tab")
        if browser.focus() == "code":
            browser.keys("Escape")
        seen.append(browser.focus())
        if browser.focus() in ("stop", "download"):
            raise AssertionError("a disabled button has the focus")
        outline = browser.script("""
            const e = document.activeElement;
            const box = e.id === 'code' ? document.getElementById('editor') : e.name === 'show' ? e.nextElementSibling : e;
            return getComputedStyle(box).outlineStyle + getComputedStyle(box).outlineWidth""")
        assert e_visible(outline), f"no focus to be seen at {browser.focus()}: {outline}"
        if browser.focus() == "verdict":
            break
    for wanted in ("language", "sample", "share", "run", "code", "stdin", "args", "interactive", "output", "verdict"):
        within(wanted, seen)
    browser.script("document.getElementById('code').focus()")
    browser.keys("Control+a", "print(6 * 7)", "Control+Enter")
    browser.wait(lambda: "42" in page.output(), "the output")
    names = browser.script("""
        return [...document.querySelectorAll('button, input, select, textarea')].filter(e =>
          !e.closest('[hidden]') && !e.labels?.length && !e.ariaLabel && !e.textContent.trim()).map(e => e.outerHTML)""")
    same(names, [])


def e_visible(outline):
    return not outline.startswith("none") and not outline.endswith("0px")


@test
def one_can_type_into_a_running_program(page):
    page.play()
    browser = page.browser
    browser.click("#interactive")
    browser.set("#stdin", "")
    browser.set("#code", "name = input('Name? ')\nprint('Hello,', name)\nimport sys\nprint(len(sys.stdin.read()), 'more')")
    browser.click("#run")
    browser.wait(lambda: "Name?" in page.output(), "the question")
    same(browser.focus(), "line")
    browser.keys("Ada", "Enter")
    browser.wait(lambda: "Hello, Ada" in page.output(), "the answer")
    browser.keys("xyz", "Enter")
    page.shot("interactive")
    browser.keys("Control+d")
    browser.wait(lambda: "4 more" in page.output(), "the end of the input")
    page.finished()
    within("Finished", page.verdict())
    page.browser.set("#code", "import time\ntry:\n    print('wait')\n    time.sleep(9)\nexcept KeyboardInterrupt:\n    print('interrupted')")
    browser.click("#run")
    browser.wait(lambda: "wait" in page.output(), "the start")
    browser.click("#interrupt")
    browser.wait(lambda: "interrupted" in page.output(), "the interrupt")
    page.finished()
    page.browser.set("#code", "import time\nprint('wait')\ntime.sleep(9)")
    browser.click("#run")
    browser.wait(lambda: "wait" in page.output(), "the start")
    browser.keys("Escape")
    page.finished()
    within("Stopped", page.verdict())


@mocked
def refusals_are_explained(page):
    page.play()

    def refused(status, message, headers=None, **more):
        error = {"code": "x", "message": message, "hint": "", "field": None, **more}
        page.mock(next={"status": status, "headers": headers or {}, "body": {"error": error}})
        page.expected += 1
        page.run("print('after')")
        return page.verdict()

    within("Not allowed", refused(403, "this key may not run python"))
    within("Too large", refused(413, "the body is larger than 1 MB"))
    within("The server failed", refused(500, "internal error"))
    page.shot("refused-500")
    within("memory_bytes is at most 1 GB", refused(400, "memory_bytes is at most 1 GB", field="limits.memory_bytes").lower().replace("gb", "GB").replace("kb", "KB"))
    same(page.browser.script("return document.activeElement.dataset.limit"), "memory_bytes")
    said = refused(429, "ten runs a minute", {"Retry-After": "2"})
    within("Too many runs", said)
    assert re.search(r"Try again in [12] s\.", said), said
    page.shot("refused-429")
    page.browser.wait(lambda: "You can try again now." in page.verdict(), "the end of the countdown", 5)
    within("busy", refused(503, "the queue is full", {"Retry-After": "30"}))
    page.run("print('after')")
    within("Finished", page.verdict())
    time.sleep(0.6)
    within("Finished", page.verdict())


@mocked
def without_a_connection_the_page_says_so(page):
    page.play()
    page.browser.offline(True)
    page.expected += 1
    page.run("print(1)")
    within("No connection", page.verdict())
    page.browser.offline(False)
    page.run("print('back')")
    within("back", page.output())
    page.mock(languages=503)
    page.browser.open(page.base + "/play?again")
    page.expected += 1
    page.browser.wait(lambda: "busy" in page.verdict(), "a word about the language list")
    page.mock()


@mocked
def a_broken_stream_is_taken_up_again(page):
    page.play()
    page.mock(break_after=3)
    page.run("import time\nfor n in range(5):\n    print(n)\n    time.sleep(0.1)")
    same(page.stream("stdout"), "0\n1\n2\n3\n4\n")
    within("Finished", page.verdict())


@mocked
def a_key_is_asked_for_kept_for_the_tab_and_not_in_addresses(page):
    page.play()
    page.mock(key="sesame")
    page.expected += 2
    page.run("print('open')")
    within("An API key is needed", page.verdict())
    page.shot("key")
    page.browser.keys("wrong", "Enter")
    page.browser.wait(lambda: "not accepted" in page.verdict(), "a second refusal")
    page.browser.wait("document.activeElement.id === 'key'", "the field")
    page.browser.keys("sesame", "Enter")
    page.browser.wait(lambda: "open" in page.output(), "the run")
    page.finished()
    same(page.browser.script("return [sessionStorage.getItem('sandboxd.key'), localStorage.length]"), ["sesame", 0])
    assert "sesame" not in page.browser.script("return location.href")
    page.browser.click("#interactive")
    page.run("print('by socket')")
    within("by socket", page.output())
    page.browser.click(".limits summary")
    page.browser.click("#forget-key")
    page.run("print('again')")
    within("An API key is needed", page.verdict())
    page.mock()


@mocked
def rare_verdicts_are_told_in_plain_words(page):
    page.play()
    nothing = {"limit": None, "oom_kills": 0, "process_limit_hits": 0, "killed_by": None, "denied_syscalls": []}
    page.mock(answer={"status": "memory_exceeded", "message": "went past 256 MB of memory", "exit_code": None, "signal": "SIGKILL",
                      "evidence": {**nothing, "oom_kills": 3, "killed_by": "kernel_oom",
                                   "limit": {"name": "memory_bytes", "value": 268435456, "measured": 268435456}}})
    page.run("pass")
    within("Memory limit", page.verdict())
    within("Limit of memory: 256 MB. Measured: 256 MB.", page.verdict())
    within("The kernel killed 3 processes at the memory limit.", page.verdict())
    page.shot("memory")
    page.mock(answer={"evidence": {**nothing, "process_limit_hits": 5, "denied_syscalls": [{"name": "socket", "count": 2}, {"name": "ptrace", "count": 1}]},
                      "stdout_truncated_bytes": 2048})
    page.run("pass")
    within("Denied system calls: socket (2 times), ptrace (once).", page.verdict())
    within("Starting a process failed 5 times at the limit of 64.", page.verdict())
    within("2 KB of stdout were cut off.", page.verdict())
    page.choose("c")
    page.run("int main(void) { error }")
    within("Did not compile", page.verdict())
    within("expected ';'", page.stream("stderr"))
    page.shot("compile-error")


@mocked
def languages_that_are_missing_cannot_be_chosen_and_say_why(page):
    page.play()
    options = page.browser.script("return [...document.getElementById('language').options].map(o => [o.value, o.disabled, o.text])")
    within(["typescript", True, "typescript: the image typescript is not built"], options)
    within(["python", False, "python"], options)
    page.play("/play?language=bash", language=None)
    same(page.browser.script("return document.getElementById('language').value"), "bash")
    within("tr -cs", page.browser.script("return document.getElementById('code').value"))
    page.browser.set("#code", "echo mine")
    page.choose("python")
    within("import sys", page.browser.script("return document.getElementById('code').value"))
    page.choose("bash")
    same(page.browser.script("return document.getElementById('code').value"), "echo mine")


@test
def a_megabyte_of_output_does_not_freeze_the_page(page):
    page.play()
    watch(page)
    page.run("import sys\nfor n in range(14000): print(n, 'x' * 60)\nsys.stderr.write('y' * 90000)", 60)
    settled(page)
    report = watched(page)
    print(f"    1 MB: longest frame {report:.0f} ms")
    assert report < 1000, f"a frame took {report} ms"
    within("are not shown", page.browser.text("#cut"))
    within("13999 x", page.output())
    same(len(page.browser.script("return import('/pages/play.js').then(() => document.getElementById('text').textContent)")) <= 300_000, True)
    assert page.browser.script("return document.querySelectorAll('#text *').length") < 8000
    bottom = page.browser.script("const o = document.getElementById('output'); return o.scrollHeight - o.scrollTop - o.clientHeight")
    assert bottom < 40, f"the end of the output is {bottom} px away"
    # The whole can be had.
    saved = page.browser.script("""
        let blob; const make = URL.createObjectURL; URL.createObjectURL = b => { blob = b; return make.call(URL, b) };
        const click = HTMLAnchorElement.prototype.click; HTMLAnchorElement.prototype.click = () => {};
        document.getElementById('download').click(); HTMLAnchorElement.prototype.click = click; URL.createObjectURL = make;
        return blob.text().then(t => [t.length, t.startsWith('0 xxx'), t.split('y').length])""")
    lines = sum(len(str(n)) + 62 for n in range(14000))
    same(saved, [lines + 90000, True, 90001])


@mocked
def a_hundred_thousand_chunks_do_not_freeze_the_page(page):
    page.play()
    page.mock(chunks=100_000)
    watch(page)
    started = time.monotonic()
    page.run("pass", 90)
    settled(page)
    report = watched(page)
    print(f"    100,000 chunks: {time.monotonic() - started:.1f} s, longest frame {report:.0f} ms")
    assert report < 1000, f"a frame took {report} ms"
    within("99998\n", page.output())
    assert page.browser.script("return document.querySelectorAll('#text *').length") < 8000


def watch(page):
    page.browser.script("""
        window.longest = 0; let last = performance.now();
        const frame = now => { window.longest = Math.max(window.longest, now - last); last = now; window.watching = requestAnimationFrame(frame) };
        window.watching = requestAnimationFrame(frame)""")


def watched(page):
    return page.browser.script("cancelAnimationFrame(window.watching); return window.longest")


def settled(page):
    before = None
    while before != (before := page.browser.script("return document.getElementById('text').textContent.slice(-100)")):
        time.sleep(0.3)


@test
def files_come_back_and_images_are_shown(page):
    page.play()
    page.browser.click(".limits summary")
    page.browser.set("#files-out", "dot.png table.csv")
    png = ("iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFElEQVR4nGNkaPjPwMDAxMDAwMAAAAoEAQGSh0fTAAAAAElFTkSuQmCC")
    page.run(f"import base64\nopen('dot.png', 'wb').write(base64.b64decode('{png}'))\nopen('table.csv', 'w').write('a,b\\n')")
    page.browser.wait("document.querySelectorAll('#files a').length === 2", "the files")
    same(page.browser.script("const i = document.querySelector('#files img'); return i.src.slice(0, 22)"), "data:image/png;base64,")
    within("table.csv", page.browser.text("#files"))
    # A file of a program is for saving: the policy refuses to read it back into the page.
    page.expected += 2
    same(page.browser.script("return fetch(document.querySelectorAll('#files a')[1].href).then(() => 'read').catch(() => 'refused')"), "refused")


@test
def dark_and_light_follow_the_system_and_the_button(page):
    page.play()
    paper = "return getComputedStyle(document.body).backgroundColor"
    page.browser.scheme("dark")
    dark = page.browser.script(paper)
    page.browser.scheme("light")
    light = page.browser.script(paper)
    assert dark != light
    page.browser.click("#theme")
    same(page.browser.script(paper), dark)
    page.browser.open(page.base + "/docs")
    same(page.browser.script(paper), dark)
    same(page.browser.script("return document.getElementById('theme').ariaPressed"), "true")
    page.browser.click("#theme")
    same(page.browser.script(paper), light)
    same(page.browser.script("return localStorage.length"), 0)
    for scheme in ("light", "dark"):
        page.browser.scheme(scheme)
        page.play()
        for selector in ("#version", "#keys", "#text", ".paint .comment, .paint .string", ".paint .word", ".headline .detail", "#run"):
            ratio = page.browser.script(CONTRAST, selector)
            assert ratio is None or ratio >= 4.5, f"{scheme}: {selector} has a contrast of {ratio:.2f}"
    page.browser.scheme("light")


# Colours come as rgb() or color(); a canvas makes both into bytes.
CONTRAST = """
const e = document.querySelector(arguments[0]);
if (!e) return null;
const context = new OffscreenCanvas(1, 1).getContext('2d');
const bytes = colour => { context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data] };
let under = e;
while (bytes(getComputedStyle(under).backgroundColor)[3] < 255) under = under.parentElement;
const light = colour => bytes(colour).slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const [a, b] = [light(getComputedStyle(e).color), light(getComputedStyle(under).backgroundColor)].sort((x, y) => y - x);
return (a + 0.05) / (b + 0.05)"""


@test
def nothing_moves_when_a_run_comes_and_goes(page):
    page.play()
    places = """return ['run', 'editor', 'stdin', 'output', 'verdict'].map(id => {
        const b = document.getElementById(id).getBoundingClientRect(); return [b.x, b.y, b.width, b.height].map(Math.round) })"""
    before = page.browser.script(places)
    page.browser.set("#code", "import time\nprint('x' * 3000)\ntime.sleep(1)")
    page.browser.click("#run")
    page.browser.wait(lambda: "xxx" in page.output(), "output")
    same(page.browser.script(places), before)
    page.finished()
    same(page.browser.script(places), before)


@test
def narrow_windows_need_no_sideways_scrolling(page):
    for name, address in (("play", "/play"), ("docs", "/docs"), ("index", "/")):
        page.browser.size(360, 740, touch=True)
        if name == "play":
            page.play()
            page.run("import sys\nprint('x' * 500)\nprint('a line for stderr', file=sys.stderr)")
        else:
            page.browser.open(page.base + address)
            page.browser.wait("document.readyState === 'complete'", "the page")
            if name == "docs":
                page.browser.wait("document.querySelectorAll('.operation').length > 0", "the operations")
        page.no_scroll()
        page.shot(f"{name}-360")
        if name == "play":
            page.browser.script("document.querySelector('.result').scrollIntoView()")
            page.shot("play-360-result")
    page.browser.cdp("Emulation.clearDeviceMetricsOverride")


@test
def the_landing_page_has_a_command_that_works_when_pasted(page):
    page.browser.open(page.base + "/")
    page.browser.wait("document.querySelectorAll('#languages a').length > 0", "the languages")
    command = page.browser.script("return document.querySelector('#curl pre').textContent")
    within(page.base, command)
    done = subprocess.run(["bash", "-c", command.replace("curl ", "curl -sS ", 1)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    same(json.loads(done.stdout)["stdout"], "5050\n")
    for scheme in ("light", "dark"):
        page.browser.scheme(scheme)
        page.shot(f"index-{scheme}")
    page.browser.scheme("light")
    page.browser.click(".actions .primary")
    page.browser.wait("location.pathname === '/play'", "the playground")


@test
def the_reference_shows_each_operation_of_the_document(page):
    spec = json.load(urllib.request.urlopen(page.base + "/openapi.json"))
    methods = ("get", "post", "put", "patch", "delete")
    wanted = sorted(f"{method.upper()} {path}" for path, item in spec["paths"].items() for method in methods if method in item)
    page.browser.open(page.base + "/docs")
    page.browser.wait("document.querySelectorAll('.operation').length > 0", "the operations")
    shown = page.browser.script("return [...document.querySelectorAll('.operation h3')].map(e => e.textContent.trim())")
    same(sorted(shown), wanted)
    same(page.browser.script("return [...document.querySelectorAll('.operation')].filter(e => !e.querySelector('.copyable pre').textContent.startsWith('curl')).length"), 0)
    page.browser.script("document.activeElement.blur()")
    page.browser.keys("/", "languages")
    page.browser.wait("[...document.querySelectorAll('.operation')].filter(e => e.checkVisibility()).length < %d" % len(wanted), "the search")
    within("/api/languages", page.browser.text("#operations"))
    page.browser.keys("Escape")
    same(page.browser.script("return [...document.querySelectorAll('.operation')].filter(e => e.checkVisibility()).length"), len(wanted))
    anchor = page.browser.script("return [...document.querySelectorAll('.operation')].at(-1).id")
    page.browser.open(page.base + "/?away")
    page.browser.open(f"{page.base}/docs#{urllib.parse.quote(anchor)}")
    page.browser.wait("scrollY > 0", "the anchor to be found")
    for scheme in ("light", "dark"):
        page.browser.scheme(scheme)
        page.browser.script("scrollTo(0, 0)")
        page.shot(f"docs-{scheme}")
    page.browser.scheme("light")


@mocked
def the_reference_tells_schemas_and_survives_without_the_document(page):
    page.browser.open(page.base + "/docs")
    page.browser.wait("document.querySelectorAll('.operation').length > 0", "the operations")
    page.browser.script("for (const d of document.querySelectorAll('details')) d.open = true")
    text = page.browser.text("#execute")
    for part in ("array of File", "string or null", "Limits or null", "wall_time_ms", "at least 1", "Milliseconds on the clock.",
                 "one of \"utf-8\", \"base64\"; default \"utf-8\"", "Retry-After", "<b>not bold</b>", "ErrorBody"):
        within(part, text)
    same(page.browser.script("return document.querySelectorAll('#operations b').length"), 0)
    command = page.browser.script("return document.querySelector('#execute .copyable pre').textContent")
    done = subprocess.run(["bash", "-c", command.replace("curl ", "curl -sS ", 1)], capture_output=True, text=True, timeout=60)
    same(json.loads(done.stdout)["stdout"], "its 42\n")
    within("Bearer $KEY", page.browser.text("#cancel"))
    assert "Bearer" not in page.browser.text("#execute .copyable pre")
    page.browser.script("document.getElementById('execute').scrollIntoView()")
    page.shot("docs-schemas")
    document, mock.OPENAPI = mock.OPENAPI, None
    try:
        page.expected += 1
        page.browser.open(page.base + "/docs?again")
        page.browser.wait(lambda: "could not be made" in page.browser.text("#state"), "a word about what is missing")
        within("/openapi.json", page.browser.text("#state"))
    finally:
        mock.OPENAPI = document


@test
def pictures_of_the_playground(page):
    for scheme in ("light", "dark"):
        page.browser.scheme(scheme)
        page.play()
        page.browser.set("#stdin", "Ada\n")
        page.browser.click("#run")
        page.finished()
        within("squared", page.output())
        page.shot(f"play-{scheme}")
    page.browser.scheme("light")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pages")
    arguments.add_argument("--base")
    arguments.add_argument("--screenshots", type=pathlib.Path, default=pathlib.Path("target/screenshots"))
    arguments.add_argument("tests", nargs="*")
    given = arguments.parse_args()
    if bool(given.pages) == bool(given.base):
        arguments.error("give either --pages or --base")
    base = given.base
    if given.pages:
        port = free_port()
        mock.start(given.pages, port)
        base = f"http://127.0.0.1:{port}"
    given.screenshots.mkdir(parents=True, exist_ok=True)
    browser = Browser()
    failed = []
    try:
        for function in TESTS:
            name = function.__name__
            if given.tests and name not in given.tests:
                continue
            if given.base and name in MOCKED:
                print(f"left out: {name} (needs the stand-in)")
                continue
            page = Page(browser, base.rstrip("/"), given.screenshots)
            started = time.monotonic()
            try:
                if given.pages:
                    page.mock()
                browser.complaints()
                function(page)
                found = browser.complaints()
                assert len(found) <= page.expected, f"the console complains: {found}"
                print(f"ok: {name} ({time.monotonic() - started:.1f} s)", flush=True)
            except Exception:
                failed.append(name)
                print(f"FAILED: {name}\n{traceback.format_exc()}", flush=True)
                page.shot(f"failed-{name}")
                browser.cdp("Emulation.clearDeviceMetricsOverride")
                browser.offline(False)
    finally:
        browser.close()
    if failed:
        sys.exit(f"{len(failed)} failed: {', '.join(failed)}")


if __name__ == "__main__":
    # A shell starts what it puts in the background deaf to it, and the stand-in's programs would be as deaf.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
