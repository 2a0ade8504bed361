// The two language pickers: searched by any name, the pinned and the recent languages first. Knows no text.

import { at, chinese, element, keep, kept, known, languageName, languages, say } from "./base.js";
import { whenSystem } from "./system.js";

const DETECT = "auto";
const MOST_RECENT = 4;
const chosen = { from: DETECT, to: chinese ? "en" : "zh" };
const listeners = [];
const shown = {}; // which → what shows it anew
let spoken = Object.keys(languages); // by the model

const fold = (name) => name.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const label = (code) =>
  code === DETECT ? say("detect_language") : [...new Set([languages[code].own, languageName(code)])].join(" · ");
const names = ({ own, english, chinese, aliases }) => [own, english, chinese, ...aliases];
const called = (code) => [label(code), code, ...(known(code) ? names(languages[code]) : ["Detect"])].map(fold);

export const pair = () => ({ source_lang: chosen.from === DETECT ? "" : chosen.from, target_lang: chosen.to });
export const onChoice = (listener) => listeners.push(listener);

// The other picker gives way: nothing is translated into its own language.
export function choose(which, code) {
  const [before, other] = [chosen[which], which === "from" ? "to" : "from"];
  chosen[which] = code;
  if (chosen[other] === code)
    chosen[other] = before === DETECT || before === code ? spoken.find((one) => one !== code) : before;
  keep("pair", chosen);
  if (code !== DETECT && code !== before)
    keep("recent", [code, ...kept("recent", []).filter((one) => one !== code)].slice(0, MOST_RECENT));
  for (const show of Object.values(shown)) show();
  for (const listener of listeners) listener(which);
}

export function setPair(from, to) {
  [chosen.from, chosen.to] = [from, to];
  choose("to", to);
}

// Only what the model speaks is offered.
export function offer(codes) {
  spoken = codes;
  if (!codes.includes(chosen.to))
    choose(
      "to",
      codes.find((code) => code !== chosen.from),
    );
  if (chosen.from !== DETECT && !codes.includes(chosen.from)) choose("from", DETECT);
}

function groups(which, query) {
  const speaks = (codes) => codes.filter((code) => spoken.includes(code));
  const all = which === "from" ? [DETECT, ...spoken] : spoken;
  if (query) {
    const rank = (code) =>
      Math.min(...called(code).map((name) => [name.startsWith(query), name.includes(query), true].indexOf(true)));
    return [["", all.filter((code) => rank(code) < 2).sort((one, other) => rank(one) - rank(other))]];
  }
  const first = which === "from" ? [["", [DETECT]]] : [];
  const [pinned, recent] = [speaks(kept("pinned", [])), speaks(kept("recent", []))];
  return [
    ...first,
    ["pinned", pinned],
    ["recent", recent.filter((code) => !pinned.includes(code))],
    ["all_languages", spoken],
  ];
}

function picker(which) {
  const place = at(`yw-${which}`);
  const [input, list, pin] = ["input", "[role=listbox]", ".yw-pin"].map((one) => place.querySelector(one));
  const options = () => [...list.querySelectorAll("[role=option]")];
  const active = () => list.querySelector(".yw-active");

  function show() {
    list.hidden = true;
    input.ariaExpanded = "false";
    input.value = label(chosen[which]);
    input.removeAttribute("aria-activedescendant");
    pin.hidden = chosen[which] === DETECT;
    pin.ariaPressed = String(kept("pinned", []).includes(chosen[which]));
    pin.title = pin.ariaLabel = say(pin.ariaPressed === "true" ? "unpin" : "pin");
  }

  function activate(one) {
    active()?.classList.remove("yw-active");
    one?.classList.add("yw-active");
    one?.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", one?.id ?? "");
  }

  function open(query) {
    const option = (code, group) => {
      const made = element(
        "div",
        { id: `${list.id}-${group}-${code}`, role: "option", ariaSelected: String(code === chosen[which]) },
        label(code),
      );
      made.dataset.code = code;
      if (known(code)) made.lang = code;
      return made;
    };
    const filled = groups(which, fold(query)).filter(([, codes]) => codes.length);
    const made = filled.map(([key, codes]) => {
      const group = element(
        "div",
        { role: "group", ariaLabel: say(key || "all_languages") },
        ...codes.map((code) => option(code, key)),
      );
      if (key) group.dataset.title = say(key);
      return group;
    });
    list.replaceChildren(
      ...(made.length ? made : [element("div", { role: "option", ariaDisabled: "true" }, say("no_language"))]),
    );
    list.hidden = false;
    input.ariaExpanded = "true";
    activate(query ? options()[0] : list.querySelector("[aria-selected=true]"));
  }

  function take(one) {
    if (one?.dataset.code) choose(which, one.dataset.code);
    show();
  }

  input.onfocus = () => input.select();
  input.onclick = () => list.hidden && open("");
  input.oninput = () => open(input.value);
  input.onblur = show;
  input.onkeydown = (event) => {
    if (event.isComposing) return; // an input method (Chinese!) has the key
    const all = options();
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && list.hidden) open("");
    else if (step) activate(all[(all.indexOf(active()) + step + all.length) % all.length]);
    else if (event.key === "Enter" && !list.hidden) take(active());
    else if (event.key === "Escape" && !list.hidden) show();
    else return;
    event.preventDefault();
    event.stopPropagation(); // Escape would also stop the translation
  };
  list.onmousedown = (event) => {
    event.preventDefault();
    take(event.target.closest("[role=option]"));
  };
  pin.onclick = () => {
    const pinned = kept("pinned", []);
    const without = pinned.filter((code) => code !== chosen[which]);
    keep("pinned", without.length < pinned.length ? without : [...pinned, chosen[which]]);
    for (const show of Object.values(shown)) show();
  };
  shown[which] = show;
}

export function begin() {
  whenSystem(({ model }) => model && String(model.languages) !== String(spoken) && offer(model.languages));
  picker("from");
  picker("to");
  const asked = new URLSearchParams(location.search);
  const { from, to } = kept("pair", chosen);
  const [source, target] = [asked.get("source") ?? from, asked.get("target") ?? to];
  setPair(known(source) ? source : DETECT, known(target) ? target : chosen.to);
}
