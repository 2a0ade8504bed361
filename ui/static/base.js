// What every part of the page needs: words, elements, what the browser keeps, questions to the server.
//
// `window.YIWEN` is put into the page by ui/blocks.py. What the server or the reader says becomes text, never markup.

import { translated } from "./sentences.js";

export const { text, languages, maxTextTokens, examples } = window.YIWEN;
export const chinese = navigator.language.startsWith("zh"); // as ui/blocks.py sets it before Gradio reads it
export const known = (code) => Object.hasOwn(languages, code); // a text without words has no language that is
export const languageName = (code) => languages[code]?.[chinese ? "chinese" : "english"] ?? code;
export const at = (id) => document.getElementById(id);
export const url = (path) => new URL(path, document.baseURI);

const words = chinese ? text.zh : text.en;
export const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
export const sayCount = (key, count) => say(count === 1 ? `${key}_one` : key, { count: count.toLocaleString() });
const UNITS = [
  [1e9, 1, "GB"],
  [1e7, 0, "MB"],
  [1e6, 1, "MB"],
  [0, 0, "kB"],
]; // from so many bytes, with so many digits
export function size(bytes) {
  const [, digits, unit] = UNITS.find(([least]) => bytes >= least);
  const count = bytes / { GB: 1e9, MB: 1e6, kB: 1e3 }[unit];
  return `${unit === "kB" ? Math.ceil(count) : count.toFixed(digits)} ${unit}`;
}
export const duration = (seconds) =>
  seconds < 90 ? say("seconds", { count: Math.ceil(seconds) }) : say("minutes", { count: Math.round(seconds / 60) });

const names = Object.fromEntries(Object.entries(languages).map(([code, { english }]) => [english, languageName(code)]));
const sentences = chinese ? await (await fetch(url("studio/sentences.zh.json"))).json() : {};
export const told = (sentence) => (chinese ? translated(sentence, sentences, names) : sentence); // what the server said

export function element(tag, properties, ...children) {
  const made = Object.assign(
    document.createElement(tag),
    typeof properties === "string" ? { className: properties } : properties,
  );
  made.append(...children);
  return made;
}

export const button = (key, onclick, className = "yw-link", values = {}) =>
  element("button", { type: "button", onclick, className }, say(key, values));

// Puts the words into a part of the page that names them: as its text, or as the name of what shows a sign or nothing.
export function dress(place) {
  for (const one of place.querySelectorAll("[data-say]")) one.textContent = say(one.dataset.say);
  for (const one of place.querySelectorAll("[data-name]")) one.title = one.ariaLabel = say(one.dataset.name);
}

// Values into what names them; what has none is not shown.
export function fill(place, values) {
  for (const one of place.querySelectorAll("[data-fill]")) {
    const words = String(values[one.dataset.fill] ?? "");
    if (one.textContent !== words) one.textContent = words; // what is selected stays so, and nothing is said twice
    one.hidden = words === "";
  }
}

export function kept(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`yiwen-${name}`)) ?? otherwise;
  } catch {
    return otherwise; // a browser that keeps nothing
  }
}

export function keep(name, value) {
  try {
    localStorage.setItem(`yiwen-${name}`, JSON.stringify(value));
  } catch {
    // then it is forgotten with the page
  }
}

// What to tell of an answer that is a refusal.
export async function refused(answer) {
  const { error = say("refused", answer), code } = await answer.json().catch(() => ({}));
  const signedOut = answer.status === 401;
  at("yw-signed-out").hidden = !signedOut;
  return { trouble: signedOut ? say("signed_out") : told(error), code, status: answer.status };
}

// The answer's body, or { trouble, code, status }: a sentence for the reader. Throws only what a signal aborts.
export async function asked(path, options = {}) {
  const { json, ...others } = options;
  const body = json && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(json) };
  try {
    const answer = await fetch(url(path), { ...body, ...others });
    if (!answer.ok) return await refused(answer);
    at("yw-signed-out").hidden = true;
    return answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { trouble: say("unreachable"), code: "unreachable" };
  }
}

// A place where files are dropped or chosen. `take` gets the files; the same one may be chosen again.
export function dropZone(zone, take) {
  const picker = zone.querySelector("input");
  const over = (yes) => zone.classList.toggle("yw-over", yes);
  picker.onchange = () => {
    take([...picker.files]);
    picker.value = "";
  };
  for (const kind of ["dragover", "dragleave", "drop"]) {
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      over(kind === "dragover");
      if (kind === "drop") take([...event.dataTransfer.files]);
    });
  }
}
