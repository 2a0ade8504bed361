// A table of many rows, of which only those in sight are in the page. Knows nothing of what they say.
//
// `row(index)` makes a <tr>; all are `height` pixels high. A row that has the focus stays, so that no typing is lost.

import { element } from "./base.js";

const MORE_ROWS = 6; // above and below what is in sight

export function table(place, { label, heads, height, row }) {
  const [above, below] = [element("tr", "yw-gap"), element("tr", "yw-gap")];
  const body = element("tbody", "", above, below);
  const head = element("thead", "", element("tr", "", ...heads.map((name) => element("th", { scope: "col" }, name))));
  const whole = element("table", "yw-table", head, body);
  const scroller = element("div", { className: "yw-scroller", tabIndex: 0, role: "region", ariaLabel: label }, whole);
  let count = 0;
  let rows = new Map(); // those in the page, by index

  function draw(anew = false) {
    const first = Math.max(0, Math.floor(scroller.scrollTop / height) - MORE_ROWS);
    const last = Math.min(count, Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + MORE_ROWS);
    const next = new Map();
    for (const [index, tr] of rows) {
      const held = index < count && tr.contains(document.activeElement);
      if (held || (!anew && index >= first && index < last)) next.set(index, tr);
      else tr.remove();
    }
    for (let index = first; index < last; index += 1) if (!next.has(index)) next.set(index, made(index));
    rows = new Map([...next].sort(([one], [other]) => one - other));
    let before = above;
    for (const tr of rows.values()) {
      if (before.nextSibling !== tr) before.after(tr);
      before = tr;
    }
    const early = [...rows.keys()].filter((index) => index < first).length; // held above what is in sight
    above.style.height = `${(first - early) * height}px`;
    below.style.height = `${Math.max(0, count - last) * height}px`;
  }

  function made(index) {
    const tr = row(index);
    tr.style.height = `${height}px`;
    tr.ariaRowIndex = index + 2; // the head is the first
    return tr;
  }

  scroller.onscroll = () => draw();
  new ResizeObserver(() => draw()).observe(scroller);
  place.replaceChildren(scroller);
  return {
    // All rows anew, but for the one that is being written in.
    show(total) {
      count = total;
      whole.ariaRowCount = total + 1;
      draw(true);
    },
    reveal(index) {
      scroller.scrollTop = index * height;
      draw();
      return rows.get(index);
    },
  };
}
