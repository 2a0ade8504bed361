// Terms: chosen, imported, looked through, edited. Quick terms stay in this browser and go along with each request; a
// stored glossary is the server's, and what is changed in one waits for Save.

import { asked as answered, at, dress, dropZone, element, keep, kept, languageName, say, told } from "./base.js";
import { onChoice, pair } from "./pickers.js";
import { table } from "./table.js";
import { acts } from "./tools.js";

const [MOST_QUICK, MOST_TOLD, ROW_HEIGHT] = [500, 50, 44]; // rows, problems of a file, pixels
let chosen = kept("glossary", null); // a stored glossary without its terms; null: quick terms
let rows = chosen ? [] : kept("quick", []); // its terms
let [stored, found, changed, grid] = [[], [], false, null]; // glossaries, rows searched for, whether Save is due

const filled = ({ source, target }) => source.trim() || target.trim();
const fits = (one, other) => ["source_lang", "target_lang"].every((side) => !other[side] || one[side] === other[side]);
const mayLeave = () => !changed || confirm(say("terms_leave"));
const asFile = () => new File([JSON.stringify({ terms: rows.filter(filled) })], "terms.json"); // it may be large
const about = (key, { name, source_lang: from, target_lang: to, term_count: count }) =>
  say(key, { name, from: languageName(from), to: languageName(to), count: count.toLocaleString() });

export function asked() {
  const quick = chosen ? [] : rows.filter(({ source }) => source.trim());
  const glossary = quick.map(({ source, target }) => ({ source: source.trim(), target: target.trim() }));
  return { glossary, glossary_id: chosen && fits(chosen, pair()) ? chosen.id : "" };
}

export const forget = (code) => code === "no_such_glossary" && !changed && open();

function lines(sentence, problems = []) {
  const line = ({ row, message }) => (row ? say("terms_row", { row: row.toLocaleString() }) : "") + told(message);
  const count = problems.length ? say("terms_problems", { count: problems.length.toLocaleString() }) : "";
  const all = [sentence + count, ...problems.slice(0, MOST_TOLD).map(line)];
  if (problems.length > MOST_TOLD) all.push(say("more", { count: problems.length - MOST_TOLD }));
  return all.map((one, place) => element("li", place ? "yw-warning" : "", one));
}

const tell = (...what) => at("yw-terms-said").replaceChildren(...lines(...what));

function paint() {
  const [count, hits] = [rows.filter(filled).length, found.length].map((number) => number.toLocaleString());
  const key = chosen && !fits(chosen, pair()) ? "terms_unfit" : changed ? "terms_without" : "terms_use";
  const quick = count !== "0" ? say("terms_use", { name: say("quick_terms"), count }) : "";
  for (const id of ["yw-uses", "yw-terms-use"]) at(id).textContent = chosen ? about(key, chosen) : quick;
  at("yw-terms-count").textContent = say(found.length < rows.length ? "terms_found" : "terms_count", { hits, count });
  at("yw-terms-keep").disabled = count === "0";
  at("yw-terms-unsaved").textContent = changed ? say("terms_unsaved") : "";
}

function edited() {
  changed = Boolean(chosen);
  if (!chosen) keep("quick", rows.filter(filled));
  paint();
}

// Fills the picker anew and shows `one`; or the quick terms, and says so where it is gone.
async function open(one = chosen) {
  at("yw-terms-edit").inert = true; // until the terms are there, since what is saved is the whole
  const all = await answered("glossaries");
  stored = all.trouble ? [one].filter(Boolean) : all;
  const mine = stored.find(({ id }) => id === one?.id) ?? null;
  chosen = mine;
  keep("glossary", mine);
  const options = stored.map((each) => element("option", { value: each.id }, about("glossary_option", each)));
  at("yw-glossary").replaceChildren(element("option", { value: "" }, say("quick_terms")), ...options);
  [at("yw-glossary").value, at("yw-terms-name").value] = [mine?.id ?? "", mine?.name ?? ""];
  for (const part of at("yw-terms").querySelectorAll("[data-kind]")) {
    part.hidden = part.dataset.kind !== (mine ? "stored" : "quick");
    if (part.dataset.file) part.href = `glossaries/${mine?.id}/file?format=${part.dataset.file}`;
  }
  const whole = mine ? await answered(`glossaries/${mine.id}`) : { terms: kept("quick", []) };
  if (chosen !== mine) return; // another was opened meanwhile
  [rows, changed] = [whole.terms ?? [], false];
  at("yw-terms-edit").inert = Boolean(whole.trouble);
  search("");
  if (one && !mine) tell(about("glossary_gone", one));
  if (all.trouble ?? whole.trouble) tell(all.trouble ?? whole.trouble);
}

function search(words) {
  at("yw-terms-search").value = words;
  const wanted = words.trim().toLowerCase();
  found = rows.filter(({ source, target }) => `${source}\n${target}`.toLowerCase().includes(wanted));
  grid.show(found.length);
  grid.reveal(0);
  paint();
}

function row(index) {
  const term = found[index];
  let before = term.target;
  const tr = at("yw-term").content.firstElementChild.cloneNode(true);
  dress(tr);
  const [source, target, keeps, gone] = tr.querySelectorAll("input, button");
  [source.value, target.value, keeps.checked] = [term.source, before, !before];
  tr.oninput = (event) => {
    if (event.target === keeps) [before, target.value] = keeps.checked ? [target.value, ""] : [before, before];
    if (event.target === keeps && !keeps.checked) target.focus();
    keeps.checked = !target.value;
    Object.assign(term, { source: source.value, target: target.value });
    edited();
  };
  tr.onkeydown = (event) => {
    const step = { Enter: 1, ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || event.target === gone || event.isComposing || event.ctrlKey) return;
    event.preventDefault();
    if (index + step < found.length) focus(index + step, [source, target, keeps].indexOf(event.target));
    else if (event.key === "Enter") add();
  };
  gone.onclick = () => {
    for (const list of [rows, found]) list.splice(list.indexOf(term), 1);
    gone.blur(); // the table keeps a row that has the focus
    grid.show(found.length);
    edited();
    focus(Math.min(index, found.length - 1), 3);
  };
  return tr;
}

function focus(index, column) {
  const tr = at("yw-terms-table").querySelector(`[aria-rowindex="${index + 2}"]`) ?? grid.reveal(index);
  (tr?.querySelectorAll("input, button")[column] ?? at("yw-terms-search")).focus();
}

function add() {
  if (!chosen && rows.length >= MOST_QUICK) return tell(say("quick_full"));
  rows = [{ source: "", target: "" }, ...rows.filter(filled)];
  search("");
  focus(0, 0);
}

// The server's answer to a file of terms, which is a new glossary, or the one of that id from now on.
function send(file, { name = "", source_lang, target_lang }, id) {
  const body = new FormData();
  for (const [field, value] of Object.entries({ file, name, source_lang, target_lang })) body.append(field, value);
  return answered(id ? `glossaries/${id}` : "glossaries", { method: id ? "PUT" : "POST", body });
}

async function take(files, fields = pair()) {
  let [last, report] = [null, []];
  tell(say("terms_reading"));
  for (const file of files) {
    const name = fields.name ?? file.name.replace(/\.[^.]*$/, ""); // as the server will call it
    const twin = stored.find((one) => one.name === name && fits(one, fields));
    const into = twin && confirm(about("glossary_twin", twin)) ? twin : null;
    const { trouble, code, problems, ...one } = await send(file, into ?? fields, into?.id);
    const why = code === "invalid_request" && !fields.source_lang ? say("terms_from") : trouble; // all it can lack
    report.push(...lines(trouble ? `${file.name}: ${why}` : about("glossary_kept", one), problems));
    if (one.id) last = one;
  }
  if (last && mayLeave()) await open(last);
  at("yw-terms-said").replaceChildren(...report);
}

async function save() {
  if (!rows.every(filled)) {
    rows = rows.filter(filled);
    search(""); // so that the rows are numbered as the server counts them
  }
  const [mine, wanted] = [chosen, { ...chosen, name: at("yw-terms-name").value }];
  changed = false;
  let answer = await send(asFile(), wanted, mine.id);
  if (answer.code === "no_such_glossary") answer = await send(asFile(), wanted);
  const { trouble, problems, ...one } = answer;
  changed ||= Boolean(trouble || problems.length); // what was left out is still to be seen here
  tell(trouble ?? about("glossary_kept", one), problems);
  if (one.id && chosen === mine) {
    keep("glossary", Object.assign(mine, one));
    Object.assign(at("yw-glossary").selectedOptions[0], { value: one.id, text: about("glossary_option", one) });
    if (problems.length) grid.reveal(problems[0].row - 1);
  }
  paint();
}

async function remove() {
  if (!confirm(about("glossary_remove", chosen))) return;
  const { trouble } = await answered(`glossaries/${chosen.id}`, { method: "DELETE" });
  tell(trouble ?? about("glossary_removed", chosen));
  if (!trouble) await open(null);
  at("yw-glossary").focus();
}

export function begin() {
  const heads = ["term", "term_translation", "term_keep", "term_delete"].map((key) => say(key));
  grid = table(at("yw-terms-table"), { label: say("terms_table"), heads, height: ROW_HEIGHT, row });
  const named = () => (pair().source_lang ? at("yw-terms-sheet").showModal() : tell(say("terms_from")));
  Object.assign(acts, { "terms-add": add, "terms-save": save, "terms-remove": remove, "terms-keep": named });
  at("yw-terms-search").oninput = ({ target }) => search(target.value);
  at("yw-terms-name").oninput = edited;
  at("yw-glossary").onchange = ({ target }) => {
    if (mayLeave()) open(stored.find(({ id }) => id === target.value) ?? null);
    else target.value = chosen.id;
  };
  at("yw-terms-sheet").onclose = ({ target }) => {
    if (target.returnValue) take([asFile()], { ...pair(), name: at("yw-terms-new").value });
    target.returnValue = ""; // Escape would leave it
  };
  dropZone(at("yw-terms-drop"), take);
  addEventListener("storage", ({ key }) => key === "yiwen-quick" && !chosen && open()); // another window's terms
  addEventListener("beforeunload", (event) => changed && event.preventDefault());
  onChoice(paint);
  open();
}
