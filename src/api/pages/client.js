// The service's native API as the playground uses it: the languages, a run over events, a run one can type into.
// Nothing here touches the page.

const KEY = "sandboxd.key";
/** Times a broken stream of events is taken up again before the run counts as lost. */
const RESUMES_MAX = 3;
/** Milliseconds of work on events before the page gets its turn. */
const WORK_MAX = 12;

/** A refusal of the service, or no answer at all (`status` 0). */
export class ApiError extends Error {
  constructor(status, { code = "", message = "", hint = "", field = "" } = {}, retryAfter = 0) {
    super(message || code || `status ${status}`);
    Object.assign(this, { status, code, hint, field, retryAfter });
  }
}

/** The API key is kept for this tab only, and never in an address. */
export const key = {
  get: () => {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return "";
    }
  },
  set: (value) => {
    try {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    } catch {
      // Without storage the service asks again.
    }
  },
};

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "no answer from the server" });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  throw new ApiError(response.status, body.error ?? {}, Number.isFinite(seconds) ? seconds : 0);
}

export async function languages() {
  const body = await (await request("/api/languages")).json();
  return body.languages;
}

/** Cancels a run; one that has ended meanwhile is no error. */
export async function cancel(id) {
  await request(`/api/execute/${encodeURIComponent(id)}`, { method: "DELETE" }).catch((error) => {
    if (error.status !== 404 && error.status !== 409) throw error;
  });
}

/** Cuts a stream of server-sent events into `{id, data}`; pieces may end anywhere. */
export async function* serverSentEvents(stream) {
  let rest = "";
  let event = { id: "", data: [] };
  for await (const piece of readable(stream.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (event.data.length > 0) yield { id: event.id, data: event.data.join("\n") };
        event = { id: "", data: [] };
      } else if (line.startsWith("data:")) event.data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line.startsWith("id:")) event.id = line.slice(3).trim();
    }
  }
}

/**
 * The pieces of a stream (not every browser lets one iterate over it).
 * What is there already comes without a pause, so a flood would keep the page from being drawn and from hearing Stop.
 */
async function* readable(stream) {
  const reader = stream.getReader();
  let rested = performance.now();
  try {
    for (;;) {
      if (performance.now() - rested > WORK_MAX) {
        await new Promise((resolve) => setTimeout(resolve));
        rested = performance.now();
      }
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * One run: calls `onEvent` for each event and returns when the run has finished.
 * A stream that breaks off is taken up where it broke, as the service keeps the events of a run.
 */
export async function execute(body, onEvent, signal) {
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream" };
  let response = await request("/api/execute", {
    method: "POST",
    headers,
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  let [id, last, resumes] = [response.headers.get("X-Execution-Id") ?? "", "", 0];
  // So that it can be stopped before its first event.
  if (id) onEvent({ type: "accepted", execution_id: id });
  for (;;) {
    if (!(response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
      // A proxy or an older service may answer all at once.
      onEvent({ type: "finished", answer: await response.json() });
      return;
    }
    try {
      for await (const { id: number, data } of serverSentEvents(response.body)) {
        const event = JSON.parse(data);
        last = number || last;
        id = event.execution_id ?? event.executionId ?? id;
        onEvent(event);
        if (event.type === "error") throw refused(event.error ?? {});
        if (event.type === "finished") return;
      }
    } catch (error) {
      if (error.name === "AbortError" || error instanceof SyntaxError || error instanceof ApiError) throw error;
    }
    if (!id || resumes++ === RESUMES_MAX) throw new ApiError(0, { message: "the connection broke off" });
    await new Promise((resolve) => setTimeout(resolve, 300 * resumes));
    response = await request(`/api/execute/${encodeURIComponent(id)}/events`, {
      headers: { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) },
      signal,
    });
  }
}

/** One run over a WebSocket, which can be typed into. */
export class Conversation {
  #socket;
  #id = "";
  #waiting = [];

  /** `finished` is settled when the run has ended, with an `ApiError` when it could not be had. */
  constructor(body, onEvent) {
    const address = new URL("/ws", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.#socket = new WebSocket(address);
    this.finished = new Promise((resolve, reject) => {
      this.#socket.onopen = () => {
        if (key.get()) this.#post({ type: "authenticate", key: key.get() });
        this.#post({ ...body, type: "execute", interactive: true });
      };
      this.#socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "accepted") this.#accepted(event.executionId);
        // Once the run is under way, an error is about a message to it: a line typed as it ended, say.
        else if (event.type === "error" && !this.#id) reject(refused(event.error ?? {}));
        if (event.type === "finished") resolve();
        onEvent(event);
      };
      this.#socket.onclose = () => reject(new ApiError(0, { message: "the connection broke off" }));
    });
    this.finished.catch(() => {}).then(() => this.#socket.close());
  }

  write(data) {
    this.#send({ type: "stdin", data });
  }
  end() {
    this.#send({ type: "stdin_close" });
  }
  interrupt() {
    this.#send({ type: "signal", signal: "SIGINT" });
  }
  cancel() {
    if (this.#id) this.#send({ type: "cancel" });
    else this.close();
  }
  close() {
    this.#socket.close();
  }

  #accepted(id) {
    this.#id = id;
    for (const message of this.#waiting.splice(0)) this.#send(message);
  }

  /** What is typed before the service has named the run is sent when it has. */
  #send(message) {
    if (this.#id) this.#post({ ...message, executionId: this.#id });
    else this.#waiting.push(message);
  }

  #post(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }
}

/** Within a stream or a WebSocket an error has no status, only its code. */
function refused(error) {
  const statuses = [
    [/unauthori[sz]ed|unauthenticated|authentication|key/, 401],
    [/forbidden|not_allowed/, 403],
    [/too_large/, 413],
    [/rate_limit|too_many/, 429],
    [/unavailable|busy|draining|queue_full|overloaded/, 503],
  ];
  const status = error.status ?? statuses.find(([pattern]) => pattern.test(error.code ?? ""))?.[1] ?? 400;
  return new ApiError(status, error, error.retry_after ?? 0);
}
