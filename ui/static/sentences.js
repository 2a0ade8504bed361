// A sentence of the server in another language. `table` has templates: {} is a value in the English one, {0} the first
// of them in the other. A value is translated like a sentence; “{0}” and what came in quotation marks stay as they are.

const compiled = new WeakMap(); // table → its templates as [pattern, other], the most specific first
const quoted = /^(?:“.*”|".*"|'.*')$/s;
const between = { ", ": "、", " and ": "和", " or ": "或" };
const size = (template) => template.replaceAll("{}", "").length;
const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");

function compile(table) {
  const pattern = (template) => new RegExp(`^${template.split("{}").map(escaped).join("(.*?)")}$`, "is");
  const entries = Object.entries(table).sort(([one], [other]) => size(other) - size(one));
  compiled.set(
    table,
    entries.map(([template, other]) => [pattern(template), other]),
  );
}

export function translated(sentence, table, names = {}) {
  if (quoted.test(sentence)) return sentence;
  if (!compiled.has(table)) compile(table);
  const fits = compiled.get(table).find(([pattern]) => pattern.test(sentence));
  if (!fits) return listed(sentence, table, names);
  const [, ...values] = fits[0].exec(sentence);
  return fits[1].replace(/(“?)\{(\d)\}(?=(.?))/gs, (_, quote, place, next) => {
    if (quote) return quote + values[place];
    const list = listed(values[place], table, names); // first, for a template may fit several values as one
    return (list === values[place] ? translated(list, table, names) : list).replace(next ? /。$/ : "", "");
  });
}

// The name of a language, "English (en)", or several values: all of them, or none.
function listed(value, table, names) {
  const parts = value.split(/(, | and | or )/);
  if (parts.length > 1) {
    const told = parts.map((part, at) => (at % 2 ? between[part] : translated(part, table, names)));
    return told.some((part, at) => part === parts[at]) ? value : told.join("");
  }
  const [, name, code] = /^(.+?)(?: \((.+)\))?$/.exec(value) ?? [];
  return Object.hasOwn(names, name) ? names[name] + (code ? `（${code}）` : "") : value;
}
