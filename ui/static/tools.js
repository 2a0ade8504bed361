// What else the text tab does with a text and its translation: hands on, reads out, shows more of them, remembers.

import { asked, at, element, examples, fill, keep, kept, known, languageName, say, sayCount, url } from "./base.js";
import * as output from "./output.js";
import { pair } from "./pickers.js";
import { ready } from "./system.js";
import * as text from "./text.js";

const LINK_CHARACTERS = 1000;
const HISTORY_ENTRIES = 50;
const HISTORY_CHARACTERS = 5000; // a longer text is not remembered
const ENDINGS = { html: "html", markdown: "md", xml: "xml" };

export const copy = () => copied(output.content());
const into = () => text.lastRun().asked?.target_lang ?? pair().target_lang;

async function copied(words) {
  if (!words) return text.status(say("copy_empty"));
  const done = navigator.clipboard
    ? await navigator.clipboard.writeText(words).then(
        () => true,
        () => false,
      )
    : selected(words);
  text.status(say(done ? "copied" : "copy_refused"));
}

// Plain http on another machine has no clipboard, but a selection can still be copied.
function selected(words) {
  const field = document.body.appendChild(element("textarea", { value: words }));
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

function link() {
  if (!text.text()) return text.status(say("seen_empty"));
  if (text.text().length > LINK_CHARACTERS) return text.status(say("link_long"));
  const asks = { source: pair().source_lang || "auto", target: pair().target_lang, q: text.text() };
  copied(url(`?${new URLSearchParams(asks)}`).href);
}

function download() {
  if (!output.content()) return text.status(say("copy_empty"));
  const href = URL.createObjectURL(new Blob([output.content()], { type: "text/plain" }));
  element("a", { href, download: `yiwen.${into()}.${ENDINGS[at("yw-format").value] ?? "txt"}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

function listen(words, lang) {
  if (speechSynthesis.speaking) return speechSynthesis.cancel();
  if (!words || !known(lang)) return text.status(say("copy_empty"));
  const voice = speechSynthesis.getVoices().find((one) => one.lang.slice(0, 2) === lang.slice(0, 2));
  if (!voice) return text.status(say("no_voice", { language: languageName(lang) }));
  speechSynthesis.speak(Object.assign(new SpeechSynthesisUtterance(words), { voice, lang: voice.lang }));
}

async function versions() {
  const run = text.lastRun();
  const said = run.segments.find(({ segment }) => segment === Math.max(output.picked(), 0));
  if (!said) return text.status(say("versions_early"));
  output.pick(said.segment);
  const tell = (words, ...shown) => at("yw-versions").replaceChildren(element("p", "yw-hint", words), ...shown);
  tell(say("versions_asking"));
  const question = { ...run.asked, segment: said.segment, count: 3, without: said.text };
  const { alternatives = [], trouble } = await asked("alternatives", { json: question });
  const take = (words) => {
    output.exchange(said.segment, said.text, words);
    said.text = words;
    preview();
  };
  const shown = alternatives.map((words) =>
    element("button", { type: "button", lang: into(), dir: "auto", onclick: () => take(words) }, words),
  );
  tell(trouble ?? say(shown.length ? "versions_of" : "versions_none", { number: said.segment + 1 }), ...shown);
}

async function preview() {
  const pane = at("yw-preview");
  pane.hidden = !at("yw-preview-on").checked;
  if (pane.hidden) return;
  const { html, trouble } = await asked("render", { json: { text: output.content(), format: at("yw-format").value } });
  pane.querySelector("iframe").srcdoc = html ?? "";
  if (trouble) text.note("error", trouble);
}

// The prompt of one segment, word for word.
async function seen(segment) {
  const place = at("yw-seen");
  if (!text.text().trim()) return fill(place, { trouble: say("seen_empty") });
  const said = await asked("prompt", { json: { ...text.fields(), segment } });
  if (said.trouble) return fill(place, said);
  fill(place, {
    ...said,
    where: say("seen_segment", { number: said.segment + 1, total: said.segments }),
    cut: said.context_cut ? say("seen_cut", { count: said.context_cut.toLocaleString() }) : "",
    terms: said.terms.map((term) => `${term.source} → ${term.target || term.source}`).join("\n"),
    tokens: say("seen_prompt", { tokens: sayCount("tokens", said.prompt_tokens) }),
  });
  for (const [name, by] of [
    ["before", -1],
    ["after", 1],
  ]) {
    const step = at(`yw-seen-${name}`);
    step.onclick = () => seen(said.segment + by);
    step.disabled = !(said.segment + by >= 0 && said.segment + by < said.segments);
  }
}

function remember(translation, lang) {
  preview();
  const { text: words, target_lang: to } = text.lastRun().asked;
  if (!kept("history-on", true) || words.length > HISTORY_CHARACTERS) return;
  const others = kept("history", []).filter((one) => one.text !== words || one.to !== to);
  const entry = { from: known(lang) ? lang : "auto", to, text: words, translation };
  keep("history", [entry, ...others].slice(0, HISTORY_ENTRIES));
  showHistory();
}

function showHistory() {
  const rows = kept("history", []).map(({ from, to, text: words, translation }) => {
    const title = element("b", "", `${languageName(from)} → ${languageName(to)}`);
    const bring = () => text.bring(words, from, to, translation);
    return element("li", "", element("button", { type: "button", onclick: bring }, title, ` ${words.slice(0, 160)}`));
  });
  at("yw-history-list").replaceChildren(...(rows.length ? rows : [element("li", "yw-hint", say("history_none"))]));
}

function example([title, from, words]) {
  const bring = () => {
    const to = pair().target_lang;
    text.bring(words, "auto", from === to ? (from === "en" ? "zh" : "en") : to, "");
    text.translate();
  };
  return element("button", { type: "button", className: "yw-link", onclick: bring }, title);
}

export const acts = {
  copy,
  link,
  download,
  "versions-of": versions,
  swap: text.swap,
  clear: text.clear,
  translate: text.translate,
  stop: text.stop,
  listen: () => listen(output.content(), into()),
  "listen-source": () => listen(text.text(), text.sourceLanguage()),
  "clear-context": () => text.write("", at("yw-context")),
  "history-clear"() {
    keep("history", []);
    showHistory();
  },
};

// What is written outlasts a reload and a change of the page's language, in this window alone.
function keepDraft(fields) {
  try {
    addEventListener("pagehide", () =>
      sessionStorage.setItem("yiwen-draft", JSON.stringify(fields.map((one) => one.value))),
    );
    const words = JSON.parse(sessionStorage.getItem("yiwen-draft")) ?? [];
    for (const [index, field] of fields.entries()) if (words[index]) text.write(words[index], field.parentElement);
  } catch {
    // a browser that keeps nothing
  }
}

export function begin() {
  text.begin(remember, preview);
  const fields = ["yw-source", "yw-context"].map((id) => at(id).querySelector("textarea"));
  for (const field of fields) field.onchange = () => at("yw-seen").open && seen(0);
  at("yw-preview-on").onchange = preview;
  at("yw-seen").ontoggle = ({ target }) => target.open && seen(Math.max(output.picked(), 0));
  for (const name of ["live", "history-on"]) {
    const box = at(`yw-${name}`);
    box.checked = kept(name, name === "history-on");
    box.addEventListener("change", () => keep(name, box.checked));
  }
  at("yw-try").append(say("try"), " ", ...examples.map(example));
  showHistory();
  addEventListener("storage", showHistory); // another window has translated
  const words = new URLSearchParams(location.search).get("q");
  if (words) {
    text.write(words.slice(0, LINK_CHARACTERS));
    ready().then(text.translate); // by then the pickers offer what the model speaks
  } else keepDraft(fields);
}
