// Files in, translated files out: sends them to /documents and shows how far each is. Knows nothing of the texts.
//
// A document's number stays in the browser, so that a page opened again shows what is under way and what is done.

window.yiwenDocuments = (root, { say, element }) => {
  const POLL_MS = 1000;
  const POLL_HIDDEN_MS = 10000; // while nobody looks at the page
  const REMEMBERED = "yiwen-documents";

  const rows = new Map(); // document's id → what shows it
  const list = element("ul", "yw-documents");
  const hint = element("span", "", say("document_hint"));
  const { useZone, asked, button } = window.yiwenFiles(say, element);
  let chosen = null; // the file that waits for its button
  let picker = null;

  const address = (id, rest = "") => new URL(`documents/${id}${rest}`, root);
  const ended = ({ status }) => status === "done" || status === "error";

  function remembered() {
    try {
      const ids = JSON.parse(localStorage.getItem(REMEMBERED));
      return Array.isArray(ids) ? ids : [];
    } catch {
      return []; // a browser that keeps nothing
    }
  }

  // Reads before it writes: another tab may have sent documents of its own.
  function remember(change) {
    try {
      localStorage.setItem(REMEMBERED, JSON.stringify(change(remembered())));
    } catch {
      // then it is forgotten with the page
    }
  }

  function choose(file, from = null) {
    chosen = file;
    picker = from;
    hint.textContent = chosen ? chosen.name : say("document_hint");
  }

  function made(name) {
    const row = element("li", "yw-doc");
    const title = element("b", "", name);
    const bar = element("progress", "");
    const said = element("span", "yw-doc-said");
    bar.setAttribute("aria-label", name);
    said.setAttribute("role", "status");
    const actions = element("span", "yw-doc-actions");
    row.append(title, bar, said, actions);
    list.prepend(row);
    return { row, title, bar, said, actions, shown: "" };
  }

  function refused(view, sentence) {
    view.row.classList.add("yw-failed");
    view.bar.hidden = true;
    view.said.textContent = sentence;
    view.actions.replaceChildren(button("remove", () => view.row.remove()));
  }

  function doubts(warnings) {
    const summary = element("summary", "", say("document_warnings", { count: warnings.length }));
    const sentences = warnings.map(({ message }) => element("li", "yw-warning", message));
    return element("details", "yw-doc-doubts", summary, element("ul", "", ...sentences));
  }

  function show(view, id, document) {
    const { status, segments_done: done, segments_total: total } = document;
    view.title.textContent = document.name;
    view.bar.hidden = ended(document);
    if (total) [view.bar.max, view.bar.value] = [total, done];
    view.row.classList.toggle("yw-failed", status === "error");
    if (status === "error") view.said.textContent = document.error;
    else if (status === "done") view.said.textContent = say("document_done", { segments: total });
    else view.said.textContent = total ? say("document_progress", { done, total }) : say("document_queued");
    if (view.shown === status) return; // or a poll would take the focus off a button
    view.shown = status;
    view.actions.replaceChildren(button(ended(document) ? "remove" : "cancel", () => drop(id, view)));
    if (status !== "done") return;
    const link = element("a", "yw-doc-get", say("download"));
    link.href = address(id, "/result");
    link.download = document.result_name;
    view.actions.prepend(link);
    if (document.warnings.length) view.row.append(doubts(document.warnings));
  }

  async function follow(id, view) {
    const document = await asked(address(id));
    if (rows.get(id) !== view) return;
    if (document.missing) return forget(id, view);
    if (document.trouble) view.said.textContent = document.trouble;
    else show(view, id, document);
    if (document.trouble || !ended(document)) {
      setTimeout(follow, window.document.hidden ? POLL_HIDDEN_MS : POLL_MS, id, view);
    }
  }

  function forget(id, view) {
    view.row.remove();
    rows.delete(id);
    remember((ids) => ids.filter((one) => one !== id));
  }

  async function drop(id, view) {
    const { trouble } = await asked(address(id), { method: "DELETE" });
    if (trouble) view.said.textContent = trouble;
    else forget(id, view);
  }

  // The server's answer; nothing where no file was chosen.
  async function start(fields) {
    if (!chosen) return void (hint.textContent = say("document_missing"));
    const form = new FormData();
    form.append("file", chosen);
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    const view = made(chosen.name);
    const sending = new AbortController();
    view.said.textContent = say("document_sending");
    view.actions.replaceChildren(button("cancel", () => (view.row.remove(), sending.abort())));
    if (picker) picker.value = "";
    choose(null);
    const answer = await asked(new URL("documents", root), { method: "POST", body: form, signal: sending.signal });
    if (answer.id) {
      rows.set(answer.id, view);
      remember((ids) => [...ids, answer.id]);
      show(view, answer.id, answer);
      follow(answer.id, view);
    } else refused(view, answer.trouble ?? answer.missing ?? say("unreachable"));
    return answer;
  }

  // Whether there is any.
  function resume() {
    const ids = remembered();
    for (const id of ids) {
      const view = made("…");
      view.said.textContent = say("document_queued");
      rows.set(id, view);
      follow(id, view);
    }
    return ids.length > 0;
  }

  return {
    useZone: (zone, kinds) => useZone(zone, { id: "yw-file", kinds, hint, choose }),
    useList: (place) => place.append(list),
    start,
    resume,
  };
};
