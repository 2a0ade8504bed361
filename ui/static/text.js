// The text tab's main job: what is typed goes out, what comes back is painted, and what it has to say is told.

import { asked, at, button, element, kept, known, languageName, maxTextTokens, say, sayCount, told } from "./base.js";
import * as output from "./output.js";
import { choose, onChoice, pair, setPair } from "./pickers.js";
import * as stream from "./stream.js";
import { ready } from "./system.js";
import * as terms from "./terms.js";

const REST_MS = 400; // of the keyboard, before the text is counted, its language guessed and, live, translated
const LIVE_CHARACTERS = 2000; // a longer text is not translated at each rest
const LIKELY = 0.05; // from that share on another language is offered
const MOST_NOTES = 30; // of each kind: a book may have a thousand terms

let source = null; // the textarea
let mirror = null; // the same words behind it, for the marks
let detected = ""; // the language found last
let rest = 0;
let settled = ""; // the text that has its translation, or will have
let run = { segments: [] }; // the one painted: what was asked, and the messages of its segments
let [afterDone, shown] = [null, null];

export const text = () => source.value;
export const context = () => at("yw-context").querySelector("textarea").value;
export const sourceLanguage = () => pair().source_lang || detected;
export const lastRun = () => run;

// What the server is asked, by every address that takes a text.
export function fields() {
  const hint = kept("recent", []).find((code) => known(code) && code !== pair().target_lang) ?? "";
  const format = at("yw-format").value;
  return { ...pair(), source_hint: hint, text: text(), format, context: context(), ...terms.asked() };
}

// ── a run ──

export function translate() {
  run = { asked: fields(), segments: [], deltas: 0, began: 0, told: 0, total: 0, current: -1, waits: false };
  at("yw-notes").replaceChildren();
  at("yw-versions").replaceChildren();
  settled = run.asked.text;
  output.start(run.asked.target_lang);
  busy(true);
  if (!at("yw-live").checked) at("yw-output-box").scrollIntoView({ block: "nearest" }); // on a phone it is below
  status(say("starting"));
  stream.start(run.asked);
}

export function stop() {
  if (!stream.running() && !run.waits) return;
  run.waits = false;
  stream.cancel();
  output.flush();
  busy(false);
  status(say(output.content() ? "stopped" : "stopped_empty"));
}

function busy(yes) {
  output.busy(yes);
  at("yw-stop").disabled = !yes;
  if (!yes) at("yw-rate").textContent = "";
}

export function status(sentence) {
  const line = at("yw-status");
  if (line.textContent !== sentence) line.textContent = sentence; // a screen reader reads every change aloud
}

export function note(kind, ...children) {
  at("yw-notes").append(element("li", `yw-${kind}`, ...children));
}

function noteEach(all, tell) {
  all.slice(0, MOST_NOTES).forEach(tell);
  if (all.length > MOST_NOTES) note("term-used", say("more", { count: (all.length - MOST_NOTES).toLocaleString() }));
}

function progress(segment) {
  if (segment !== run.current && run.total > 1) status(say("segment", { number: segment + 1, total: run.total }));
  run.current = segment;
  const now = performance.now();
  run.began ||= now;
  run.deltas += 1; // a delta is a token, or a few that make one character: near enough while it runs
  if (now - run.told < 500 || now - run.began < 500) return;
  run.told = now;
  at("yw-rate").textContent = `· ${say("rate", { rate: Math.round((run.deltas * 1000) / (now - run.began)) })}`;
}

async function failed({ error, code }) {
  output.flush();
  if (code === "loading") {
    const mine = run;
    mine.waits = true;
    status(say("waiting_model"));
    await ready();
    return mine.waits && mine === run && translate();
  }
  busy(false);
  status(say(run.deltas ? "broken_off" : "failed"));
  note("error", error);
  if (!at("yw-live").checked) at("yw-notes").scrollIntoView({ block: "nearest" }); // on a phone it is below
  terms.forget(code);
}

function done({ translation, usage, detected_source_lang: lang, detection, terms: found, warnings, changes = [] }) {
  output.flush();
  if (output.content() !== translation) output.show(translation, run.asked.target_lang);
  busy(false);
  const seconds = usage.seconds.toFixed(usage.seconds < 0.1 ? 2 : usage.seconds < 10 ? 1 : 0);
  status(say("done", { tokens: sayCount("tokens", usage.output_tokens), seconds }));
  const isDoubt = ({ code }) => code === "uncertain_language"; // which is said beside the languages
  const isToldElsewhere = (one) => isDoubt(one) || one.code === "term_missed";
  const mine = run;
  guess(lang, detection, warnings.some(isDoubt));
  if (mine === run && lang === run.asked.target_lang && lang !== pair().target_lang) translate();
  if (mine !== run) return; // it was in the target's language, which has turned
  noteEach(
    warnings.filter((one) => !isToldElsewhere(one)),
    ({ message }) => note("warning", told(message)),
  );
  markTerms(found);
  if (changes.length) {
    const lines = changes.map(({ message }) => element("li", "", told(message)));
    const title = element("summary", "", say("changes", { count: changes.length }));
    note("changes", element("details", "", title, element("ul", "", ...lines)));
  }
  afterDone(translation, lang);
}

function markTerms(found) {
  const isMissed = ({ applied, count }) => applied < count;
  const each = run.segments.flatMap(({ segment, terms }) => terms.map((term) => ({ ...term, segment })));
  const missed = each.filter(isMissed);
  noteEach(missed, (term) =>
    note(
      "term-missed",
      ...words(term),
      " ",
      button("term_jump", () => jump(term), "yw-link"),
    ),
  );
  noteEach(
    found.filter((term) => !isMissed(term)),
    (term) => note("term-used", ...words(term)),
  );
  const places = (all, kind) => all.flatMap((term) => term[kind] ?? []);
  const used = each.filter((term) => !isMissed(term));
  mirror.textContent = `${text()}\n`; // without which a last empty line has no height here
  mirror.scrollTop = source.scrollTop;
  output.mark("yw-term", places(used, "source_places"), mirror.firstChild, places(found, "places"));
  output.mark("yw-missed", places(missed, "source_places"), mirror.firstChild);
}

function words({ source: term, target, count, applied }) {
  const same = !target || term === target;
  const how = element("span", "yw-used", say(same ? "term_kept" : "term_applied", { applied, count }));
  return [same ? `${term} ` : `${term} → ${target} `, how];
}

function jump({ segment, source_places: [place = [0, 0]] }) {
  const units = place.map((at) => [...text()].slice(0, at).join("").length); // places are in characters
  source.focus();
  source.setSelectionRange(...units);
  source.scrollTop = (source.scrollHeight * units[0]) / text().length - source.clientHeight / 2;
  output.pick(segment);
}

const on = {
  queued: ({ ahead }) => status(ahead ? say("queued", { ahead }) : say("next")),
  started: ({ segments, detected_source_lang: lang }) => {
    [run.total, detected] = [segments, lang];
    status(say("translating"));
  },
  delta: ({ segment, text }) => {
    output.add(segment, text);
    progress(segment);
  },
  replace: ({ segment, text }) => output.replace(segment, text),
  segment: (message) => run.segments.push(message),
  done,
  error: failed,
  lost: () => {
    run.segments = [];
    output.start(run.asked.target_lang);
    status(say("lost"));
  },
  unreachable: () => failed({ error: say("unreachable") }),
};

// ── typing ──

function typed({ isTrusted } = {}) {
  clearTimeout(rest);
  if (isTrusted && location.search) history.replaceState(null, "", location.pathname + location.hash); // its own text
  for (const name of ["yw-term", "yw-missed"]) output.mark(name, [], mirror);
  at("yw-characters").textContent = sayCount("characters", [...text()].length);
  at("yw-tokens").textContent = "";
  at("yw-try").hidden = text() !== "";
  if (!text()) at("yw-guess").replaceChildren();
  rest = setTimeout(rested, REST_MS);
}

async function rested() {
  const asks = text();
  const live = at("yw-live").checked && asks !== settled;
  if (live && !asks.trim()) return output.content() && clear();
  if (live && asks.length > LIVE_CHARACTERS) status(say("live_long"));
  else if (live) translate();
  if (!asks) return;
  const count = await window.yiwenServer.count_tokens(asks).catch(() => null);
  if (asks !== text() || typeof count !== "number") return; // undefined where the server refused
  const [said, most] = [count, maxTextTokens].map((number) => number.toLocaleString());
  at("yw-tokens").textContent = say("tokens_of", { count: said, most });
  at("yw-tokens").classList.toggle("yw-bad", count > maxTextTokens);
  if (pair().source_lang) return;
  const { detection, certain } = await asked("detect", { json: { text: asks.slice(0, LIVE_CHARACTERS) } });
  if (detection && asks === text() && !stream.running()) guess(detection[0]?.lang, detection, !certain);
}

const other = (lang) =>
  kept("recent", []).find((code) => known(code) && code !== lang) ?? (lang === "zh" ? "en" : "zh");

// What the text was taken for, and one click to say that it is another language.
function guess(lang, detection, unsure) {
  detected = lang ?? "";
  at("yw-guess").replaceChildren();
  if (!known(lang) || pair().source_lang || !detection.length) return;
  const correct = (code) => {
    choose("from", code); // which translates a short text again
    if (output.content() && run.asked?.source_lang !== code) translate();
  };
  if (!unsure && lang === pair().target_lang) choose("to", other(lang)); // nothing else can be meant
  const others = detection.filter(({ score }) => unsure || score > LIKELY).map((one) => one.lang);
  const offers = others
    .filter((code) => code !== lang && known(code))
    .map((code) => button("rather", () => correct(code), "yw-link", { language: languageName(code) }));
  const ask = () => {
    at("yw-from-input").focus();
    at("yw-from-input").click();
  };
  const another = button("other", ask, "yw-link");
  const said = say(unsure ? "taken_for" : "detected", { language: languageName(lang) });
  at("yw-guess").replaceChildren(said, " ", ...offers, " ", another);
}

export function write(words, into = at("yw-source")) {
  const field = into.querySelector("textarea");
  field.value = words;
  field.dispatchEvent(new Event("input", { bubbles: true })); // Gradio hears of it, and so do we
}

// A text with its translation, which is not asked for again.
export function bring(words, from, into, translation) {
  stop();
  [run, settled] = [{ segments: [] }, null]; // what was shown is no longer
  setPair(from, into);
  write(words);
  settled = words;
  output.show(translation, into);
  for (const id of ["yw-notes", "yw-versions"]) at(id).replaceChildren();
  status("");
  shown();
}

// The two languages and the two texts change places, so that swapping twice brings everything back.
export function swap() {
  const [from, into, translation] = [sourceLanguage(), pair().target_lang, output.content()];
  if (!known(from)) return status(say("swap_unknown"));
  if (translation) bring(translation, into, from, text());
  else setPair(into, from);
}

export function clear() {
  bring("", pair().source_lang || "auto", pair().target_lang, "");
  source.focus();
}

// The choice of a language counts for what is shown already, if it is not long.
function chosen() {
  if (pair().source_lang) at("yw-guess").replaceChildren();
  const same =
    run.asked && run.asked.target_lang === pair().target_lang && run.asked.source_lang === pair().source_lang;
  if (!same && output.content() && settled === text() && text().length <= LIVE_CHARACTERS) translate();
}

// `finished` hears of each run that is done, `showing` of each text that is brought.
export function begin(finished, showing) {
  [afterDone, shown] = [finished, showing];
  source = at("yw-source").querySelector("textarea");
  mirror = source.parentElement.appendChild(
    element("div", { className: "yw-mirror", ariaHidden: "true", dir: "auto" }),
  );
  Object.assign(source, { oninput: typed, onscroll: () => mirror.scrollTo(0, source.scrollTop), dir: "auto" });
  for (const option of at("yw-format").options) option.textContent = say(`format_${option.value}`);
  at("yw-live").addEventListener("change", rested);
  onChoice(chosen);
  output.begin();
  stream.begin((message) => on[message.type]?.(message));
  busy(false);
  typed();
}
