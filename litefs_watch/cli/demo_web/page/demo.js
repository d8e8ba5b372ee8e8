"use strict";
// The page shows what the server's events say, and asks with ordinary requests; the browser keeps the cookie by itself.

const $ = (id) => document.getElementById(id);
const PLACES = { ams: [450, 60], iad: [150, 170], syd: [750, 190] };
const LANES = ["without", "with"];
const still = matchMedia("(prefers-reduced-motion: reduce)");
const tally = { without: { fresh: 0, stale: 0, failed: 0 }, with: { fresh: 0, stale: 0, failed: 0 } };
let nodes = {};
let busy = false;

function make(name, attributes = {}, text = "") {
  const svg = ["g", "circle", "line", "text"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

// What the cluster looks like.

function build(list) {
  for (const node of list) {
    const [x, y] = PLACES[node.hostname];
    for (const other of list) {
      if (other.hostname <= node.hostname) continue;
      const [x2, y2] = PLACES[other.hostname];
      $("links").append(make("line", { x1: x, y1: y, x2, y2, id: `link-${node.hostname}-${other.hostname}` }));
    }
    const place = make("g", { id: `place-${node.hostname}`, transform: `translate(${x} ${y})` });
    place.append(make("circle", { r: 30 }), make("text", { class: "number", y: 7 }), make("text", { y: 54 }, node.city));
    $("places").append(place);
    $("nodes").append(card(node));
    $("region").append(make("option", { value: node.hostname }, node.city));
  }
  $("region").value = list[1].hostname;
}

function card(node) {
  const element = $("node").content.cloneNode(true).firstElementChild;
  element.id = `node-${node.hostname}`;
  element.querySelector("h3").textContent = `${node.city} (${node.hostname})`;
  element.querySelector(".lag span").textContent = "Lag";
  const slider = element.querySelector("input");
  slider.setAttribute("aria-label", `Lag of ${node.city}, in seconds`);
  slider.addEventListener("input", () => act("lag", { node: node.hostname, seconds: Number(slider.value) }));
  for (const button of element.querySelectorAll("button")) {
    button.addEventListener("click", () => act(button.dataset.do, { node: node.hostname }));
  }
  return element;
}

function show(state) {
  if (!Object.keys(nodes).length) build(state.nodes);
  nodes = Object.fromEntries(state.nodes.map((node) => [node.hostname, node]));
  const newest = Math.max(...state.nodes.map((node) => node.txid));
  for (const node of state.nodes) showNode(node, newest, state.longestLag);
  for (const line of $("links").children) {
    const [, one, other] = line.id.split("-");
    line.setAttribute("class", follows(one, other) || follows(other, one) ? "live" : "");
  }
  for (const dot of [...$("dots").children]) if (!nodes[dot.dataset.from].running) dot.remove(); // it did not get away
  $("visitors").checked = state.visitors;
  $("map").setAttribute("aria-label", state.nodes.map((node) => `${node.city}: ${described(node)}`).join("; "));
}

function showNode(node, newest, longest) {
  const element = $(`node-${node.hostname}`), place = $(`place-${node.hostname}`);
  element.className = `node ${node.role}`;
  place.setAttribute("class", node.role);
  place.querySelector(".number").textContent = node.running ? node.txid : "✕";
  const behind = newest - node.txid;
  write(element.querySelector(".role"), described(node));
  write(element.querySelector(".txid"), `transaction ${node.txid}${behind ? `, ${behind} behind` : ""}`);
  const slider = element.querySelector("input");
  slider.max = longest;
  if (document.activeElement !== slider) slider.value = node.lag;
  slider.disabled = node.role === "primary";
  write(element.querySelector("output"), `${node.lag.toFixed(2)} s`);
  const [promote, kill, freeze] = element.querySelectorAll("button");
  promote.disabled = node.role !== "replica" || !node.running || node.frozen;
  toggle(kill, node.running, "kill", "Kill", "restart", "Start");
  toggle(freeze, !node.frozen, "freeze", "Freeze", "thaw", "Thaw");
  freeze.disabled = !node.running;
  for (const button of [promote, kill, freeze]) button.setAttribute("aria-label", `${button.textContent}: ${node.city}`);
}

function toggle(button, on, action, text, otherAction, otherText) {
  button.dataset.do = on ? action : otherAction;
  write(button, on ? text : otherText);
}

function write(element, text) { if (element.textContent !== text) element.textContent = text; }

function follows(replica, primary) { return nodes[replica].role === "replica" && nodes[replica].primary === primary; }

function described(node) {
  if (!node.running) return "down";
  if (node.frozen) return "frozen";
  return { primary: "primary", replica: `replica of ${node.primary}` }[node.role] ?? "no primary known";
}

// Transactions on their way.

function send(from, to) {
  if (still.matches) return;
  const [x1, y1] = PLACES[from], [x2, y2] = PLACES[to];
  const dot = make("circle", { r: 8, "data-from": from });
  $("dots").append(dot);
  const way = [{ transform: `translate(${x1}px, ${y1}px)` }, { transform: `translate(${x2}px, ${y2}px)` }];
  const done = () => dot.remove();
  dot.animate(way, { duration: Math.max(120, nodes[to].lag * 1000) }).finished.then(done, done);
}

function transaction({ node, commit }) {
  if (!commit) return;
  for (const other of Object.keys(nodes)) {
    if (other !== node && nodes[other].running && $("dots").childElementCount < 60) send(node, other);
  }
}

function say(text) {
  const log = $("log");
  log.append(make("li", {}, `${new Date().toLocaleTimeString()}  ${text}`));
  while (log.childElementCount > 200) log.firstElementChild.remove();
  log.scrollTop = log.scrollHeight;
}

// Asking.

async function ask(method, url, data) {
  const options = { method, cache: "no-store" };
  if (data) Object.assign(options, { body: JSON.stringify(data), headers: { "content-type": "application/json" } });
  const began = performance.now();
  const response = await fetch(url, options);
  const text = await response.text();
  let body = {};
  try { body = JSON.parse(text); } catch { body = { error: text.trim() }; }
  const { headers } = response;
  const trail = headers.get("demo-trail")?.split(" ") ?? [];
  return { ok: response.ok, status: response.status, body, trail, lost: headers.get("litefs-lost"), ms: performance.now() - began };
}

async function act(action, data) {
  const answer = await ask("POST", `/do/${action}`, data);
  if (!answer.ok) say(`${action}: ${answer.body.error}`);
  return answer.ok;
}

const ms = (value) => (value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`);
const way = (trail) => (trail.length > 1 ? `${trail[0]} sent it on to ${trail.slice(1).join(", ")}` : `${trail[0]} answered`);

function showRead(lane, answer, wrote) {
  const element = $(lane), notes = answer.body.notes ?? [];
  const yours = (note) => note.id === wrote.id && note.text === wrote.text; // a lost note's number is given again
  const seen = notes.some(yours);
  const [verdict, mood, count] = judged(answer, seen);
  tally[lane][count] += 1;
  element.className = `lane ${mood}`;
  element.querySelector(".verdict").textContent = verdict;
  element.querySelector(".how").textContent = `${way(answer.trail)} after ${ms(answer.ms)}`;
  const items = notes.map((note) => make("li", yours(note) ? { class: "yours" } : {}, `#${note.id} ${note.text}`));
  element.querySelector("ol").replaceChildren(...items);
  const { fresh, stale, failed } = tally[lane];
  const rest = failed ? `, ${failed} failed` : "";
  element.querySelector(".tally").textContent = `Of ${fresh + stale + failed} reads ${stale} did not show the note that had just been written${rest}.`;
}

function judged(answer, seen) {
  if (answer.lost !== null) return [`Your write is lost, and it says so: litefs-lost: ${answer.lost}`, "bad", "stale"];
  if (!answer.ok) return [`${answer.status}: ${answer.body.error}`, "bad", "failed"];
  return seen ? ["Your note is there", "good", "fresh"] : ["Stale: your note is missing", "bad", "stale"];
}

async function writeNote(region) {
  const text = $("text").value.trim() || "a note";
  const wrote = await ask("POST", `/with/${region}/notes`, { text });
  $("wrote").textContent = wrote.ok
    ? `Note #${wrote.body.id} is written: ${way(wrote.trail)} after ${ms(wrote.ms)}.`
    : `Not written: ${wrote.status}, ${wrote.body.error}`;
  return { ...wrote, note: { id: wrote.body.id, text } };
}

async function readBoth(region, wrote) {
  const answers = await Promise.all(LANES.map((lane) => ask("GET", `/${lane}/${region}/notes`)));
  LANES.forEach((lane, index) => showRead(lane, answers[index], wrote));
}

async function trial() {
  const region = $("region").value;
  const wrote = await writeNote(region);
  if (wrote.ok) await readBoth(region, wrote.note);
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const primary = () => Object.values(nodes).find((node) => node.role === "primary" && node.running && !node.frozen);

async function until(condition, seconds) {
  for (let left = seconds * 20; left > 0 && !condition(); left -= 1) await sleep(50);
  return condition();
}

async function loseWrite() {
  const old = primary();
  const others = Object.values(nodes).filter((node) => node !== old && node.running && !node.frozen);
  if (!old || !others.length) return say("there must be a primary and a replica that live");
  say("lose a write: the replicas' lag is 5 s; the primary dies before the note has left it");
  for (const node of others) await act("lag", { node: node.hostname, seconds: 5 });
  const wrote = await writeNote(old.hostname);
  await act("kill", { node: old.hostname });
  for (const node of others) await act("lag", { node: node.hostname, seconds: node.lag });
  if (!wrote.ok || !(await until(() => primary() && primary().hostname !== old.hostname, 15))) return say("nobody took over");
  const region = $("region").value === old.hostname ? primary().hostname : $("region").value;
  await readBoth(region, wrote.note);
  await act("restart", { node: old.hostname });
}

async function alone(job) {
  if (busy) return;
  busy = true;
  const buttons = $("try").querySelectorAll("button");
  for (const button of buttons) button.setAttribute("aria-disabled", "true");
  try { await job(); } catch (error) { say(`the server does not answer: ${error.message}`); }
  for (const button of buttons) button.removeAttribute("aria-disabled");
  busy = false;
}

$("try").addEventListener("submit", (event) => { event.preventDefault(); alone(trial); });
$("often").addEventListener("click", () => alone(async () => { for (let n = 0; n < 20; n += 1) await trial(); }));
$("lose").addEventListener("click", () => alone(loseWrite));
$("visitors").addEventListener("change", (event) => act("visitors", { on: event.target.checked }));

const events = new EventSource("/events");
events.addEventListener("state", (event) => show(JSON.parse(event.data)));
events.addEventListener("tx", (event) => transaction(JSON.parse(event.data)));
events.addEventListener("log", (event) => say(JSON.parse(event.data).text));
events.addEventListener("open", () => { $("connection").textContent = ""; });
events.addEventListener("error", () => { $("connection").textContent = "The demo does not answer. Is it still running?"; });
