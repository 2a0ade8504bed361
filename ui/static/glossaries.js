// Glossaries that the server keeps: a file of terms goes in, one of them is chosen for the next translation.

window.yiwenGlossaries = (root, { say, element, languageName, languages }) => {
  const REMEMBERED = "yiwen-glossary";
  const MOST_TOLD = 20; // rows of a file that could not be used

  const { useZone, asked, button } = window.yiwenFiles(say, element);
  const hint = element("span", "", say("glossary_hint"));
  const picker = element("select", "");
  const actions = element("span", "yw-doc-actions");
  const row = element("div", "yw-glossary-row", picker, actions);
  const report = element("div", "yw-glossary-report");
  let kept = []; // { id, name, source_lang, target_lang, term_count }

  report.setAttribute("role", "status");
  picker.id = "yw-glossary";
  picker.setAttribute("aria-label", say("glossary"));
  picker.onchange = () => choose(picker.value);

  const address = (rest = "") => new URL(`glossaries${rest}`, root);
  const name = (code) => (code in languages ? languageName(code) : code);

  function remembered() {
    try {
      return localStorage.getItem(REMEMBERED) ?? "";
    } catch {
      return ""; // a browser that keeps nothing
    }
  }

  function choose(id) {
    const chosen = kept.find((one) => one.id === id);
    picker.value = chosen?.id ?? "";
    try {
      localStorage.setItem(REMEMBERED, picker.value);
    } catch {
      // then it is forgotten with the page
    }
    actions.replaceChildren();
    if (!chosen) return;
    const link = element("a", "", say("download"));
    link.href = address(`/${chosen.id}/file?format=csv`);
    actions.append(link, button("remove", () => remove(chosen.id)));
  }

  function list(glossaries, chosen) {
    kept = glossaries;
    const options = kept.map(({ id, name: title, source_lang: from, target_lang: to, term_count: count }) => {
      const option = element("option", "", say("glossary_option", { title, from: name(from), to: name(to), count }));
      option.value = id;
      return option;
    });
    const none = element("option", "", say("glossary_none"));
    none.value = "";
    picker.replaceChildren(none, ...options);
    row.hidden = !kept.length;
    choose(chosen);
  }

  function tell(sentence, problems = []) {
    report.replaceChildren(element("p", "", sentence));
    if (!problems.length) return;
    const told = problems.slice(0, MOST_TOLD).map((one) => say("glossary_row", { row: one.row, message: one.message }));
    if (problems.length > MOST_TOLD) told.push(say("glossary_more", { count: problems.length - MOST_TOLD }));
    const summary = element("summary", "", say("glossary_problems", { count: problems.length }));
    const lines = told.map((line) => element("li", "yw-warning", line));
    report.append(element("details", "yw-doc-doubts", summary, element("ul", "", ...lines)));
  }

  async function refresh(chosen = picker.value) {
    const glossaries = await asked(address());
    if (Array.isArray(glossaries)) list(glossaries, chosen);
  }

  // Languages that the file does not say itself are those of the page.
  async function send(file, pair) {
    tell(say("document_sending"));
    const form = new FormData();
    form.append("file", file);
    for (const [field, code] of Object.entries(pair)) if (code) form.append(field, code);
    const answer = await asked(address(), { method: "POST", body: form });
    if (!answer.id) return tell(answer.trouble ?? say("unreachable"));
    await refresh(answer.id);
    tell(say("glossary_kept", { title: answer.name, count: answer.term_count }), answer.problems);
  }

  async function remove(id) {
    const { trouble } = await asked(address(`/${id}`), { method: "DELETE" });
    if (trouble) return tell(trouble);
    report.replaceChildren();
    refresh("");
  }

  return {
    use(place, kinds, pair) {
      const zone = element("label", "yw-drop yw-drop-small");
      const choose = (file, input) => {
        send(file, pair());
        input.value = "";
      };
      useZone(zone, { id: "yw-glossary-file", kinds, hint, choose });
      place.replaceChildren(row, zone, report);
      refresh(remembered());
    },
    chosen: () => picker.value || null,
    remembered,
  };
};
