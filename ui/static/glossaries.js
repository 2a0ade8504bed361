// Glossaries that the server keeps: a file of terms goes in, one of them is chosen for the next translation.

window.yiwenGlossaries = (root, { say, element, languageName, languages }) => {
  const REMEMBERED = "yiwen-glossary";
  const MOST_TOLD = 20; // rows of a file that could not be used

  const { useZone, asked, button } = window.yiwenFiles(say, element);
  const hint = element("span", "", say("glossary_hint"));
  const picker = element("select", "");
  const title = element("label", "", say("glossary"));
  const actions = element("span", "yw-doc-actions");
  const row = element("div", "yw-glossary-row", title, actions, picker);
  const said = element("p", "yw-glossary-said");
  const rows = element("div", ""); // of the file sent last that could not be used
  let stored = null; // { id, name, source_lang, target_lang, term_count } of each, once the server has said

  said.setAttribute("role", "status");
  title.htmlFor = picker.id = "yw-glossary";
  picker.onchange = () => {
    choose(picker.value);
    remember(picker.value);
  };

  const address = (rest = "") => new URL(`glossaries${rest}`, root);
  const name = (code) => (code in languages ? languageName(code) : code);

  function remembered() {
    try {
      return localStorage.getItem(REMEMBERED) ?? "";
    } catch {
      return ""; // a browser that keeps nothing
    }
  }

  function remember(id) {
    try {
      localStorage.setItem(REMEMBERED, id);
    } catch {
      // then it is forgotten with the page
    }
  }

  function choose(id) {
    const chosen = stored?.find((one) => one.id === id);
    picker.value = chosen?.id ?? "";
    picker.title = picker.selectedOptions[0].text; // a long name is cut off
    actions.replaceChildren();
    if (!chosen) return;
    const link = element("a", "", say("download"));
    link.href = address(`/${chosen.id}/file?format=csv`);
    actions.append(link, button("remove", () => remove(chosen.id, chosen.name)));
  }

  function option({ id, name: title, source_lang: from, target_lang: to, term_count: count }) {
    const values = { title, from: name(from), to: name(to), count: count.toLocaleString() };
    const made = element("option", "", say("glossary_option", values));
    made.value = id;
    return made;
  }

  function list(chosen) {
    const none = element("option", "", say("glossary_none"));
    none.value = "";
    picker.replaceChildren(none, ...(stored ?? []).map(option));
    choose(chosen);
  }

  function tell(sentence, problems = []) {
    said.textContent = sentence;
    rows.replaceChildren();
    if (!problems.length) return;
    const told = problems
      .slice(0, MOST_TOLD)
      .map(({ row, message }) => (row ? say("glossary_row", { row, message }) : message)); // 0: of the whole file
    if (problems.length > MOST_TOLD) told.push(say("more", { count: problems.length - MOST_TOLD }));
    const summary = element("summary", "", say("glossary_problems", { count: problems.length }));
    const lines = told.map((line) => element("li", "yw-warning", line));
    rows.append(element("details", "yw-doc-doubts", summary, element("ul", "", ...lines)));
  }

  // One that is no longer there, since another page has deleted it, is not asked for again.
  async function refresh(chosen) {
    const glossaries = await asked(address());
    if (!Array.isArray(glossaries)) return tell(glossaries.trouble ?? say("unreachable"));
    stored = glossaries;
    list(chosen);
    remember(picker.value);
    if (chosen && !picker.value) tell(say("glossary_gone"));
  }

  // Languages that the file does not say itself are those of the page.
  async function send(file, pair) {
    tell(say("document_sending"));
    const form = new FormData();
    form.append("file", file);
    for (const [field, code] of Object.entries(pair)) if (code) form.append(field, code);
    const answer = await asked(address(), { method: "POST", body: form });
    const unsaid = answer.code === "invalid_request" && !pair.source_lang; // the one thing that a file can lack
    if (!answer.id) return tell(unsaid ? say("glossary_from") : (answer.trouble ?? say("unreachable")));
    await refresh(answer.id);
    tell(say("glossary_kept", { title: answer.name, count: answer.term_count.toLocaleString() }), answer.problems);
  }

  async function remove(id, title) {
    if (!confirm(say("glossary_remove", { title }))) return; // there may be no other copy
    const { trouble } = await asked(address(`/${id}`), { method: "DELETE" });
    if (trouble) return tell(trouble);
    tell("");
    await refresh("");
    picker.focus(); // the button that was pressed is gone
  }

  return {
    use(place, kinds, pair) {
      const zone = element("label", "yw-drop yw-drop-small");
      const choose = (file, input) => {
        send(file, pair());
        input.value = "";
      };
      useZone(zone, { id: "yw-glossary-file", kinds, hint, choose });
      list(""); // so that its room is there from the start
      place.replaceChildren(row, zone, said, rows);
      refresh(remembered());
    },
    chosen: () => (stored ? picker.value : remembered()),
    refresh: () => refresh(stored ? picker.value : remembered()),
    remembered,
  };
};
