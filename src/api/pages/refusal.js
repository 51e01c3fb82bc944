// What the page says when the service refuses, fails or does not answer.
import { ApiError } from "./client.js";
import { headline } from "./verdict.js";

/** Title and remedy by status; 0 is no answer at all. The service's own hint goes before the remedy. */
const REFUSALS = {
  0: ["No connection", "Check that the server runs and can be reached, then try again."],
  400: ["Not accepted", ""],
  401: ["An API key is needed", "Runs on this server need a key. It is kept for this tab only."],
  403: ["Not allowed", "The API key does not allow this."],
  404: ["Not found", ""],
  408: ["Too slow", "The request did not arrive in time. Try again."],
  413: ["Too large", "Make the program or its input smaller."],
  415: ["Not accepted", ""],
  429: ["Too many runs", ""],
  503: ["The server is busy", ""],
};

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/**
 * An error as nodes for the page, with its name and the field it is about.
 * `retry` makes a button, `onKey` gets the key that is typed in, `onReady` is called when the wait is over.
 */
export function refusal(error, { hadKey, retry, onKey, onReady }) {
  if (!(error instanceof ApiError)) console.error(error);
  const { status = 500, hint = "", retryAfter = 0 } = error;
  const fault = ["The server failed", "This is not the program\u2019s fault. Try again later."];
  const [name, remedy] = REFUSALS[status] ?? fault;
  const message = error instanceof ApiError ? error.message : "the answer could not be read";
  const waits = status === 429 || status === 503;
  const title = status === 401 && hadKey ? "The API key was not accepted" : name;
  const paragraph = document.createElement("p");
  paragraph.className = "hint";
  paragraph.textContent = capital(hint || remedy);
  const nodes = [headline(waits ? "warn" : "bad", title, capital(message)), paragraph];
  if (status === 401) nodes.push(keyForm(onKey));
  if (retry) nodes.push(retryButton(retry));
  if (retryAfter > 0) countDown(paragraph, retryAfter, onReady);
  return { name: title, nodes, field: error.field ?? "" };
}

/** Ends when the paragraph leaves the page. */
function countDown(paragraph, seconds, onReady) {
  const before = paragraph.textContent && `${paragraph.textContent.replace(/\.?$/, ".")} `;
  const end = performance.now() + seconds * 1000;
  const left = () => Math.ceil((end - performance.now()) / 1000);
  const say = () => (paragraph.textContent = `${before}${left() > 0 ? `Try again in ${left()} s.` : "You can try again now."}`);
  const timer = setInterval(() => {
    say();
    if (left() <= 0 && paragraph.isConnected) onReady();
    if (left() <= 0 || !paragraph.isConnected) clearInterval(timer);
  }, 250);
  say();
}

function retryButton(retry) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button retry";
  button.textContent = "Try again";
  button.addEventListener("click", retry);
  return button;
}

function keyForm(onKey) {
  const form = document.createElement("form");
  form.className = "key-form";
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "password", className: "field", id: "key", autocomplete: "off", required: true });
  label.append("API key", input);
  const button = document.createElement("button");
  button.className = "button primary";
  button.textContent = "Use key";
  form.append(label, button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    onKey(input.value.trim());
  });
  return form;
}
