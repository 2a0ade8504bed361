// Begins the page: dresses it with words, starts each part, and answers the buttons and keys that belong to none.

import { at, chinese, dress, keep, kept, say } from "./base.js";
import * as documents from "./documents.js";
import * as pickers from "./pickers.js";
import * as system from "./system.js";
import * as terms from "./terms.js";
import { acts, begin } from "./tools.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");
const HERE = /^(localhost|127\.[\d.]+|\[::1\])$/.test(location.hostname); // on the reader's own machine

// Gradio sets `dark` by the system; what the reader chose counts more.
const paintTheme = () => document.body.classList.toggle("dark", kept("dark", DARK.matches));

Object.assign(acts, {
  help: () => at("yw-sheet").showModal(),
  theme: () => keep("dark", document.body.classList.toggle("dark")),
  language() {
    keep("language", chinese ? "en" : "zh");
    location.reload();
  },
});

const tabs = () => [...document.querySelectorAll(".yw-tabs [role=tab]")];

// The hash keeps the tab over a reload.
function openTab(tab = tabs()[0]) {
  for (const one of tabs()) {
    const panel = at(one.getAttribute("aria-controls"));
    one.setAttribute("aria-selected", String(one === tab));
    one.tabIndex = one === tab ? 0 : -1;
    Object.assign(panel, { role: "tabpanel" }).setAttribute("aria-labelledby", one.id);
    panel.classList.toggle("yw-open", one === tab);
  }
  history.replaceState(null, "", `${location.pathname}${location.search}#${tab.id.slice("yw-tab-".length)}`);
}

function walkTabs({ key, target }) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  const next = step && tabs().at((tabs().indexOf(target) + step) % tabs().length);
  next?.focus();
  next?.click();
}

function meant({ key, code, ctrlKey, metaKey, shiftKey, altKey, target }) {
  const command = ctrlKey || metaKey;
  const here = at("yw-tab-text").ariaSelected === "true"; // the others have keys of their own
  if (document.querySelector("dialog[open]")) return null;
  if (command && key === "Enter") return here && acts.translate;
  if (command && shiftKey && code === "KeyC") return acts.copy;
  if (altKey && code === "KeyS") return acts.swap; // by the key's place: on a Mac Alt+S is ß
  if (key === "?" && !target.matches("input, textarea, select")) return acts.help;
  if (key === "Escape") return here && acts.stop;
}

export function boot() {
  document.documentElement.lang = chinese ? "zh-CN" : "en";
  dress(document);
  at("yw-private").textContent = say(window.YIWEN.goesTo ?? (HERE ? "private" : "private_host"), location);
  at("yw-leave").hidden = !window.YIWEN.hasKeys;
  for (const part of [pickers, { begin }, terms, documents, system]) part.begin();
  for (const tab of tabs()) Object.assign(tab, { onclick: () => openTab(tab), onkeydown: walkTabs });
  openTab(at(`yw-tab-${location.hash.slice(1)}`) ?? undefined);
  if (kept("dark", null) !== null) paintTheme();
  DARK.addEventListener("change", () => setTimeout(paintTheme)); // after Gradio
  document.addEventListener("click", ({ target }) => acts[target.closest("button[id^=yw-]")?.id.slice(3)]?.());
  document.addEventListener("keydown", (event) => {
    const act = meant(event);
    if (!act) return;
    event.preventDefault();
    act();
  });
  document.body.dataset.ready = "true";
}
