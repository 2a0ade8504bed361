// The machine and the model, asked of the server while the page is seen; what shows them is in templates/system.html.
// There `data-of` is the path of a figure in the answer, `data-as` the way to write it, `data-to` an attribute for it.

import { asked, at, dress, duration, say, size, told } from "./base.js";

const PAUSE_MS = { loading: 500, ready: 2000, failed: 2000, stopping: 2000 }; // after an answer
const MOST_MS = 16000; // to wait for one; and after one that did not come, where the pause doubles each time

const now = { state: { status: "loading" } }; // the last answer; and what the benchmark has said
const [listeners, waiting] = [[], []]; // for each answer; for the model
let [asking, failures, timer] = [false, 0, 0];

export const state = () => now.state;
export const whenSystem = (listener) => listeners.push(listener);
export const showPoints = (bench) => show(Object.assign(now, bench));

export function ready() {
  ask(); // the last answer may be of before a restart
  return new Promise((go) => waiting.push(go));
}

const fastest = (history) => Math.max(1, ...history.map((sample) => sample.tokens_per_second));
const WAYS = {
  ...{ say, size, told, text: String, percent: (share) => `${Math.round(100 * share)}%` },
  figure: (figure) => figure.toLocaleString(undefined, { maximumFractionDigits: figure < 10 ? 2 : 0 }),
  device: ({ device, name }) => (device === "cpu" ? say("this_machine") : name),
  full: (all) => all.flatMap((one) => (one.full ? say("meter_full", { device: WAYS.exactly(one) }) : [])).join(" "),
  exactly: (one) => WAYS.device(one) + (now.total ? ` (${one.device})` : ""), // one of several of the same name, maybe
  work: (one) => one.state && say(`member_${one.state}`, { ...one, tokens: WAYS.figure(one.tokens) }),
  sentences: (said) => (said.join?.("\n") ?? said).split("\n").map(told).join(" "), // a list, or a line each
  stage: (stage) => say(`loading_${stage}`),
  left: (seconds) => say("loading_left", { time: duration(seconds) }),
  provider: (licence) =>
    say(licence.includes("Tencent") ? "provider_tencent" : "provider", {
      name: now.provider ?? say("provider_unnamed", location),
    }),
  pairs: (all) => Object.entries(all).join(" · ").replaceAll(",", " "),
  most: (history) => say("meter_curve", { most: Math.round(fastest(history)) }),
  curve: (all) => all.map(({ ago, tokens_per_second: rate }) => [60 - ago, 19 - (18 * rate) / fastest(all)]).join(" "),
};

async function ask() {
  if (asking || document.hidden) return;
  clearTimeout(timer);
  asking = true;
  const answer = await asked("system", { signal: AbortSignal.timeout(MOST_MS) });
  asking = false;
  failures = answer.state ? 0 : failures + 1;
  Object.assign(now, answer.state && answer, { lost: failures && answer.status !== 401 ? "meter_lost" : "" });
  timer = setTimeout(ask, failures ? Math.min(MOST_MS, 1000 * 2 ** failures) : PAUSE_MS[now.state.status]);
  show(now);
  if (failures) return;
  for (const listener of listeners) listener(now);
  if (now.state.status === "ready") for (const go of waiting.splice(0)) go();
}

function show(all) {
  const { status } = all.state;
  Object.assign(at("yw-loading"), { hidden: status === "ready", className: `yw-${status}` });
  fill(document, { ...all, ...bars(all) });
}

// In the line under the title the cards with the model are one; in the tab each has its bar, with who is there.
function bars({ devices = [], total, replicas = [] }) {
  const on = ({ device }) => replicas.filter((one) => one.devices.includes(device));
  const rows = devices.map((one) => (on(one).length > 1 ? { ...one, members: on(one) } : { ...on(one)[0], ...one }));
  const elsewhere = replicas.filter((one) => !devices.some((place) => on(place).includes(one)));
  return { line: total ? [total] : devices, rows: [...rows, ...elsewhere] };
}

function fill(whole, values) {
  for (const place of whole.querySelectorAll("[data-of]:not(:scope [data-each] *)")) {
    const { of, as = "figure", to, part, each, none = "–" } = place.dataset;
    const value = of ? of.split(".").reduce((all, key) => all?.[key], values) : values;
    const text = (part ? `${say(part)}: ` : "") + (((value ?? "") !== "" && WAYS[as](value)) || none);
    if (part) Object.assign(place, { hidden: !value }).style.setProperty("--share", value / values.total_bytes);
    if (each) fillEach(place, at(each).content, value ?? []);
    else if (to) place.setAttribute(to, text);
    else if (place.textContent !== text) place.textContent = text; // a screen reader may read every change aloud
  }
}

function fillEach(list, template, all) {
  if (list.childElementCount !== all.length) list.replaceChildren(...all.map(() => template.cloneNode(true)));
  for (const [index, one] of all.entries()) fill(list.children[index], one);
}

export function begin() {
  for (const part of document.querySelectorAll("[data-into]")) at(part.dataset.into).append(...part.childNodes);
  for (const { content } of document.querySelectorAll("template")) dress(content);
  document.addEventListener("visibilitychange", ask);
  ask();
}
