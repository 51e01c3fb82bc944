// A verdict in plain words: how the run ended, the evidence for it, and what it used.

const el = (name, className, ...content) => {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...content);
  return node;
};

const TITLES = {
  ok: "Finished",
  cpu_time_exceeded: "CPU time limit",
  wall_time_exceeded: "Time limit",
  memory_exceeded: "Memory limit",
  output_exceeded: "Output limit",
  syscall_denied: "Denied system call",
  compile_error: "Did not compile",
  canceled: "Stopped",
  sandbox_error: "The sandbox failed",
};

const SIGNALS = {
  SIGSEGV: "it used memory that is not its own",
  SIGABRT: "it gave up by itself (abort)",
  SIGFPE: "a division by zero or a number out of range",
  SIGILL: "an instruction the processor does not know",
  SIGBUS: "it used memory that has nothing behind it",
  SIGPIPE: "it wrote where nobody reads",
  SIGINT: "interrupted",
  SIGTERM: "asked to end",
  SIGKILL: "killed",
  SIGXFSZ: "a file grew past its limit",
};

const LIMITS = {
  wall_time_ms: "wall time",
  cpu_time_ms: "CPU time",
  memory_bytes: "memory",
  processes: "processes",
  output_bytes: "output",
  file_bytes: "size of a file",
};

const ENDED_BY = {
  supervisor: "sandboxd ended the program.",
  kernel_oom: "The kernel ended the program, as it was out of memory.",
  seccomp: "The system call filter ended the program.",
  kernel: "The kernel ended the program.",
  payload: "A signal from within the sandbox ended the program.",
};

const few = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });

export function time(milliseconds) {
  if (milliseconds < 1000) return `${few(milliseconds, milliseconds < 10 ? 1 : 0)} ms`;
  return `${few(milliseconds / 1000, 2)} s`;
}

export function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB"];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  if (bytes === 1) return "1 byte";
  return `${few(value, unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

const quantity = (name, value) => {
  if (name.endsWith("_ms")) return time(value);
  return name.endsWith("_bytes") ? size(value) : few(value, 0);
};
const times = (count) => (count === 1 ? "once" : `${few(count, 0)} times`);

export function title(answer) {
  if (answer.status === "nonzero_exit") return `Exit code ${answer.exit_code}`;
  if (answer.status === "signaled") return `Ended by ${answer.signal ?? "a signal"}`;
  return TITLES[answer.status] ?? answer.status;
}

/** The colour of the verdict. */
function tone(status) {
  if (status === "ok") return "good";
  return status === "canceled" ? "calm" : "bad";
}

/** Sentences that say what is known, most telling first. */
export function evidence(answer) {
  const sentences = [];
  const failed = answer.status === "compile_error" && answer.compile ? answer.compile : answer;
  const { limit, oom_kills, process_limit_hits, killed_by, denied_syscalls } = failed.evidence ?? {};
  if (limit) {
    const name = LIMITS[limit.name] ?? limit.name;
    const [value, measured] = [quantity(limit.name, limit.value), quantity(limit.name, limit.measured)];
    sentences.push(`Limit of ${name}: ${value}. Measured: ${measured}.`);
  }
  if (oom_kills > 0) {
    sentences.push(`The kernel killed ${oom_kills === 1 ? "one process" : `${oom_kills} processes`} at the memory limit.`);
  }
  if (process_limit_hits > 0) {
    const most = failed.limits?.processes;
    sentences.push(`Starting a process failed ${times(process_limit_hits)} at the limit${most ? ` of ${most}` : ""}.`);
  }
  if (denied_syscalls?.length > 0) {
    const list = denied_syscalls.map(({ name, count }) => `${name} (${times(count)})`).join(", ");
    sentences.push(`Denied system calls: ${list}.`);
  }
  if (failed.signal && SIGNALS[failed.signal] && failed.status === "signaled") {
    sentences.push(`${failed.signal}: ${SIGNALS[failed.signal]}.`);
  }
  if (killed_by && ENDED_BY[killed_by] && !(killed_by === "kernel_oom" && oom_kills > 0)) {
    sentences.push(ENDED_BY[killed_by]);
  }
  for (const stream of ["stdout", "stderr"]) {
    const cut = answer[`${stream}_truncated_bytes`];
    if (cut > 0) sentences.push(`${size(cut)} of ${stream} were cut off.`);
  }
  if (answer.compile && answer.status !== "compile_error") {
    sentences.push(`Compiled in ${time(answer.compile.usage.wall_time_ms)}.`);
  }
  return sentences;
}

function measure(label, used, limit, words) {
  const bar = el("span", "bar-of-limit");
  const filled = el("span", "");
  const share = limit > 0 ? Math.min(1, used / limit) : 0;
  filled.style.inlineSize = `${(share * 100).toFixed(1)}%`;
  if (share >= 0.98) filled.className = "full";
  bar.append(filled);
  const value = el("dd", "", words(used), " ", el("span", "muted", `of ${words(limit)}`));
  return el("div", "measure", el("dt", "", label), value, bar);
}

const count = (value) => few(value, 0);

function usage({ usage: used, limits }) {
  const list = el("dl", "usage");
  list.append(
    measure("Wall time", used.wall_time_ms, limits.wall_time_ms, time),
    measure("CPU time", used.cpu_time_ms, limits.cpu_time_ms, time),
    measure("Memory", used.memory_peak_bytes, limits.memory_bytes, size),
    measure("Processes", used.processes_peak, limits.processes, count),
  );
  return list;
}

function inForce({ enforcement, language, version }) {
  if (!enforcement) return "";
  const parts = [
    [language, version].filter(Boolean).join(" "),
    `image ${enforcement.rootfs}`,
    `${enforcement.namespaces.length} namespaces`,
    enforcement.seccomp ? "system call filter" : "no system call filter",
    enforcement.landlock_abi > 0 ? `landlock ${enforcement.landlock_abi}` : "no landlock",
    enforcement.cgroup === "none" ? "no cgroup" : `cgroup ${enforcement.cgroup}`,
  ];
  return el("p", "in-force muted", `In force: ${parts.filter(Boolean).join(", ")}.`);
}

/** The line that says how it stands, for the verdict and for what comes before it. */
export function headline(kind, text, detail = "") {
  const line = el("p", `headline ${kind}`, el("strong", "", text));
  if (detail) line.append(" ", el("span", "detail", detail));
  return line;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The whole verdict as nodes. */
export function verdict(answer) {
  const failed = answer.status === "compile_error" && answer.compile ? answer.compile : answer;
  // "ok" and "exit code 3" would say the title once more.
  const says = ["ok", "canceled"].includes(answer.status) || /^(exit|ended by)/.test(answer.message ?? "");
  const nodes = [headline(tone(answer.status), title(answer), says ? "" : capital(`${answer.message ?? ""}`))];
  if (failed.usage && failed.limits) nodes.push(usage(failed));
  const sentences = evidence(answer);
  if (sentences.length > 0) nodes.push(el("ul", "evidence", ...sentences.map((sentence) => el("li", "", sentence))));
  nodes.push(inForce(answer));
  return nodes;
}
