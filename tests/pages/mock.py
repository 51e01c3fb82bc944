"""A stand-in for the service that speaks its API, for the tests of the pages.

It runs the tests' own harmless programs as plain processes, so that a test means the same against the real service, and
answers what tests ask for by `POST /mock` (refusals, rare verdicts, floods). The pages themselves are fetched from the
program's own router, whose address is given.
"""

import base64
import hashlib
import http.client
import http.server
import json
import os
import signal
import struct
import subprocess
import tempfile
import threading
import time
import urllib.parse

LIMITS = {"wall_time_ms": 10_000, "cpu_time_ms": 10_000, "memory_bytes": 268_435_456, "processes": 64, "output_bytes": 1_048_576}
GREATEST = {**LIMITS, "wall_time_ms": 60_000, "memory_bytes": 1_073_741_824}


def language(name, extension, version, problem=None, **more):
    return {"id": name, "name": name, "aliases": [], "extensions": [extension], "version": version, "compiled": False,
            "available": problem is None, "problem": problem, "limits": LIMITS, "greatest": GREATEST, **more}


LANGUAGES = [
    language("bash", "sh", "5.2.37"),
    language("c", "c", "14.2.0", compiled=True),
    language("python", "py", "3.13.5", aliases=["py"]),
    language("typescript", "ts", None, "the image typescript is not built", compiled=True),
]
COMMANDS = {"python": ["python3", "-u"], "bash": ["bash"]}
COMPILE_MESSAGE = "main.c:2:5: error: expected ';' before '}' token\n"


class Run:
    """One execution: its events, kept for those who come later."""

    def __init__(self, body):
        self.id = hashlib.sha256(os.urandom(8)).hexdigest()[:16]
        self.body = body
        self.events = []
        self.changed = threading.Condition()
        self.process = None
        self.canceled = False
        threading.Thread(target=self.work, daemon=True).start()

    def emit(self, **event):
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def follow(self, start=0):
        """The events from `start` on, until the run has finished."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: len(self.events) > start, 30)
                fresh = self.events[start:]
            for event in fresh:
                start += 1
                yield start, event
                if event["type"] == "finished":
                    return

    def signal(self, number):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def cancel(self):
        self.canceled = True
        self.signal(signal.SIGKILL)

    def work(self):
        self.emit(type="queued", execution_id=self.id, position=0)
        wanted, STATE["answer"] = STATE["answer"], {}
        chunks, STATE["chunks"] = STATE["chunks"], 0
        started = time.monotonic()
        if self.body["language"] == "c":
            self.emit(type="stage", stage="compile", time_ms=0.1)
            if "error" in self.body["code"]:
                self.emit(type="output", stage="compile", stream="stderr", data=COMPILE_MESSAGE, encoding="utf-8", time_ms=1)
                step = self.step(started, status="nonzero_exit", exit_code=1, message="exit code 1", stderr=COMPILE_MESSAGE)
                self.finish(started, status="compile_error", exit_code=1, message="the compiler refused the program", compile=step)
                return
        self.emit(type="stage", stage="run", time_ms=0.2)
        if chunks:
            for number in range(chunks):
                self.emit(type="output", stage="run", stream="stderr" if number % 10 == 9 else "stdout", data=f"{number}\n",
                          encoding="utf-8", time_ms=1)
            self.finish(started)
            return
        if self.body["language"] not in COMMANDS:
            self.finish(started, **wanted)
            return
        self.execute(started, wanted)

    def execute(self, started, wanted):
        limits = {**LIMITS, **self.body.get("limits", {})}
        with tempfile.TemporaryDirectory() as directory:
            source = os.path.join(directory, "main")
            with open(source, "w") as file:
                file.write(self.body["code"])
            self.process = subprocess.Popen(COMMANDS[self.body["language"]] + [source] + self.body.get("args", []),
                                            cwd=directory, start_new_session=True, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if not self.body.get("interactive"):
                # Small inputs fit the pipe.
                self.process.stdin.write(self.body.get("stdin", "").encode())
                self.process.stdin.close()
            late = threading.Event()

            def guard():
                late.set()
                self.signal(signal.SIGKILL)
            timer = threading.Timer(limits["wall_time_ms"] / 1000, guard)
            timer.start()
            readers = [threading.Thread(target=self.read, args=(name, getattr(self.process, name)))
                       for name in ("stdout", "stderr")]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            code = self.process.wait()
            timer.cancel()
            files = []
            for name in self.body.get("files_out", []):
                content = open(os.path.join(directory, name), "rb").read()
                files.append({"name": name, "bytes": len(content), "content": base64.b64encode(content).decode(), "encoding": "base64"})
        verdict = {"status": "ok", "exit_code": code, "message": "ok"}
        if self.canceled:
            verdict = {"status": "canceled", "signal": "SIGKILL", "exit_code": None, "message": "canceled"}
        elif late.is_set():
            measured = (time.monotonic() - started) * 1000
            verdict = {"status": "wall_time_exceeded", "signal": "SIGKILL", "exit_code": None,
                       "message": f"still running after {limits['wall_time_ms'] / 1000:g} s (limit wall_time)",
                       "evidence": {"limit": {"name": "wall_time_ms", "value": limits["wall_time_ms"], "measured": measured},
                                    "oom_kills": 0, "process_limit_hits": 0, "killed_by": "supervisor", "denied_syscalls": []}}
        elif code < 0:
            name = signal.Signals(-code).name
            verdict = {"status": "signaled", "signal": name, "exit_code": None, "message": f"ended by {name}"}
        elif code > 0:
            verdict = {"status": "nonzero_exit", "exit_code": code, "message": f"exit code {code}"}
        self.finish(started, **{**verdict, "limits": limits, "files_out": files, **wanted})

    def read(self, name, pipe):
        while data := os.read(pipe.fileno(), 65536):
            try:
                self.emit(type="output", stage="run", stream=name, data=data.decode(), encoding="utf-8", time_ms=1)
            except UnicodeDecodeError:
                self.emit(type="output", stage="run", stream=name, data=base64.b64encode(data).decode(), encoding="base64", time_ms=1)

    def step(self, started, **more):
        wall = (time.monotonic() - started) * 1000
        return {"status": "ok", "message": "ok", "exit_code": 0, "signal": None, "stdout": "", "stderr": "",
                "stdout_encoding": "utf-8", "stderr_encoding": "utf-8", "stdout_truncated_bytes": 0, "stderr_truncated_bytes": 0,
                "usage": {"wall_time_ms": wall, "cpu_time_ms": wall * 0.7, "memory_peak_bytes": 9_437_184, "processes_peak": 1},
                "limits": LIMITS,
                "evidence": {"limit": None, "oom_kills": 0, "process_limit_hits": 0, "killed_by": None, "denied_syscalls": []}, **more}

    def finish(self, started, **more):
        answer = {"id": self.id, "executionId": self.id, "language": self.body["language"], "version": "3.13.5", "compile": None,
                  "enforcement": {"cgroup": "hybrid", "landlock_abi": 7, "seccomp": True, "rootfs": self.body["language"],
                                  "namespaces": ["user", "pid", "mount", "net", "ipc", "uts", "cgroup"], "privileged": True},
                  **self.step(started), **more}
        self.emit(type="finished", answer=answer)


def fresh_state():
    return {"next": None, "key": None, "answer": {}, "chunks": 0, "languages": 200, "requests": [], "canceled": []}


STATE = fresh_state()
RUNS = {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pages = ""

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def body(self):
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")

    def refused(self):
        if STATE["key"] and self.headers.get("Authorization") != f"Bearer {STATE['key']}":
            self.answer(401, {"error": {"code": "unauthorized", "message": "a key is needed", "hint": "", "field": None}})
            return True
        return False

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        if path == "/mock":
            self.answer(200, STATE)
        elif path == "/ws":
            WebSocket(self).serve()
        elif path == "/openapi.json":
            if OPENAPI is None:
                self.answer(503, {"error": {"code": "unavailable", "message": "no document"}})
            else:
                self.answer(200, OPENAPI)
        elif path == "/api/languages":
            if STATE["languages"] != 200:
                self.answer(STATE["languages"], {"error": {"code": "unavailable", "message": "starting"}})
            elif not self.refused():
                self.answer(200, {"languages": LANGUAGES})
        elif path.startswith("/api/execute/") and path.endswith("/events"):
            self.stream(RUNS[path.split("/")[3]], int(self.headers.get("Last-Event-ID", 0)))
        else:
            self.page()

    def page(self):
        host, port = self.pages.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        wanted = {name: self.headers[name] for name in ("Accept", "If-None-Match") if self.headers[name]}
        connection.request("GET", self.path, headers=wanted)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "date", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        connection.close()

    def do_POST(self):
        global STATE
        body = self.body()
        if self.path == "/mock":
            STATE = {**fresh_state(), **body}
            self.answer(200, {})
        elif self.path == "/api/execute" and not self.refused():
            STATE["requests"].append(body)
            following, STATE["next"] = STATE["next"], None
            if following:
                self.answer(following["status"], following["body"], following.get("headers", {}))
                return
            run = Run(body)
            RUNS[run.id] = run
            if "text/event-stream" in self.headers.get("Accept", ""):
                self.stream(run, 0)
            else:
                *_, (_, last) = run.follow()
                output = "".join(event["data"] for event in run.events if event.get("stream") == "stdout")
                self.answer(200, {**last["answer"], "stdout": output})

    def do_DELETE(self):
        run = RUNS[self.path.split("/")[3]]
        STATE["canceled"].append(run.id)
        run.cancel()
        self.answer(200, {"id": run.id})

    def stream(self, run, start):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        broken = STATE.get("break_after")
        try:
            for number, event in run.follow(start):
                self.wfile.write(f"id: {number}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
                if broken == number:
                    STATE["break_after"] = None
                    return
        except OSError:
            run.cancel()


class WebSocket:
    """As much of RFC 6455 as a page with short messages needs."""

    def __init__(self, handler):
        self.handler = handler
        self.lock = threading.Lock()

    def serve(self):
        handler = self.handler
        digest = hashlib.sha1((handler.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        handler.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", base64.b64encode(digest).decode())):
            handler.send_header(name, value)
        handler.end_headers()
        handler.close_connection = True
        allowed = STATE["key"] is None
        run = None
        while (message := self.receive()) is not None:
            kind = message["type"]
            if kind == "authenticate":
                allowed = message["key"] == STATE["key"]
            elif kind == "execute" and not allowed:
                self.send({"type": "error", "error": {"code": "unauthorized", "message": "a key is needed", "hint": "", "field": None}})
            elif kind == "execute":
                STATE["requests"].append(message)
                run = Run(message)
                self.send({"type": "accepted", "executionId": run.id})
                threading.Thread(target=self.forward, args=(run,), daemon=True).start()
            elif message.get("executionId") != run.id:
                self.send({"type": "error", "error": {"code": "not_found", "message": "no such run"}})
            elif kind == "stdin":
                while run.process is None:
                    time.sleep(0.01)
                run.process.stdin.write(message["data"].encode())
                run.process.stdin.flush()
            elif kind == "stdin_close":
                run.process.stdin.close()
            elif kind == "signal":
                run.signal(getattr(signal, message["signal"]))
            elif kind == "cancel":
                STATE["canceled"].append(run.id)
                run.cancel()

    def forward(self, run):
        for _, event in run.follow():
            self.send({**event, "executionId": run.id})

    def send(self, message):
        data = json.dumps(message).encode()
        head = bytes([0x81, len(data)]) if len(data) < 126 else bytes([0x81, 126 if len(data) < 65536 else 127]) + (
            struct.pack(">H", len(data)) if len(data) < 65536 else struct.pack(">Q", len(data)))
        with self.lock:
            try:
                self.handler.wfile.write(head + data)
            except OSError:
                pass  # The page has gone.

    def receive(self):
        read = self.handler.rfile.read
        head = read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return None
        length = head[1] & 127
        if length == 126:
            length = struct.unpack(">H", read(2))[0]
        mask = read(4)
        return json.loads(bytes(byte ^ mask[index % 4] for index, byte in enumerate(read(length))))


OPENAPI = {
    "openapi": "3.1.0",
    "info": {"title": "sandboxd", "version": "0.1.0", "description": "Runs programs, each in a fresh sandbox.\n\nTimes are in `ms`."},
    "tags": [{"name": "runs", "description": "Running programs."}, {"name": "service"}],
    "security": [{}, {"bearer": []}],
    "paths": {
        "/api/execute": {"post": {
            "tags": ["runs"], "operationId": "execute", "summary": "Runs a program",
            "description": "Waits for its end, or streams events when `Accept` asks for them. <b>not bold</b>",
            "requestBody": {"required": True, "content": {"application/json": {
                "schema": {"$ref": "#/components/schemas/ExecuteRequest"},
                "example": {"language": "python", "code": "print('it''s', 6 * 7)"}}}},
            "responses": {
                "200": {"description": "The verdict.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Verdict"}}}},
                "429": {"description": "Too many runs.", "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}},
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}}}},
        "/api/execute/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "description": "Of the run.", "schema": {"type": "string"}}],
            "get": {"tags": ["runs"], "operationId": "execution", "summary": "One run", "responses": {"200": {"description": "The run."}}},
            "delete": {"tags": ["runs"], "operationId": "cancel", "summary": "Cancels a run", "security": [{"bearer": []}],
                       "responses": {"200": {"description": "It is ending."}}}},
        "/api/languages": {"get": {"tags": ["service"], "operationId": "languages", "summary": "The languages",
                                   "responses": {"200": {"description": "All of them."}}}},
    },
    "components": {"schemas": {
        "ExecuteRequest": {"type": "object", "required": ["language"], "properties": {
            "language": {"type": "string", "description": "An id or alias.", "examples": ["python"]},
            "code": {"type": ["string", "null"], "maxLength": 1048576},
            "files": {"type": "array", "maxItems": 100, "items": {"$ref": "#/components/schemas/File"}},
            "limits": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Limits"}]},
            "stdin_encoding": {"type": "string", "enum": ["utf-8", "base64"], "default": "utf-8"}}},
        "File": {"type": "object", "required": ["name", "content"], "properties": {
            "name": {"type": "string"}, "content": {"type": "string"}, "beside": {"$ref": "#/components/schemas/File"}}},
        "Limits": {"type": "object", "properties": {
            "wall_time_ms": {"type": "integer", "minimum": 1, "description": "Milliseconds on the clock."}, "memory_bytes": {"type": "integer"}}},
        "Verdict": {"allOf": [{"$ref": "#/components/schemas/Limits"}, {"type": "object", "required": ["status"], "properties": {
            "status": {"type": "string", "enum": ["ok", "nonzero_exit"]}}}]},
        "Error": {"type": "object", "properties": {"error": {"type": "object", "title": "ErrorBody", "properties": {
            "code": {"type": "string"}, "message": {"type": "string"}}}}},
    }, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
}


class Server(http.server.ThreadingHTTPServer):
    """A page opens several connections at once; none of them may wait for the backlog."""
    daemon_threads = True
    request_queue_size = 64


def start(pages, port):
    """Serves on loopback in a thread of its own."""
    Handler.pages = pages
    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
