// The playground: puts the editor, the service and the panes together.
import { ApiError, Conversation, cancel, execute, key, languages } from "./client.js";
import { copy } from "./copy.js";
import { Editor } from "./editor.js";
import { showFiles } from "./files.js";
import { Output } from "./output.js";
import { refusal } from "./refusal.js";
import { sample } from "./samples.js";
import { decode, encode } from "./share.js";
import { headline, time, title, verdict } from "./verdict.js";
import { splitWords } from "./words.js";

const $ = (id) => document.getElementById(id);
const DRAFT = "sandboxd.draft";
/** Milliseconds after which a run that was told to stop is left to itself. */
const STOP_PATIENCE = 3000;

const editor = new Editor($("editor"), () => save());
const output = new Output($("output"));
const state = {
  languages: [],
  /** What was written in each language since the page was opened. */
  drafts: {},
  language: "",
  /** The run under way: `{id, abort, conversation, started, timer, stage}`. */
  run: null,
};

// Languages ------------------------------------------------------------------------------------------------------------

async function readLanguages() {
  const select = $("language");
  try {
    state.languages = await languages();
  } catch (error) {
    showError(error, readLanguages);
    return;
  }
  const options = state.languages.map(({ id, name, available, problem }) => {
    const option = new Option(available ? name : `${name}: ${problem || "not available"}`, id);
    option.disabled = !available;
    option.title = problem ?? "";
    return option;
  });
  select.replaceChildren(...options);
  select.disabled = false;
  if (state.languages.length === 0) {
    showVerdict(headline("warn", "No languages", "This server has no language installed."));
    return;
  }
  showVerdict(headline("", "Ready", "The verdict of a run is shown here."));
  await open();
}

const known = (id) => state.languages.find((language) => language.id === id || language.aliases.includes(id));

/** What is shown first: the program of the link, else the draft of this tab, else a sample. */
async function open() {
  let program = null;
  try {
    program = await decode(location.hash);
  } catch {
    note("The program in this link is damaged.");
  }
  program ??= draft();
  const asked = new URLSearchParams(location.search).get("language");
  const first = state.languages.find(({ available }) => available) ?? state.languages[0];
  // Without a wish the page opens with what most people know.
  const fallback = known("python")?.available ? known("python") : first;
  const language = known(program?.language ?? asked ?? "") ?? fallback;
  if (program && !known(program.language)) note(`This server does not know ${program.language}.`);
  show({ ...(program ?? sample(language.id)), language: language.id });
}

function show({ language, code, stdin = "", args = "", files = "", interactive = false }) {
  state.language = language;
  const entry = known(language);
  $("language").value = language;
  $("version").textContent = entry?.version ?? "";
  editor.language = language;
  editor.value = code;
  $("stdin").value = stdin;
  $("args").value = args;
  $("files-out").value = files;
  $("interactive").checked = Boolean(interactive);
  $("prompt").hidden = !interactive;
  for (const field of limitFields()) {
    const { limit, scale } = field.dataset;
    const [usual, most] = [entry?.limits?.[limit], entry?.greatest?.[limit]];
    field.placeholder = usual === undefined ? "" : String(Math.round((usual / scale) * 100) / 100);
    field.title = most === undefined ? "" : `At most ${most / scale}`;
  }
  setBusy(state.run !== null);
}

function selectLanguage(id) {
  state.drafts[state.language] = { code: editor.value, stdin: $("stdin").value };
  const { args, files, interactive } = current();
  show({ ...(state.drafts[id] ?? sample(id)), language: id, args, files, interactive });
  save();
}

// What is asked for ----------------------------------------------------------------------------------------------------

function current() {
  return {
    language: state.language,
    code: editor.value,
    stdin: $("stdin").value,
    args: $("args").value,
    files: $("files-out").value,
    interactive: $("interactive").checked,
  };
}

function save() {
  try {
    sessionStorage.setItem(DRAFT, JSON.stringify(current()));
  } catch {
    // Without storage, or with a program too large for it, a reload starts afresh.
  }
}

function draft() {
  try {
    const found = JSON.parse(sessionStorage.getItem(DRAFT));
    return found && known(found.language) ? found : null;
  } catch {
    return null;
  }
}

const limitFields = () => [...document.querySelectorAll("[data-limit]")];

/** The body of the request; an `ApiError` names the field that cannot be read. */
function requestBody() {
  const { language, code, stdin, args, files, interactive } = current();
  const body = { language, code };
  if (stdin && !interactive) body.stdin = stdin;
  if (args.trim()) body.args = splitWords(args);
  if (files.trim()) body.files_out = splitWords(files);
  const limits = {};
  for (const field of limitFields()) {
    const text = field.value.trim().replace(",", ".");
    if (text === "") continue;
    const value = Math.round(Number(text) * field.dataset.scale);
    if (!(value > 0)) {
      const message = `${field.labels[0].textContent.trim()}: “${field.value}” is not a number above 0`;
      throw new ApiError(400, { message, field: `limits.${field.dataset.limit}` });
    }
    limits[field.dataset.limit] = value;
  }
  if (Object.keys(limits).length > 0) body.limits = limits;
  return body;
}

// A run ----------------------------------------------------------------------------------------------------------------

async function run() {
  if (state.run || $("run").disabled) return;
  let body;
  try {
    for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
    body = requestBody();
  } catch (error) {
    showError(error);
    return;
  }
  output.clear();
  showFiles($("files"), []);
  $("download").disabled = true;
  const interactive = $("interactive").checked;
  const one = { id: "", abort: new AbortController(), conversation: null, started: performance.now(), stage: "", text: "Sent" };
  state.run = one;
  setBusy(true);
  announce("Running");
  const tick = () => showVerdict(headline("busy", one.text, time(Math.round((performance.now() - one.started) / 100) * 100)));
  tick();
  one.timer = setInterval(tick, 100);
  const onEvent = (event) => {
    if (state.run === one) take(one, event, tick);
  };
  try {
    if (interactive) {
      one.conversation = new Conversation(body, onEvent);
      if ($("stdin").value) {
        one.conversation.write($("stdin").value);
        output.remark("stdin", $("stdin").value);
      }
      $("line").focus();
      await one.conversation.finished;
    } else {
      await execute(body, onEvent, one.abort.signal);
    }
    if (state.run === one) throw new ApiError(0, { message: "the events ended before the run did" });
  } catch (error) {
    if (state.run === one) {
      finish(one);
      if (error.name === "AbortError") {
        showVerdict(headline("calm", "Stopped", "The server did not say how the run ended."));
        announce("Stopped");
      } else showError(error, run);
    }
  }
}

function take(one, event, tick) {
  one.id = event.execution_id ?? event.executionId ?? one.id;
  if (event.type === "queued") {
    one.text = event.position > 0 ? `Queued, ${event.position} before it` : "Queued";
  } else if (event.type === "stage") {
    one.text = event.stage === "compile" ? "Compiling" : "Running";
    if (event.stage === "run" && one.stage === "compile" && !output.empty) output.remark("remark", "\u2014 program \u2014\n");
    one.stage = event.stage;
  } else if (event.type === "output") {
    output.write(event.stream, event.data, event.encoding);
    return;
  } else if (event.type === "finished") {
    finish(one, event.answer);
    return;
  }
  tick();
}

function finish(one, answer = null) {
  clearInterval(one.timer);
  state.run = null;
  setBusy(false);
  if (answer) {
    // Without events before it (an answer all at once), the answer has the output.
    if (output.empty) {
      for (const step of [answer.compile, answer]) {
        for (const stream of ["stdout", "stderr"]) {
          if (step?.[stream]) output.write(stream, step[stream], step[`${stream}_encoding`]);
        }
        // What is not compiled has no run: the answer repeats the compiler's streams.
        if (answer.status === "compile_error" && !output.empty) break;
      }
    }
    showVerdict(...verdict(answer));
    showFiles($("files"), answer.files_out ?? []);
    announce(`${title(answer)}. ${answer.message ?? ""}`);
  }
  output.end();
  $("download").disabled = output.empty;
}

async function stop() {
  const one = state.run;
  if (!one) return;
  one.text = "Stopping";
  setTimeout(() => {
    if (state.run !== one) return;
    one.abort.abort();
    one.conversation?.close();
  }, STOP_PATIENCE);
  if (one.conversation) one.conversation.cancel();
  // A client that goes away cancels its run, so leaving stops a run that has no name yet.
  else if (!one.id) one.abort.abort();
  else await cancel(one.id).catch(() => one.abort.abort());
}

// What is shown --------------------------------------------------------------------------------------------------------

function setBusy(busy) {
  const available = known(state.language)?.available ?? false;
  $("run").disabled = busy || !available;
  $("stop").disabled = !busy;
  $("line").placeholder = busy ? "A line for the program" : "Run, then type here";
  for (const id of ["line", "send", "end-input", "interrupt"]) $(id).disabled = !busy || !$("interactive").checked;
  $("output").setAttribute("aria-busy", String(busy));
}

function showVerdict(...nodes) {
  $("verdict").replaceChildren(...nodes);
}
function announce(text) {
  $("announce").textContent = text;
}

let noteTimer = 0;
function note(text) {
  $("note").textContent = text;
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => ($("note").textContent = ""), 6000);
}

function showError(error, retry = null) {
  const { name, nodes, field } = refusal(error, {
    hadKey: key.get() !== "",
    retry: retry === readLanguages ? retry : null,
    onKey: (value) => {
      key.set(value);
      $("key-kept").hidden = key.get() === "";
      (retry ?? run)();
    },
    onReady: () => announce("You can try again now."),
  });
  showVerdict(...nodes);
  announce(`${name}. ${error.message}`);
  $("key")?.focus();
  const place = limitFields().find(({ dataset }) => field.endsWith(dataset.limit));
  const input = place ?? { args: $("args"), stdin: $("stdin"), files_out: $("files-out") }[field.split(/[.[]/)[0]];
  if (input) {
    input.closest("details")?.setAttribute("open", "");
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }
}

// Buttons and keys -----------------------------------------------------------------------------------------------------

$("run").addEventListener("click", run);
$("stop").addEventListener("click", stop);
$("language").addEventListener("change", (event) => selectLanguage(event.target.value));
$("sample").addEventListener("click", () => {
  show({ ...current(), ...sample(state.language) });
  save();
});
$("share").addEventListener("click", async () => {
  const address = new URL(await encode(current()), location.href);
  address.search = "";
  history.replaceState(null, "", address);
  note((await copy(address.href)) ? "Link copied." : "The link is in the address bar.");
});
$("download").addEventListener("click", () => {
  const link = document.createElement("a");
  const stream = $("output").dataset.show;
  link.href = URL.createObjectURL(output.blob(stream));
  link.download = stream === "both" ? "output.txt" : `${stream}.txt`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});
for (const radio of document.querySelectorAll("[name=show]")) {
  radio.addEventListener("change", () => ($("output").dataset.show = radio.value));
}
for (const id of ["stdin", "args", "files-out"]) $(id).addEventListener("input", save);
$("interactive").addEventListener("change", () => {
  $("prompt").hidden = !$("interactive").checked;
  save();
});
$("forget-key").addEventListener("click", () => {
  key.set("");
  $("key-kept").hidden = true;
});
$("key-kept").hidden = key.get() === "";

$("prompt").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = `${$("line").value}\n`;
  state.run?.conversation?.write(text);
  output.remark("stdin", text);
  $("line").value = "";
});
const endInput = () => {
  state.run?.conversation?.end();
  output.remark("remark", "\u2014 end of input \u2014\n");
};
$("end-input").addEventListener("click", endInput);
$("interrupt").addEventListener("click", () => state.run?.conversation?.interrupt());
$("line").addEventListener("keydown", (event) => {
  if (!event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "d" && $("line").value === "") endInput();
  else if (event.key === "c" && $("line").selectionStart === $("line").selectionEnd) state.run?.conversation?.interrupt();
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape") stop();
});
addEventListener("hashchange", open);

if (/Mac|iP(hone|ad)/.test(navigator.platform)) $("keys").querySelectorAll("kbd")[3].textContent = "\u2318";

readLanguages();
