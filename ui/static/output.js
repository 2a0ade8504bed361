// The box that the translation streams into: paints it, marks terms in it and in the source, and knows its segments.

import { at, languages, say } from "./base.js";

const FRAME_MS = 33; // at most 30 paints a second, however fast the tokens come
const NEAR_END = 40; // pixels: a reader who is that near to the end follows it

let nodes = []; // by segment: its text node
let pending = []; // [segment, text, whether it replaces] that wait for the next frame
let next = null; // the language of a run that has not painted yet: until then the last translation stays
let frame = 0;
let painted = 0;
let chosen = -1; // the segment that the reader has picked

const box = () => at("yw-output-box");
export const content = () => box().textContent;
export const picked = () => chosen;
export const busy = (yes) => box().setAttribute("aria-busy", String(yes));

export function begin() {
  box().dataset.hint = say("output_hint");
  box().onclick = () => {
    const { anchorNode, isCollapsed } = getSelection();
    if (isCollapsed && nodes.includes(anchorNode)) pick(nodes.indexOf(anchorNode));
  };
  box().onkeydown = ({ key }) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key] * (box().dir === "rtl" ? -1 : 1);
    if (step && nodes[chosen + step]) pick(chosen + step);
  };
}

// A run into `lang` begins: what it says first takes the place of what is shown.
export function start(lang) {
  cancelAnimationFrame(frame);
  [pending, frame, next] = [[], 0, lang];
}

export function show(text, lang) {
  clear(lang);
  if (text) replace(0, text);
  flush();
}

export function add(segment, text, replaces = false) {
  pending.push([segment, text, replaces]);
  frame ||= requestAnimationFrame(paint);
}

export const replace = (segment, text) => add(segment, text, true);

// Another version of a segment, in the place of the one there is.
export function exchange(segment, before, after) {
  nodes[segment].data = nodes[segment].data.replace(before, () => after);
  pick(segment);
}

function paint(now) {
  if (now - painted < FRAME_MS) frame = requestAnimationFrame(paint);
  else {
    painted = now;
    flush();
  }
}

export function flush() {
  cancelAnimationFrame(frame);
  frame = 0;
  if (!pending.length) return;
  const place = box();
  const following = place.scrollHeight - place.scrollTop - place.clientHeight < NEAR_END;
  if (next) clear(next);
  for (const [segment, text, replaces] of pending) {
    while (nodes.length <= segment) nodes.push(place.appendChild(document.createTextNode("")));
    if (replaces) nodes[segment].data = text;
    else nodes[segment].appendData(text);
  }
  pending = [];
  if (following) place.scrollTop = place.scrollHeight;
}

export function clear(lang) {
  for (const name of ["yw-term", "yw-missed", "yw-picked"]) highlight(name, []);
  [nodes, next, chosen] = [[], null, -1];
  box().replaceChildren();
  box().lang = lang;
  box().dir = languages[lang].direction;
}

export function pick(segment) {
  chosen = segment;
  const range = new Range();
  range.selectNode(nodes[segment]);
  highlight("yw-picked", [range]);
  const [{ top, bottom }, around] = [range.getBoundingClientRect(), box().getBoundingClientRect()];
  if (top < around.top || bottom > around.bottom) box().scrollTop += top - around.top - NEAR_END;
}

// Places of terms in the source, which the node `mirror` holds too, and in the translation.
export function mark(name, sourcePlaces, mirror, places = []) {
  highlight(name, [...ranges([mirror], sourcePlaces), ...ranges(nodes, places)]);
}

function highlight(name, found) {
  if (window.Highlight) CSS.highlights.set(name, new Highlight(...found)); // an old browser shows the words plain
}

// `places` are in characters, and text nodes count halves of pairs.
function ranges(within, places) {
  const whole = within.map(({ data }) => data).join("");
  const units = [0];
  if (/[\ud800-\udbff]/.test(whole)) for (const one of whole) units.push(units.at(-1) + one.length);
  const ends = [];
  for (const node of within) ends.push((ends.at(-1) ?? 0) + node.length);
  const point = (place, isEnd) => {
    const unit = units[place] ?? place;
    const node = ends.findIndex((end) => (isEnd ? end >= unit : end > unit)); // an end at a border is in the first
    return [within[node], unit - (ends[node - 1] ?? 0)];
  };
  return places.map(([start, end]) => {
    const range = new Range();
    range.setStart(...point(start, false));
    range.setEnd(...point(end, true));
    return range;
  });
}
