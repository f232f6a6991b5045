"use strict";

// The page is told everything once a second, and at once when something changes. What it works out itself are rates:
// the differences of counts over the last seconds.

const $ = (selector, root = document) => root.querySelector(selector);
const RATE_SECONDS = 5;
const KEPT_SECONDS = 60;
const STATES = {
  available: "available", ejected: "ejected", failing: "failing",
  draining: "draining", disabled: "disabled", standby: "standby",
};
const BAD = new Set(["ejected", "failing"]);

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function setText(node, text) { if (node.textContent !== text) node.textContent = text; }
function setClass(node, names) { if (node.className !== names) node.className = names; }

// Numbers in words

function rate(value) {
  if (value === null) return "–";
  return value === 0 ? "0" : value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}
function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const value = seconds * 1000;
  if (value >= 10000) return `${(value / 1000).toFixed(0)} s`;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}
function percent(share) {
  if (share === null) return "–";
  return `${share > 0 && share < 0.01 ? "<1" : Math.round(share * 100)} %`;
}
function span(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = Math.max(0, parts.findIndex(([size]) => seconds >= size));
  const [size, unit] = parts[seconds < 1 ? 3 : at];
  return `${Math.floor(seconds / size)} ${unit}`;
}
function clock(at) { return new Date(at * 1000).toLocaleTimeString("en-GB"); }
function plural(count, noun) { return `${count} ${noun}${count === 1 ? "" : "s"}`; }

// Counts over time

class History {
  constructor() { this.samples = []; }
  add(at, counts) {
    const last = this.samples.at(-1);
    if (last && counts.picks < last.counts.picks) this.samples = [];  // it has left, and returned with new counts
    this.samples.push({ at, counts });
    while (this.samples.length > 2 && this.samples[0].at < at - KEPT_SECONDS) this.samples.shift();
  }
  since(name, seconds) {
    const last = this.samples.at(-1);
    const first = this.samples.find((sample) => sample.at >= last.at - seconds) ?? last;
    return first === last ? null : { difference: last.counts[name] - first.counts[name], seconds: last.at - first.at };
  }
  rate(name) {
    const found = this.since(name, RATE_SECONDS);
    return found === null || found.seconds < 0.5 ? null : found.difference / found.seconds;
  }
  latencies() { return this.samples.map((sample) => sample.counts.latency).filter((value) => value !== null); }
}

const histories = new Map();
function historyOf(pool, backend) {
  const key = JSON.stringify([pool.name, backend.url]);
  if (!histories.has(key)) histories.set(key, new History());
  return histories.get(key);
}

// Talking to the sidecar

let token = sessionStorage.getItem("lbclient-token");
const headers = () => (token ? { authorization: `Bearer ${token}` } : {});

async function listen() {
  for (let pause = 500; ; pause = Math.min(pause * 2, 5000)) {
    try {
      const response = await fetch(`events${location.search}`, { headers: headers(), cache: "no-store" });
      if (response.status === 401) { await logIn(); pause = 250; continue; }
      if (!response.ok) throw new Error(`the sidecar answers ${response.status}`);
      pause = 250;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let buffer = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        buffer += value;
        const events = buffer.split("\n\n");
        buffer = events.pop();
        // only the newest counts: a tab in the background may have missed some
        const newest = events.filter((event) => event.startsWith("data: ")).at(-1);
        if (newest) { show(JSON.parse(newest.slice(6))); linked(true); }
      }
    } catch (error) { console.info(String(error)); }
    linked(false);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function linked(on) {
  const link = $("#link");
  setClass(link, `link ${on ? "on" : "off"}`);
  setText(link, on ? "live" : "no connection");
}

async function logIn() {
  const dialog = $("#login");
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  token = $("input", dialog).value;
  sessionStorage.setItem("lbclient-token", token);
}

async function act(pool, verb, body) {
  const response = await fetch(`pools/${encodeURIComponent(pool)}/${verb}`, {
    method: "POST", headers: { "content-type": "application/json", ...headers() }, body: JSON.stringify(body),
  });
  if (!response.ok) {
    const words = (await response.json().catch(() => ({}))).error ?? `the sidecar answers ${response.status}`;
    say(words);
    banner(`${verb} was refused`, words, 8000);
  }
}

// Asking first

let asked = null;

function ask(pool, backend, verb) {
  const draining = verb === "drain";
  asked = { pool: pool.name, url: backend.url, verb };
  setText($("#ask-title"), `${draining ? "Drain" : "Enable"} ${backend.url}?`);
  const last = draining && pool.backends.filter((other) => other.available).length <= 1 && backend.available;
  setText($("#ask-words"), draining
    ? `It takes no new requests. ${plural(backend.in_flight, "request")} in flight may finish.`
      + (last ? " Nobody else is available in this pool!" : "")
    : "It takes new requests at once, unless its probe fails.");
  $("#ask-grace").hidden = !draining;
  setText($("#ask-yes"), draining ? "Drain" : "Enable");
  $("#ask").returnValue = "no";
  $("#ask").showModal();
}

$("#ask").addEventListener("close", () => {
  if ($("#ask").returnValue !== "yes" || asked === null) return;
  const { pool, url, verb } = asked;
  const grace = Number($("#ask-grace input").value);
  void act(pool, verb, verb === "drain" ? { url, grace } : { url });
  asked = null;
});

// Showing

let newest = null;

function show(status) {
  newest = status;
  for (const pool of status.pools) {
    for (const backend of pool.backends) {
      const { picks, failures, latency } = backend;
      historyOf(pool, backend).add(status.now, { picks, failures, latency });
    }
  }
  showFigures(status);
  keyed($("#pools"), status.pools, (pool) => pool.name, newPool, showPool);
  showSplits(status.splits);
  showHappenings(status);
  showDecisions(status.decisions);
  if (status.leaving) banner("This sidecar is about to end", "It finishes what is under way.");
  else if (status.configuration.trouble) banner("The file cannot be served, so an older configuration is", status.configuration.trouble);
  else banner(null);
  setText($("#path"), status.configuration.path);
  const worker = status.worker ? `, worker ${status.worker.number} of ${status.worker.of}` : "";
  setText($("#version"), `lbclient ${status.version}, process ${status.pid}${worker}`);
  setText($("#uptime"), `up ${span(status.now - status.started_at)}, configuration loaded ${span(status.now - status.configuration.loaded_at)} ago`);
}

let bannerUntil = 0;
function banner(title, words = "", milliseconds = 0) {
  if (!milliseconds && Date.now() < bannerUntil) return;
  bannerUntil = milliseconds ? Date.now() + milliseconds : 0;
  const node = $("#banner");
  node.hidden = title === null;
  if (title !== null && node.textContent !== title + words) node.replaceChildren(element("strong", { textContent: title }), words);
}

function say(words) { $("#live").textContent = words; }

/** Makes the children of `parent` those of `items`, in order; a child keeps its place in the focus and its open parts. */
function keyed(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = null;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    if (!child) { child = make(item); child.dataset.key = key; }
    known.delete(key);
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== child) parent.insertBefore(child, place);
    update?.(child, item);
    before = child;
  }
  for (const child of known.values()) child.remove();
}

function sum(values) { return values.reduce((total, value) => (value === null ? total : (total ?? 0) + value), null); }

function showFigures(status) {
  const pools = status.pools;
  const backends = pools.flatMap((pool) => pool.backends.map((backend) => ({ pool, backend })));
  const available = backends.filter(({ backend }) => backend.available).length;
  const dead = pools.filter((pool) => !pool.backends.some((backend) => backend.available));
  const ill = backends.filter(({ backend }) => BAD.has(backend.state)).length;
  const [tone, word] = dead.length ? ["bad", `${dead.map((pool) => pool.name).join(", ")}: nobody available`]
    : ill || pools.some((pool) => pool.degraded) ? ["warn", ill ? `${plural(ill, "backend")} in trouble` : "degraded"]
    : ["good", "All well"];
  const put = (name, text) => setText($(`[data-is="${name}"]`), text);
  setClass($("#overall"), `figure wide ${tone}`);
  put("word", word);
  put("words", `${available} of ${plural(backends.length, "backend")} available in ${plural(pools.length, "pool")}`);
  put("rate", rate(sum(backends.map(({ pool, backend }) => historyOf(pool, backend).rate("picks")))));
  put("errors", rate(sum(backends.map(({ pool, backend }) => historyOf(pool, backend).rate("failures")))));
  put("active", String(status.active));
  put("clients", String(sum(status.listeners.map((listener) => listener.connections)) ?? 0));
  document.title = `${tone === "good" ? "" : tone === "bad" ? "✕ " : "▲ "}lbclient`;
}

function newPool(pool) {
  const title = `pool-${CSS.escape(pool.name)}`;
  return element("article", { className: "pool", "aria-labelledby": title },
    element("div", { className: "pool-head" },
      element("h2", { id: title, textContent: pool.name }), element("span", { className: "pill" }), element("span", { className: "facts" })),
    element("p", { className: "pool-why", hidden: true }),
    element("div", { className: "mix", "aria-hidden": "true" }),
    element("div", { className: "heads", "aria-hidden": "true" },
      ...["State", "Backend", "Share of requests"].map((text) => element("span", { textContent: text })),
      element("span", { className: "number", textContent: "Req/s" }), element("span", { className: "number", textContent: "Latency" }),
      element("span", { className: "number", textContent: "In flight" }), element("span", { className: "number", textContent: "Failed/s" }), element("span")),
    element("ul", { className: "rows", role: "list" }));
}

function showPool(node, pool) {
  const available = pool.backends.filter((backend) => backend.available).length;
  const pill = $(".pill", node);
  setClass(pill, `pill ${available === 0 ? "failing" : pool.degraded || available < pool.backends.length ? "warn" : "available"}`);
  setText(pill, pool.panic ? "health ignored" : available === pool.backends.length ? "all available" : `${available} of ${pool.backends.length} available`);
  const counted = pool.backends.map((backend) => historyOf(pool, backend).since("picks", RATE_SECONDS));
  const moving = sum(counted.map((found) => found && found.difference));
  const total = sum(pool.backends.map((backend) => backend.picks));
  const shares = pool.backends.map((backend, at) => moving ? (counted[at]?.difference ?? 0) / moving : total ? backend.picks / total : null);
  const facts = [pool.algorithm.replaceAll("_", " "), plural(pool.retries, "retry").replace("retrys", "retries")];
  if (pool.hedges) facts.push(plural(pool.hedges, "copy").replace("copys", "copies"));
  if (pool.source) facts.push(`from ${pool.source.name}${pool.source.well ? "" : `: ${pool.source.last_error}`}`);
  setText($(".facts", node), facts.join(" · "));
  const why = $(".pool-why", node);
  why.hidden = !pool.why;
  setText(why, pool.why);
  keyed($(".mix", node), pool.backends, (backend) => backend.url, () => element("span"), (part, backend) => {
    setClass(part, BAD.has(backend.state) ? "bad" : "");
    part.style.width = `${(shares[pool.backends.indexOf(backend)] ?? 0) * 100}%`;
    part.style.opacity = String(1 - 0.65 * (pool.backends.indexOf(backend) / Math.max(1, pool.backends.length - 1)));
  });
  keyed($(".rows", node), pool.backends, (backend) => backend.url, () => newRow(pool.name),
    (row, backend) => showRow(row, pool, backend, shares[pool.backends.indexOf(backend)]));
}

function newRow() {
  const number = (name, label) => element("div", { className: `number ${name}` },
    element("span", { className: "tag", textContent: label }), element("span", { className: "unseen", textContent: `${label}: ` }), element("b"));
  const graph = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  graph.setAttribute("viewBox", "0 0 100 24");
  graph.setAttribute("preserveAspectRatio", "none");
  graph.setAttribute("aria-hidden", "true");
  graph.append(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
  const button = element("button", { type: "button" });
  const row = element("li", { className: "row" },
    element("div", { className: "state" }, element("span", { className: "pill" })),
    element("div", { className: "who" }, element("div", { className: "url" }), element("div", { className: "why" })),
    element("div", { className: "share" }, element("div", { className: "track" }, element("span")), element("span", { className: "unseen", textContent: "Share: " }), element("b")),
    number("rps", "Req/s"),
    element("div", { className: "latency" }, graph, number("ms", "Latency")),
    number("flight", "In flight"), number("failed", "Failed/s"),
    element("div", { className: "do" }, button));
  button.addEventListener("click", () => {
    const pool = newest.pools.find((each) => each.name === row.dataset.pool);
    const backend = pool?.backends.find((each) => each.url === row.dataset.key);
    if (backend) ask(pool, backend, button.dataset.verb);
  });
  return row;
}

function showRow(row, pool, backend, share) {
  const history = historyOf(pool, backend);
  const before = row.dataset.state;
  row.dataset.pool = pool.name;
  row.dataset.state = backend.state;
  if (before && before !== backend.state) {
    say(`${backend.url} of pool ${pool.name} is ${backend.state}, was ${before}`);
    row.dataset.changed = String(Date.now());
  }
  const changed = Date.now() - Number(row.dataset.changed ?? 0) < 1500;
  setClass(row, `row${BAD.has(backend.state) ? " bad" : ""}${changed ? " changed" : ""}`);
  setClass($(".pill", row), `pill ${backend.state}`);
  setText($(".pill", row), STATES[backend.state]);
  setText($(".url", row), backend.url);
  setText($(".why", row), whyOf(backend));
  $(".track span", row).style.width = `${(share ?? 0) * 100}%`;
  setText($(".share b", row), percent(share));
  setText($(".rps b", row), rate(history.rate("picks")));
  setText($(".ms b", row), milliseconds(backend.latency));
  setText($(".flight b", row), String(backend.in_flight));
  const failed = history.rate("failures");
  setText($(".failed b", row), rate(failed));
  $(".failed b", row).classList.toggle("failing-now", failed > 0);
  draw($("polyline", row), history.latencies());
  const button = $("button", row);
  const verb = backend.admin === "active" ? "drain" : "enable";
  if (button.dataset.verb !== verb) {
    button.dataset.verb = verb;
    setText(button, verb === "drain" ? "Drain" : "Enable");
  }
  button.setAttribute("aria-label", `${verb === "drain" ? "Drain" : "Enable"} ${backend.url} of pool ${pool.name}`);
}

function whyOf(backend) {
  const words = [];
  if (backend.why !== "available" && backend.why !== backend.state) words.push(backend.why);
  if (backend.state === "draining") words.push(`${plural(backend.in_flight, "request")} left`);
  if (backend.weight !== 1) words.push(`weight ${backend.weight}`);
  if (backend.zone) words.push(`zone ${backend.zone}`);
  if (backend.priority) words.push(`priority ${backend.priority}`);
  if (backend.ejections) words.push(`ejected ${backend.ejections === 1 ? "once" : `${backend.ejections} times`}`);
  const { open, idle } = backend.connections;
  if (open) words.push(`${plural(open, "connection")}, ${idle} idle`);
  return words.join(" · ");
}

function draw(line, values) {
  const most = Math.max(...values, 1e-9) * 1.1;
  const step = 100 / Math.max(1, values.length - 1);
  const points = values.length < 2 ? "" : values.map((value, at) => `${(at * step).toFixed(1)},${(23 - 22 * (value / most)).toFixed(1)}`).join(" ");
  if (line.getAttribute("points") !== points) line.setAttribute("points", points);
}

function showSplits(splits) {
  const section = $("#splits");
  section.hidden = splits.length === 0;
  keyed($(".cards", section), splits, (split) => split.name,
    (split) => element("div", { className: "card" }, element("h3", { textContent: split.name }), element("div")),
    (card, split) => {
      const total = sum(Object.values(split.weights)) || 1;
      keyed($("div", card), Object.entries(split.weights), ([pool]) => pool,
        ([pool]) => element("div", { className: "side" }, element("span", { textContent: pool }),
          element("div", { className: "track" }, element("span")), element("b")),
        (side, [, weight]) => {
          $(".track span", side).style.width = `${(weight / total) * 100}%`;
          setText($("b", side), percent(weight / total));
        });
    });
}

function showHappenings(status) {
  const running = status.operations.filter((operation) => operation.state === "running")
    .map((operation) => ({ number: `o${operation.number}`, at: operation.started_at, tone: "info", text: `under way: ${operation.what}` }));
  const list = $("#happenings");
  keyed(list, [...running, ...status.happenings], (one) => one.number, (one) =>
    element("li", { className: one.tone }, element("time", { textContent: clock(one.at) }), element("span", { className: "text", textContent: one.text })));
  if (!list.children.length) list.append(element("li", { className: "none", textContent: "Nothing yet: ejections, probes, drains and reloads are told here." }));
}

function showDecisions(decisions) {
  const list = $("#decisions");
  keyed(list, decisions, (one) => one.number, (one) => {
    const tone = one.status === 0 || one.status >= 500 ? "bad" : one.attempts > 1 || one.status >= 400 ? "warn" : "good";
    const words = `${one.method} ${one.target}`;
    const by = one.backend ? ` by ${one.backend}` : "";
    const details = element("details", {}, element("summary", {},
      element("span", { className: `status ${tone}`, textContent: one.status === 0 ? "cut off" : String(one.status) }),
      ` ${words}${by} in ${milliseconds(one.seconds)}${one.attempts > 1 ? `, ${one.attempts} attempts` : ""}`));
    if (one.why) details.append(element("pre", { textContent: one.why }));
    return element("li", {}, element("time", { textContent: clock(one.at) }), details);
  });
  if (!list.children.length) list.append(element("li", { className: "none", textContent: "No request yet. Those that were repeated or failed stay the longest." }));
}

// Colours

const THEMES = [["", "as the system has them", "◐"], ["light", "light", "☀"], ["dark", "dark", "☾"]];
function theme(name) {
  const [value, words, sign] = THEMES.find(([each]) => each === name) ?? THEMES[0];
  if (value) document.documentElement.dataset.theme = value; else delete document.documentElement.dataset.theme;
  setText($("#theme"), sign);
  $("#theme").setAttribute("aria-label", `Colours: ${words}`);
  localStorage.setItem("lbclient-theme", value);
}
$("#theme").addEventListener("click", () => {
  const at = THEMES.findIndex(([each]) => each === (localStorage.getItem("lbclient-theme") ?? ""));
  theme(THEMES[(at + 1) % THEMES.length][0]);
});
theme(localStorage.getItem("lbclient-theme") ?? "");

void listen();
