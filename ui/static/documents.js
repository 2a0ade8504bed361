// Documents: files in, how far each is, their segments read and mended, files out. Knows nothing of what is in a file.
// Their ids stay in the browser, so that a page opened again shows what is under way and what is done.

import * as base from "./base.js";
import { asked, at, kept, languageName, languages, say, sayCount, told, url } from "./base.js";
import { onChoice } from "./pickers.js";
import { ready } from "./system.js";
import { table } from "./table.js";
import * as terms from "./terms.js";
import * as text from "./text.js";

const [PAGE, REST_MS, HEIGHT, PHONE_HEIGHT] = [200, 120, 96, 264]; // segments asked for at once; pixels of one
const lanes = Array(3).fill(Promise.resolve()); // so many files are sent side by side
const entries = new Set(); // of each document its row, its file if that was chosen here, and all that the server says
const places = new Map(); // a place in the table → the segment there, where it is known
let [open, rows, total] = [null, null, -1]; // whose segments are shown, their table, how many the filter leaves
let [sent, rest] = [0, 0];

const remember = (change) => base.keep("documents", change(kept("documents", []))); // other tabs write there too
const underWay = ({ id, status }) => id && status !== "done" && status !== "error";
const copy = (name) => at(name).content.firstElementChild.cloneNode(true);
const number = (count) => count.toLocaleString();
const dotted = (facts) => facts.filter(Boolean).join(" · ");
const messages = (warnings) => warnings.map(({ message }) => told(message)).join("\n");

function add(entry) {
  entry.row = copy("yw-doc");
  entry.row.onclick = ({ target }) => acts[target.dataset.act]?.(entry);
  at("yw-docs").prepend(entry.row);
  entries.add(entry);
  return paint(entry);
}

function paint(entry, said) {
  if (said) Object.assign(entry, said.trouble ? { trouble: said.trouble } : { trouble: "", error: "", ...said });
  const { id, row, name, status, size_bytes: bytes, target_lang: lang, error } = entry;
  const { segments_done: value, segments_total: max, tokens_per_second: rate, seconds_left: left } = entry;
  const [trouble, warnings] = [entry.trouble || (error && told(error)), entry.warnings ?? []];
  const partly = status === "done" && warnings.some(({ code }) => code === "source_kept" || code === "empty");
  const state = partly ? "partly" : trouble && !id ? "failed" : status;
  const facts = [bytes && base.size(bytes), lang && languageName(lang)];
  facts.push(max && say("doc_segments", { done: number(value), total: number(max) }));
  for (const key of ["segments_warned", "edited"]) facts.push(entry[key] && say(key, { count: number(entry[key]) }));
  facts.push(rate && say("rate", { rate: Math.round(rate) }), left && say("doc_left", { time: base.duration(left) }));
  const own = messages(warnings.filter(({ segment }) => segment === null));
  base.fill(row, { name, kind: entry.kind, state: trouble || say(`doc_${state}`), facts: dotted(facts), own });
  row.classList.toggle("yw-doc-bad", Boolean(trouble));
  for (const one of row.querySelectorAll("[data-in]")) one.hidden = !one.dataset.in.includes(state);
  const [link, bar, zipped] = row.querySelectorAll("progress, a, input");
  Object.assign(bar, { ariaLabel: name, ...(max && { max, value }) });
  Object.assign(link, { href: url(`documents/${id}/result`), download: entry.result_name });
  Object.assign(zipped, { value: id, disabled: status !== "done" });
  const opener = row.querySelector("[aria-expanded]");
  Object.assign(opener, { ariaExpanded: String(entry === open), hidden: opener.hidden || !max });
  return entry;
}

function drop(entry) {
  clearTimeout(entry.poll);
  if (entry === open) acts.open(entry);
  entry.row.remove();
  entries.delete(entry);
  remember((ids) => ids.filter((id) => id !== entry.id));
}

const acts = {
  again(entry) {
    const { text: _, format, ...fields } = { ...text.fields(), file: entry.file };
    entry.form = new FormData();
    const form = (value) => (Array.isArray(value) ? JSON.stringify(value) : value);
    for (const [name, value] of Object.entries(fields)) entry.form.append(name, form(value));
    paint(entry, { status: "waiting", target_lang: fields.target_lang });
    const lane = ++sent % lanes.length;
    lanes[lane] = lanes[lane].then(() => send(entry));
  },
  retry: (entry) => ask(entry, "/retry", "POST"),
  remove(entry) {
    if (!entry.segments_done || confirm(say("doc_remove_sure", entry))) remove(entry);
  },
  open(entry) {
    const shut = open;
    [open, total] = [entry === shut ? null : entry, -1];
    for (const one of [shut, open]) if (one) paint(one);
    at("yw-segs").hidden = !open;
    if (!open) return;
    open.segments ??= new Map(); // by index, and what the reader wrote with them
    at("yw-seg-title").textContent = open.name;
    at("yw-seg-only").value = at("yw-seg-find").value = "";
    const heads = ["seg_number", "seg_source", "seg_result", "seg_notes"].map((key) => say(key));
    const height = window.innerWidth > 640 ? HEIGHT : PHONE_HEIGHT;
    rows = table(at("yw-seg-table"), { label: open.name, heads, height, row: (place) => segmentRow(entry, place) });
    look(true);
    at("yw-segs").focus();
  },
};

async function remove(entry) {
  entry.stop?.abort();
  drop(entry);
  const { trouble, status } = entry.id ? await asked(`documents/${entry.id}`, { method: "DELETE" }) : {};
  if (!trouble || status === 404) return;
  remember((ids) => [...ids, entry.id]);
  paint(add(entry), { trouble });
}

async function send(entry) {
  await ready();
  if (!entries.has(entry)) return;
  const { signal } = paint(entry, { status: "sending", stop: new AbortController() }).stop;
  const answer = await asked("documents", { method: "POST", body: entry.form, signal }).catch(() => ({}));
  if (!entries.has(entry)) return;
  paint(entry, answer);
  if (answer.trouble) return terms.forget(answer.code);
  remember((ids) => [...ids, answer.id]);
  ask(entry);
}

// Asks the server about a document or to do something to it, and again while it is under way.
async function ask(entry, path = "", method = "GET") {
  const changes = underWay(entry);
  const answer = await asked(`documents/${entry.id}${path}`, { method });
  if (!entries.has(entry)) return answer;
  if (answer.status === 404) at("yw-doc-note").textContent = dotted([entry.name, answer.trouble]);
  if (answer.status === 404) drop(entry);
  else paint(entry, answer);
  if (changes && entry === open) look(true);
  clearTimeout(entry.poll);
  const many = [...entries].filter(underWay).length; // who together ask ten times a second at the most
  if (underWay(entry)) entry.poll = setTimeout(ask, document.hidden ? 10_000 : 900 + 100 * many, entry);
  return answer;
}

function resume() {
  const ids = kept("documents", []);
  for (const entry of entries) if (entry.id && !ids.includes(entry.id)) drop(entry);
  const here = [...entries].map(({ id }) => id);
  for (const id of ids) if (!here.includes(id)) ask(add({ id, status: "queued" }));
}

function plan() {
  const { source_lang: from, target_lang: to, context } = text.fields();
  const pair = `${from ? languageName(from) : say("detect_language")} → ${languageName(to)}`;
  const used = dotted([pair, context && say("doc_context"), at("yw-uses").textContent]);
  at("yw-doc-plan").textContent = say("doc_plan", { used });
}

// ── the segments of one ──

const filter = () => `only=${at("yw-seg-only").value}&q=${encodeURIComponent(at("yw-seg-find").value)}`;
const shown = () => [...at("yw-seg-table").querySelectorAll("tr[aria-rowindex]")];
const unknown = () => shown().find(({ place }) => !places.has(place));

// Asks for what is in sight and not known, after a rest, since a scroll passes many rows.
function look(anew) {
  if (anew) places.clear();
  clearTimeout(rest);
  rest = setTimeout(load, REST_MS);
}

async function load() {
  if (!open) return;
  const [entry, filtered, first] = [open, filter(), unknown()?.place ?? 0];
  const from = first - (first % PAGE);
  const answer = await asked(`documents/${entry.id}/segments?from=${from}&count=${PAGE}&${filtered}`);
  if (entry !== open || filtered !== filter()) return;
  at("yw-seg-count").textContent = answer.trouble ?? sayCount("seg_count", answer.total);
  const { segments = [], total: all = total } = answer;
  for (const [index, said] of segments.entries()) {
    const segment = Object.assign(open.segments.get(said.index) ?? {}, said);
    open.segments.set(said.index, segment);
    places.set(from + index, segment);
  }
  if (all !== total) rows.show(all);
  total = all;
  shown().forEach(fill);
  if (segments.length && unknown()) look(false);
}

function segmentRow(entry, place) {
  const tr = Object.assign(copy("yw-seg"), { entry, place });
  const [source, result, again] = tr.querySelectorAll("div, textarea, button");
  const speak = (one, code) => Object.assign(one, { lang: code ?? "", dir: languages[code]?.direction ?? "auto" });
  speak(source, entry.detected_source_lang);
  speak(result, entry.target_lang);
  again.onclick = () => change(tr, "seg_retrying", "/retry", { method: "POST" });
  result.oninput = () => fill(tr, Object.assign(tr.segment, { draft: result.value, trouble: "" }));
  result.onblur = () => {
    const { draft = null, text: before } = tr.segment ?? {};
    if (draft !== null && draft !== before) change(tr, "seg_saving", "", { method: "PATCH", json: { text: draft } });
  };
  result.onkeydown = (event) => {
    const by = event.ctrlKey && { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!by && (event.key !== "Enter" || event.isComposing)) return;
    const near = by && (shown().find((one) => one.place === place + by) ?? rows.reveal(place + by));
    if (near) near.querySelector("textarea").focus();
    else result.onblur(); // Enter: a segment is one line
    event.preventDefault();
    event.stopPropagation();
  };
  fill(tr);
  if (!places.has(place)) look(false);
  return tr;
}

function fill(tr) {
  const known = places.get(tr.place);
  if (known && !tr.contains(document.activeElement)) tr.segment = known; // else it stays the one that is written in
  tr.segment ??= known;
  if (!tr.segment) return;
  const { index, source, text, edited, warnings, draft = text ?? "", doing, trouble, marks = {} } = tr.segment;
  const changed = draft !== (text ?? "") && "seg_unsaved";
  const key = doing || changed || (text === null && "seg_pending") || (edited && "seg_by_hand");
  base.fill(tr, { number: index + 1, source, notes: messages(warnings), state: trouble || (key ? say(key) : "") });
  const [words, result, again] = tr.querySelectorAll("div, textarea, button");
  words.title = Object.entries(marks).flat().join(" ");
  tr.classList.toggle("yw-seg-bad", Boolean(trouble));
  again.hidden = result.readOnly = text === null;
  result.ariaLabel = say("seg_result_of", { number: index + 1 });
  if (result.value !== draft) result.value = draft;
}

// What the server makes of it takes the place of what was written; where it refuses, that stays.
async function change({ entry, segment }, doing, path, options) {
  const { draft } = Object.assign(segment, { doing, trouble: "" });
  shown().forEach(fill);
  const answer = await asked(`documents/${entry.id}/segments/${segment.index}${path}`, options);
  Object.assign(segment, answer.trouble ? { trouble: answer.trouble } : answer, { doing: "" });
  if (!answer.trouble && segment.draft === draft) segment.draft = undefined;
  shown().forEach(fill);
  ask(entry);
}

export function begin() {
  for (const name of ["yw-doc", "yw-seg"]) base.dress(at(name).content);
  base.dropZone(at("yw-doc-drop"), (files) => {
    for (const file of files) {
      const { name, size } = file;
      acts.again(add({ file, name, size_bytes: size, kind: name.split(".").at(-1), status: "waiting" }));
    }
  });
  at("yw-doc-clear").onclick = () => {
    if (confirm(say("doc_sure"))) [...entries].filter(({ status }) => status === "done").forEach(remove);
  };
  at("yw-seg-close").onclick = () => {
    const opener = open.row.querySelector("[aria-expanded]");
    acts.open(open);
    opener.focus();
  };
  at("yw-seg-only").onchange = at("yw-seg-find").oninput = () => look(true);
  for (const kind of ["click", "input", "change"]) document.addEventListener(kind, plan);
  document.addEventListener("visibilitychange", () => {
    for (const entry of entries) if (underWay(entry)) ask(entry);
  });
  window.addEventListener("storage", ({ key }) => key === "yiwen-documents" && resume());
  onChoice(plan);
  resume();
  plan();
}
