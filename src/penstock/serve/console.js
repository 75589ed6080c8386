"use strict";
// The console's page: it reads a stream of snapshots and shows each.
const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
let half = localStorage.getItem("penstock-page") || "";  // of the token; a cookie holds the other
let zone = localStorage.getItem("penstock-zone") || "UTC", span = 60, historyKey = "", history_ = null, picked = null;
let lastAt = 0, rejectsKey = "", rejectsAsked = false, verdictKey = "", pause = 500;

const away = "Redis does not answer";
const count = (value) => (value === null || value === undefined ? "not known" : number.format(Math.round(value)));
const rate = (value) => `${number.format(value < 10 ? Math.round(value * 10) / 10 : Math.round(value))} a second`;

const counted = (value, one, many) => `${count(value)} ${Math.round(value) === 1 ? one : many}`;

function time(seconds) {
  if (seconds >= 86400) return `${(seconds / 86400).toFixed(1)} d`;
  if (seconds >= 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return seconds >= 120 ? `${Math.round(seconds / 60)} min` : `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
}

// One time format everywhere, the date first; in UTC, like the commands and the logs.
function clock(seconds) {
  const at = new Date(1000 * seconds);
  if (zone === "UTC") return at.toISOString().slice(0, 19) + "Z";
  return new Date(at - 60000 * at.getTimezoneOffset()).toISOString().slice(0, 19).replace("T", " ");
}

function bytes(size) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (size < 1024) return `${size < 10 && unit !== "B" ? size.toFixed(1) : Math.round(size)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} TiB`;
}

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;  // never as markup: anybody can choose a name
  if (name) element.className = name;
  return element;
}

// Advice puts commands between backticks.
const commands = (text) => text.split("`").map((part, at) => make(at % 2 ? "code" : "span", part));

function rows(id, cells, columns, none) {
  const made = cells.map((row) => {
    const line = make("tr");
    row.forEach((cell, at) => {
      const made = cell instanceof Node ? cell : make("td", cell, columns[at]);
      made.dataset.name = $(id).parentNode.querySelectorAll("th")[at].textContent;  // a phone shows it
      line.append(made);
    });
    return line;
  });
  if (!made.length) {
    const cell = make("td", none, "none");
    cell.colSpan = columns.length;
    const line = make("tr");
    line.append(cell);
    made.push(line);
  }
  $(id).replaceChildren(...made);
}

function showVerdicts(seen) {
  const key = JSON.stringify(seen.verdicts.map((v) => [v.code, v.advice]));
  if (key !== verdictKey || !seen.verdicts.length) {  // read aloud only when it changes
    const said = seen.verdicts.map((v) => {
      const box = make("div", undefined, `verdict ${v.wrong ? "bad" : "look"}`);
      const link = make("a", v.code);
      link.href = `/help#${v.code}`;
      box.append(make("b", v.text), ...commands(v.advice), " ", link);
      return box;
    });
    if (seen.healthy) {
      const box = make("div", undefined, "verdict good");
      box.append(make("b", "Healthy"));
      said.unshift(box);
    }
    if (key !== verdictKey) {
      $("verdict").replaceChildren(...said);
      // Not the visible text: its figures change every second, and would be read aloud each time.
      $("verdict-said").textContent = (seen.healthy ? ["Healthy"] : []).concat(seen.verdicts.map((v) => v.text)).join(". ");
    }
    verdictKey = key;
  } else {
    $("verdict").querySelectorAll(".verdict:not(.good) b").forEach((b, at) => {
      const text = seen.verdicts[at].text;
      if (b.textContent !== text) b.textContent = text;
    });
  }
  document.title = `${seen.healthy ? "✓" : "✗"} ${count(seen.waiting)} waiting · Penstock`;
}

function station(id, value, more) {
  const box = $(id);
  box.querySelector(".count").textContent = count(value);
  box.classList.toggle("unknown", value === null || value === undefined);
  box.querySelector(".more").textContent = more;
}

function showFlow(seen) {
  const ledger = seen.ledger, spool = seen.spool, rates = seen.rates;
  const sizes = ledger ? ledger.sizes : {}, counters = ledger ? ledger.counters : {};
  station("waiting", seen.waiting, spool && seen.waiting ? `oldest ${time(spool.oldest_waiting_seconds)}` : seen.waiting === 0 ? "none" : ledger ? "the spool does not answer" : away);
  station("processing", sizes.processing, ledger ? `in ${counted(sizes.claims, "claim", "claims")}` : away);
  station("processed", sizes.processed, ledger ? rate(rates.files_processed) : away);
  station("archived", ledger ? counters.files_archived || 0 : null, ledger ? rate(rates.files_archived) : away);
  $("flow").classList.toggle("moving", !!ledger && rates.files_processed > 0);
  $("side").textContent = ledger
    ? `${count(counters.files_rejected || 0)} rejected, ${count(counters.files_vanished || 0)} vanished, ${count(sizes.retry)} to retry, ${counted(counters.possible_repeats || 0, "possible repeat", "possible repeats")}, since the ledger began`
    : "Redis, which knows what becomes of each file, does not answer. Workers wait for it; files stay where they are, and nothing is lost.";
}

// The charts, one below the other, over the same time; the maximum stands at the left of each.
const CHARTS = [
  ["files", "processed; rejected in red", count, ["files", "rejects"]],
  ["waiting", "waiting, at most", count, ["waiting"]],
  ["age", "oldest waiting", time, ["age_seconds"]],
];

async function showHistory(seen) {
  const key = `${span} ${zone} ${Math.floor(seen.at / 10)}`;
  if (key === historyKey) return;
  historyKey = key;
  const reply = await call(`/v1/history?minutes=${span}`);
  if (reply.ok) drawHistory(await reply.json());
}

function drawHistory(told) {
  history_ = told;
  const drawn = CHARTS.map(([id, title, said, names]) => {
    const most = Math.max(...told.bars.map((bar) => names.reduce((sum, name) => sum + (bar[name] || 0), 0)));
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const wide = 600 / told.bars.length;
    for (const [key, value] of Object.entries({ viewBox: "0 0 600 100", preserveAspectRatio: "none", "aria-hidden": "true" })) svg.setAttribute(key, value);
    told.bars.forEach((bar, at) => {
      let from = 100;
      for (const name of names) {
        if (!bar[name]) continue;
        const high = Math.max(1, 98 * bar[name] / most), rect = document.createElementNS(svg.namespaceURI, "rect");
        from -= high;
        for (const [key, value] of Object.entries({ x: (at + .1) * wide, y: from, width: .8 * wide, height: high, class: name })) rect.setAttribute(key, value);
        svg.append(rect);
      }
    });
    const figure = make("div", undefined, "chart"), axis = make("p", undefined, "most");
    axis.append(make("span", most ? said(most) : ""), make("span", "0"));
    figure.append(make("h3", title), axis, svg);
    return figure;
  });
  $("charts").replaceChildren(...drawn);
  $("chart-times").replaceChildren(...[0, .25, .5, .75, 1].map((share) => {
    const { at } = told.bars[Math.round(share * (told.bars.length - 1))];
    return make("span", clock(at).slice(11, 16));
  }));
  mark();
}

// Show the values of the chosen bar, and mark it in each chart.
function mark() {
  const bar = picked === null ? null : history_.bars[picked];
  for (const svg of $("charts").querySelectorAll("svg")) {
    svg.querySelector(".picked")?.remove();
    if (!bar) continue;
    const line = document.createElementNS(svg.namespaceURI, "rect"), wide = 600 / history_.bars.length;
    for (const [key, value] of Object.entries({ x: picked * wide, y: 0, width: wide, height: 100, class: "picked" })) line.setAttribute(key, value);
    svg.prepend(line);
  }
  if (!bar) return;
  const known = "files" in bar ? `${counted(bar.files, "file", "files")} processed, ${count(bar.rejects)} rejected` : "files not known";
  const more = "waiting" in bar ? `${count(bar.waiting)} waiting, the oldest ${time(bar.age_seconds)}` : "waiting not known";
  $("chart-said").textContent = `${clock(bar.at)}: ${known}; ${more}`;
}

function pick(at) {
  if (!history_) return;
  picked = Math.max(0, Math.min(history_.bars.length - 1, at));
  mark();
}

function showFigures(seen) {
  const rates = seen.rates, queue = seen.queue, memory = seen.memory, spool = seen.spool;
  const known = [
    ["records sent", seen.ledger ? rate(rates.records_sent) : "not known", seen.ledger ? `${bytes(rates.bytes_sent)} a second${rates.bytes_room ? `, messages ${Math.round(100 * rates.bytes_sent / rates.bytes_room)} % full` : ""}` : ""],
    ["in the queue", queue ? count(queue.visible) : "not known", queue ? `${Math.round(queue.visible) === 1 ? "message" : "messages"}, ${count(queue.in_flight)} in flight` : seen.away.queue ? "the queue is away" : "not known"],
    ["Redis memory", memory ? bytes(memory.used_bytes) : "not known", memory ? `${memory.max_bytes ? `of ${bytes(memory.max_bytes)}, ` : ""}${bytes(memory.ledger_bytes)} this ledger's` : away],
    ["in the spool", spool ? count(spool.entries) : "not known", spool ? `${spool.entries === 1 ? "file" : "files"}, in any state` : "not known"],
    ...(seen.forecast ? [["archive's disk", `${(+seen.forecast.lasts_days).toFixed(1)} days`, `of ${seen.forecast.scarce} at the last hour's rate`]] : []),
    ["disk free", spool && spool.room ? bytes(spool.room.free_bytes) : "not known", !spool ? "not known" : spool.room ? `of ${bytes(spool.room.disk_bytes)}` : "unknown over HTTP"],
  ];
  $("figures").replaceChildren(...known.map(([name, value, more]) => {
    const box = make("div"), figure = make("dd", value);
    figure.append(make("small", more));
    box.append(make("dt", name), figure);
    return box;
  }));
}

function showTables(seen) {
  $("claims-count").textContent = seen.ledger ? count(seen.ledger.sizes.claims) : "";
  rows("claims", seen.claims.slice(0, 50).map((c) => [c.claim, time(c.age_seconds), c.worker || (c.waits_for ? "waits" : "nobody"), count(c.files), count(c.attempt)]),
    ["", "", "", "n", "n"], seen.ledger ? "no claim is open" : "not known while Redis is away");
  $("workers-count").textContent = seen.ledger ? count(seen.workers.length) : "";
  rows("workers", seen.workers.map((w) => [w.name, `${time(w.silent_for_seconds)} ago`, count(w.claims), count(w.files)]),
    ["", "", "n", "n"], seen.ledger ? "no worker has asked for work" : "not known while Redis is away");
}

function call(path, options = {}) {
  return fetch(path, { ...options, headers: { ...options.headers, "Penstock-Page": half } });
}

async function showRejects(seen) {
  const kept = (seen.ledger ? seen.ledger.sizes.rejected : 0) + (seen.spool ? seen.spool.rejects_kept : 0);
  const key = `${zone} ${kept} ${seen.ledger ? (seen.ledger.counters.files_rejected || 0) + " " + (seen.ledger.counters.files_put_back || 0) : ""}`;
  if (key === rejectsKey || rejectsAsked) return;
  rejectsAsked = true;
  let found;
  try {
    const reply = await call("/v1/rejects");
    if (!reply.ok) return;  // the next snapshot retries
    found = await reply.json();
  } finally {
    rejectsAsked = false;
  }
  rejectsKey = key;
  showGroups(found);
  const focused = document.activeElement, row = focused.closest("#rejects tr");
  const at = row ? [...row.parentNode.children].indexOf(row) : -1;
  $("rejects-count").textContent = found.total > found.rejects.length ? `the latest ${found.rejects.length} of ${count(found.total)}` : count(found.total);
  rows("rejects", found.rejects.map((r) => {
    const action = make("td");
    if (found.can_retry) {
      const button = make("button", "Retry");
      button.setAttribute("aria-label", `Retry ${r.file}`);
      button.addEventListener("click", () => change("retry", [r.file], button));
      action.append(button);
    }
    return [r.file, make("td", r.reason, "wide"), r.rejected_at ? clock(Date.parse(r.rejected_at) / 1000) : "", action];
  }), ["", "wide", "", ""], "no rejected file is kept");
  if (at < 0) return;  // else a keyboard user keeps the focus
  const buttons = [...$("rejects").querySelectorAll("button")];
  const same = buttons.find((b) => b.getAttribute("aria-label") === focused.getAttribute("aria-label"));
  (same || buttons[Math.min(at, buttons.length - 1)] || $("rejects-title")).focus();
}

function showGroups(found) {
  const groups = Object.entries(Object.groupBy(found.can_retry ? found.rejects : [], (r) => r.kind));
  $("reject-groups").replaceChildren(...groups.filter(([, all]) => all.length > 1).map(([kind, all]) => {
    const line = make("li"), names = all.map((r) => r.file);
    line.append(make("span", `${count(all.length)} × ${kind}`));
    for (const [verb, text] of [["retry", `Retry all ${all.length}`], ["discard", "Discard them"]]) {
      const button = make("button", text);
      button.setAttribute("aria-label", `${text}: ${kind}`);
      button.addEventListener("click", () => change(verb, names, button));
      line.append(button);
    }
    return line;
  }));
}

async function change(verb, names, button) {
  if (button.getAttribute("aria-disabled")) return;
  const what = names.length === 1 ? names[0] : `${names.length} files`;
  if (verb === "discard" && !confirm(`${what} will never be sent. They are moved to discarded/ in the rejects directory: continue?`)) return;
  button.setAttribute("aria-disabled", "true");  // if disabled, it would lose the keyboard's focus
  $("rejects-said").textContent = verb === "retry" ? `Putting ${what} back …` : `Discarding ${what} …`;
  try {
    const reply = await call(`/v1/rejects:${verb}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ names }) });
    const said = await reply.json(), refused = Object.entries(said.refused || {});
    const done = said.done && said.done.length ? `${said.done.length === 1 ? said.done[0] : `${said.done.length} files`} ${verb === "retry" ? "back in the spool; the next worker takes it" : "discarded"}.` : "";
    const why = said.error ? `Not ${what}: ${said.error}` : refused.length ? `Not ${refused[0][0]}: ${refused[0][1]}${refused.length > 1 ? `, and ${refused.length - 1} more` : ""}` : "";
    $("rejects-said").textContent = [done.replace(" back in", names.length === 1 ? " is back in" : " are back in"), why].join(" ").trim();
    if (why) button.removeAttribute("aria-disabled");
    if (done) rejectsKey = "";
  } catch {
    $("rejects-said").textContent = `${what}: the server did not answer; try again`;
    button.removeAttribute("aria-disabled");
  }
}

async function find(name) {
  const reply = await call(`/v1/file?name=${encodeURIComponent(name)}`), told = await reply.json();
  const lines = told.error ? [told.error] : [...told.lines, `Next: ${told.next}`];
  const list = make("ul");
  list.append(...lines.map((line) => { const item = make("li"); item.append(...commands(line)); return item; }));
  $("found").replaceChildren(make("b", told.error ? name : `${told.file}: ${told.state}`), list);
}

function show(seen) {
  lastAt = Date.now();
  $("all").hidden = false;
  $("login").hidden = true;
  $("spool").textContent = seen.spool_name;
  live();
  showVerdicts(seen);
  showFlow(seen);
  showHistory(seen).catch(() => { historyKey = ""; });
  showFigures(seen);
  showTables(seen);
  showRejects(seen).catch(() => { rejectsKey = ""; });
}

function live() {
  const age = (Date.now() - lastAt) / 1000, on = lastAt && age < 5;
  $("live").className = on ? "on" : "off";
  const text = on ? "live" : lastAt ? `no word from the server for ${time(age)}; trying again` : "connecting";
  if ($("live-text").textContent !== text) $("live-text").textContent = text;
  $("all").classList.toggle("stale", !on);
}

function askForToken(wrong) {
  half = "";
  localStorage.removeItem("penstock-page");
  $("all").hidden = true;
  $("login").hidden = false;
  $("login-wrong").textContent = wrong;
  $("live-text").textContent = "waiting for the token";
  $("token").focus();
}

async function listen() {
  const reply = await call("/v1/status/stream");
  if (reply.status === 401) {
    askForToken(half ? "The server's token has changed." : "");
    return false;
  }
  if (!reply.ok) throw new Error(`HTTP ${reply.status}`);
  pause = 500;
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return true;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) if (event.startsWith("data: ")) show(JSON.parse(event.slice(6)));
  }
}

async function go() {
  for (;;) {
    try {
      if (!(await listen())) return;
    } catch { /* away: retried */ }
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, 5000);
  }
}

async function login(token) {
  if (!/^[\x21-\x7e]+$/.test(token)) return askForToken("That is not a token: it must be printable ASCII characters without spaces.");
  const reply = await call("/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }) });
  if (!reply.ok) return askForToken("That is not the server's token.");
  half = (await reply.json()).page;
  localStorage.setItem("penstock-page", half);
  go();
}

document.addEventListener("DOMContentLoaded", () => {
  $("login").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = $("token").value.trim();
    $("token").value = "";
    login(token).catch(() => askForToken("The server did not answer; try again."));
  });
  $("zone").value = zone;
  $("zone").addEventListener("change", () => localStorage.setItem("penstock-zone", zone = $("zone").value));
  for (const [id, minutes] of [["hour", 60], ["day", 1440]]) {
    $(id).addEventListener("click", () => {
      [span, picked] = [minutes, null];
      for (const other of ["hour", "day"]) $(other).setAttribute("aria-pressed", other === id);
    });
  }
  $("charts").addEventListener("pointermove", (event) => {
    const drawing = $("charts").querySelector("svg")?.getBoundingClientRect();
    if (drawing && event.clientX >= drawing.left) pick(Math.floor((event.clientX - drawing.left) / drawing.width * history_.bars.length));
  });
  $("charts").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) pick((picked === null ? history_?.bars.length : picked) + step);
  });
  $("find").addEventListener("submit", (event) => {
    event.preventDefault();
    find($("find-name").value).catch(() => { $("found").textContent = "The server did not answer; try again."; });
  });
  setInterval(live, 1000);
  go();
});
