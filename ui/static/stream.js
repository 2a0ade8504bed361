// Runs one translation at a time over one WebSocket. Knows nothing of the page.
//
// Only frames of the run in progress are passed on, so a run that was stopped or replaced never paints. Where a
// WebSocket cannot be had twice in a row (a proxy, a company network), the run goes as POST /translate with stream:
// true; its server-sent events carry the same messages. A run that breaks off begins again by itself, from its start.

import { refused, told, url } from "./base.js";

const HANDSHAKE_MS = 4000; // some proxies swallow a handshake and never answer it
const FAILURES_BEFORE_POST = 2;
const MOST_TRIES = 6; // of one run
const BACK_OFF_MS = [500, 1000, 2000, 5000, 15000, 30000];
const LAST = ["done", "cancelled", "error", "unreachable"]; // messages after which a run is over

let receive = null;
let socket = null; // opening or open
let failures = 0; // sockets in a row that never brought a message
let retry = 0;
let run = null; // { id, request, via: null | "socket" | "post", abort, tries }
let runs = 0;

export const running = () => run !== null;

export function begin(listener) {
  receive = listener;
  connect();
}

export function start(request) {
  cancel();
  run = { id: `r${++runs}`, request, via: null, abort: null, tries: 0 };
  if (socket?.readyState === WebSocket.OPEN) sendOver(socket);
  else if (failures >= FAILURES_BEFORE_POST) post(run);
  else connect();
}

export function cancel() {
  if (!run) return;
  const { id, via, abort } = run;
  run = null;
  abort?.abort();
  if (via === "socket" && socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "cancel", id }));
}

function pass(message) {
  if (LAST.includes(message.type)) run = null;
  receive(message.type === "error" ? { ...message, error: told(message.error) } : message);
}

function lost() {
  run.via = null;
  run.tries += 1;
  pass({ type: run.tries < MOST_TRIES ? "lost" : "unreachable" });
}

function connect() {
  clearTimeout(retry);
  if (socket) return;
  const address = url("ws/translate");
  address.protocol = address.protocol.replace("http", "ws");
  const opening = new WebSocket(address);
  const late = setTimeout(() => opening.close(), HANDSHAKE_MS);
  socket = opening;
  opening.onopen = () => {
    clearTimeout(late);
    opening.send(JSON.stringify({ type: "ping" })); // its pong proves that messages come through
    if (run && !run.via) sendOver(opening);
  };
  opening.onmessage = (event) => {
    failures = 0;
    const message = JSON.parse(event.data);
    // An error without an id is about what we sent last.
    if (run && (message.id === run.id || (message.type === "error" && !message.id))) pass(message);
  };
  opening.onclose = () => {
    clearTimeout(late);
    socket = null;
    failures += 1;
    if (run?.via === "socket") lost();
    if (run && !run.via && failures >= FAILURES_BEFORE_POST) post(run);
    else later();
  };
}

function later() {
  const wait = BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length) - 1];
  retry = setTimeout(connect, wait * (0.5 + Math.random())); // spread: a restart must not bring everyone at once
}

function sendOver(open) {
  run.via = "socket";
  open.send(JSON.stringify({ ...run.request, type: "start", id: run.id }));
}

async function post(mine) {
  mine.via = "post";
  mine.abort = new AbortController();
  const hand = (message) => mine === run && pass(message);
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, signal: mine.abort.signal };
  try {
    const answer = await fetch(url("translate"), {
      ...options,
      body: JSON.stringify({ ...mine.request, stream: true }),
    });
    if (!answer.ok) {
      const { trouble: error, code } = await refused(answer);
      return hand({ type: "error", error, code });
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) hand(JSON.parse(line.slice(5)));
    }
  } catch {
    // told below, unless it was we who broke it off
  }
  if (mine === run) lost(); // it ended without a last message
  if (!socket) later();
}
