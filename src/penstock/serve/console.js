"use strict";
// The page of Penstock's console: reads one stream of snapshots and shows each.
const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
let half = localStorage.getItem("penstock-page") || "";  // of the token; a cookie has the other
let lastAt = 0, rejectsKey = "", rejectsAsked = false, verdictKey = "", pause = 500;

const count = (value) => (value === null || value === undefined ? "?" : number.format(Math.round(value)));
const rate = (value) => `${number.format(value < 10 ? Math.round(value * 10) / 10 : Math.round(value))} a second`;

const counted = (value, one, many) => `${count(value)} ${Math.round(value) === 1 ? one : many}`;

function time(seconds) {
  if (seconds >= 86400) return `${(seconds / 86400).toFixed(1)} d`;
  if (seconds >= 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return seconds >= 120 ? `${Math.round(seconds / 60)} min` : `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
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
  if (text !== undefined) element.textContent = text;  // never markup: names come from elsewhere
  if (name) element.className = name;
  return element;
}

// Advice has its commands between backticks.
const commands = (text) => text.split("`").map((part, at) => make(at % 2 ? "code" : "span", part));

function rows(id, cells, columns, none) {
  const made = cells.map((row) => {
    const line = make("tr");
    row.forEach((cell, at) => line.append(cell instanceof Node ? cell : make("td", cell, columns[at])));
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
  if (key !== verdictKey || !seen.verdicts.length) {  // spoken only when it changes
    const said = seen.verdicts.map((v) => {
      const box = make("div", undefined, `verdict ${v.wrong ? "bad" : "look"}`);
      box.append(make("b", v.text), ...commands(v.advice), " ", make("small", v.code));
      return box;
    });
    if (seen.healthy) {
      const box = make("div", undefined, "verdict good");
      box.append(make("b", "Healthy"));
      said.unshift(box);
    }
    if (key !== verdictKey) {
      $("verdict").replaceChildren(...said);
      // Apart from what is seen: figures in it change every second, and would be spoken each time.
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
  box.querySelector(".more").textContent = more;
}

function showFlow(seen) {
  const ledger = seen.ledger, spool = seen.spool, rates = seen.rates;
  const sizes = ledger ? ledger.sizes : {}, counters = ledger ? ledger.counters : {};
  station("waiting", seen.waiting, spool && seen.waiting ? `oldest ${time(spool.oldest_waiting_seconds)}` : seen.waiting === 0 ? "none" : "not known");
  station("processing", sizes.processing, ledger ? `in ${counted(sizes.claims, "claim", "claims")}` : "not known");
  station("processed", sizes.processed, ledger ? rate(rates.files_processed) : "not known");
  station("archived", ledger ? counters.files_archived || 0 : null, ledger ? rate(rates.files_archived) : "not known");
  $("flow").classList.toggle("moving", !!ledger && rates.files_processed > 0);
  $("side").textContent = ledger
    ? `${count(counters.files_rejected || 0)} rejected, ${count(counters.files_vanished || 0)} vanished, ${count(sizes.retry)} to be looked at again, ${counted(counters.possible_repeats || 0, "possible repeat", "possible repeats")}, since the ledger began`
    : "";
}

function showChart(seen) {
  const values = seen.minutes.map((m) => m.files_processed), rejects = seen.minutes.map((m) => m.files_rejected);
  const most = Math.max(1, ...values.map((v, at) => v + rejects[at]));
  const bars = [];
  const bar = (at, from, size, name) => {
    if (!size) return;
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const high = Math.max(1, (size / most) * 112);
    for (const [key, value] of Object.entries({ x: at * 10 + 1, y: 120 - from - high, width: 8, height: high })) rect.setAttribute(key, value);
    if (name) rect.setAttribute("class", name);
    bars.push(rect);
  };
  values.forEach((value, at) => {
    bar(at, 0, value, at === 59 ? "now" : "");
    bar(at, (value / most) * 112, rejects[at], "bad");
  });
  $("chart").replaceChildren(...bars);
  const all = values.reduce((a, b) => a + b, 0);
  $("chart-most").textContent = all ? `files processed a minute, at most ${count(Math.max(...values))}` : "nothing processed";
  $("chart-said").textContent = counted(all, "file", "files");
}

function showFigures(seen) {
  const rates = seen.rates, queue = seen.queue, memory = seen.memory, spool = seen.spool;
  const known = [
    ["records sent", seen.ledger ? rate(rates.records_sent) : "?", seen.ledger ? `${bytes(rates.bytes_sent)} a second${rates.bytes_room ? `, messages ${Math.round(100 * rates.bytes_sent / rates.bytes_room)} % full` : ""}` : ""],
    ["in the queue", queue ? count(queue.visible) : "?", queue ? `${Math.round(queue.visible) === 1 ? "message" : "messages"}, ${count(queue.in_flight)} in flight` : seen.away.queue ? "the queue is away" : "not known"],
    ["Redis memory", memory ? bytes(memory.used_bytes) : "?", memory ? `${memory.max_bytes ? `of ${bytes(memory.max_bytes)}, ` : ""}${bytes(memory.ledger_bytes)} this ledger's` : "Redis is away"],
    ["in the spool", spool ? count(spool.entries) : "?", spool ? `${spool.entries === 1 ? "file" : "files"}, whatever the state` : "not known"],
    ...(seen.forecast ? [["archive's disk", `${(+seen.forecast.lasts_days).toFixed(1)} days`, `of ${seen.forecast.scarce} at the last hour's rate`]] : []),
    ["disk free", spool && spool.room ? bytes(spool.room.free_bytes) : "?", !spool ? "not known" : spool.room ? `of ${bytes(spool.room.disk_bytes)}` : "not told over HTTP"],
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
  const key = `${kept} ${seen.ledger ? (seen.ledger.counters.files_rejected || 0) + " " + (seen.ledger.counters.files_put_back || 0) : ""}`;
  if (key === rejectsKey || rejectsAsked) return;
  rejectsAsked = true;
  let found;
  try {
    const reply = await call("/v1/rejects");
    if (!reply.ok) return;  // asked again with the next snapshot
    found = await reply.json();
  } finally {
    rejectsAsked = false;
  }
  rejectsKey = key;
  const focused = document.activeElement, row = focused.closest("#rejects tr");
  const at = row ? [...row.parentNode.children].indexOf(row) : -1;
  $("rejects-count").textContent = found.total > found.rejects.length ? `the latest ${found.rejects.length} of ${count(found.total)}` : count(found.total);
  rows("rejects", found.rejects.map((r) => {
    const action = make("td");
    if (found.can_retry) {
      const button = make("button", "Retry");
      button.setAttribute("aria-label", `Retry ${r.file}`);
      button.addEventListener("click", () => retry(r.file, button));
      action.append(button);
    }
    return [r.file, make("td", r.reason, "wide"), (r.rejected_at || "").slice(0, 19).replace("T", " "), action];
  }), ["", "wide", "", ""], "no rejected file is kept");
  if (at < 0) return;  // else who works by keyboard stays where they are
  const buttons = [...$("rejects").querySelectorAll("button")];
  const same = buttons.find((b) => b.getAttribute("aria-label") === focused.getAttribute("aria-label"));
  (same || buttons[Math.min(at, buttons.length - 1)] || $("rejects-title")).focus();
}

async function retry(name, button) {
  if (button.getAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");  // disabled, it would lose the keyboard's focus
  $("rejects-said").textContent = `Putting ${name} back …`;
  try {
    const reply = await call("/v1/rejects:retry", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ names: [name] }) });
    const said = await reply.json();
    const why = said.error || (said.refused && said.refused[name]);
    $("rejects-said").textContent = why ? `Not ${name}: ${why}` : `${name} is back in the spool; the next worker takes it.`;
    if (why) button.removeAttribute("aria-disabled");
    else rejectsKey = "";
  } catch {
    $("rejects-said").textContent = `${name}: the server did not answer; try again`;
    button.removeAttribute("aria-disabled");
  }
}

function show(seen) {
  lastAt = Date.now();
  $("all").hidden = false;
  $("login").hidden = true;
  $("spool").textContent = seen.spool_name;
  live();
  showVerdicts(seen);
  showFlow(seen);
  if (seen.minutes.length) showChart(seen);
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
    } catch { /* away: it is asked again */ }
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, 5000);
  }
}

async function login(token) {
  if (!/^[\x21-\x7e]+$/.test(token)) return askForToken("That is no token: printable ASCII characters, and no spaces.");
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
  setInterval(live, 1000);
  go();
});
