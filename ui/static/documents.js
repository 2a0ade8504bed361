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
  const picker = element("input", "");
  let chosen = null; // the file that waits for its button

  const address = (id, rest = "") => new URL(`documents/${id}${rest}`, root);

  function remembered() {
    try {
      return JSON.parse(localStorage.getItem(REMEMBERED)) ?? [];
    } catch {
      return []; // a browser that keeps nothing
    }
  }

  function remember() {
    try {
      localStorage.setItem(REMEMBERED, JSON.stringify([...rows.keys()]));
    } catch {
      // then it is forgotten with the page
    }
  }

  async function asked(url, options) {
    try {
      const answer = await fetch(url, options);
      const body = answer.status === 204 ? {} : await answer.json();
      return answer.ok ? body : { status: "error", missing: answer.status === 404, error: body.error };
    } catch {
      return { status: "unreachable", error: say("unreachable") };
    }
  }

  function choose(file) {
    chosen = file ?? null;
    hint.textContent = chosen ? chosen.name : say("document_hint");
  }

  // The place where files are dropped or chosen, of these `kinds`: ".txt,.md"
  function useZone(zone, kinds) {
    Object.assign(picker, { type: "file", id: "yw-file", accept: kinds });
    picker.onchange = () => choose(picker.files[0]);
    zone.ondragover = (event) => event.preventDefault();
    zone.ondrop = (event) => {
      event.preventDefault();
      choose(event.dataTransfer.files[0]);
    };
    zone.replaceChildren(picker, hint);
  }

  function made(name) {
    const row = element("li", "yw-doc");
    const bar = element("progress", "");
    bar.setAttribute("aria-label", name);
    const said = element("span", "yw-doc-said");
    said.setAttribute("role", "status");
    const actions = element("span", "yw-doc-actions");
    row.append(element("b", "", name), bar, said, actions);
    list.prepend(row);
    return { row, bar, said, actions };
  }

  function doubts(warnings) {
    const summary = element("summary", "", say("document_warnings", { count: warnings.length }));
    const sentences = warnings.map(({ message }) => element("li", "yw-warning", message));
    return element("details", "yw-doc-doubts", summary, element("ul", "", ...sentences));
  }

  function show(view, id, document) {
    const { status, segments_done: done, segments_total: total, error, warnings } = document;
    view.bar.hidden = status === "done" || status === "error";
    if (total) [view.bar.max, view.bar.value] = [total, done];
    view.row.classList.toggle("yw-failed", status === "error");
    if (status === "error" || status === "unreachable") view.said.textContent = error;
    else if (status === "done") {
      view.said.textContent = say("document_done", { segments: total });
      if (warnings.length && view.shown !== status) view.row.append(doubts(warnings));
    } else view.said.textContent = total ? say("document_progress", { done, total }) : say("document_queued");
    const actions = [];
    if (status === "done") {
      const link = element("a", "yw-doc-get", say("download"));
      link.href = address(id, "/result");
      link.download = document.result_name;
      actions.push(link);
    }
    const remove = element("button", "", say(status === "done" || status === "error" ? "remove" : "cancel"));
    remove.type = "button";
    remove.onclick = () => drop(id);
    actions.push(remove);
    if (view.shown !== status) view.actions.replaceChildren(...actions); // or a poll would take the focus off a button
    view.shown = status;
  }

  async function follow(id, view) {
    const document = await asked(address(id));
    if (rows.get(id) !== view) return;
    if (document.missing) return forget(id);
    show(view, id, document);
    if (document.status === "done" || document.status === "error") return;
    setTimeout(follow, window.document.hidden ? POLL_HIDDEN_MS : POLL_MS, id, view);
  }

  function forget(id) {
    rows.get(id)?.row.remove();
    rows.delete(id);
    remember();
  }

  async function drop(id) {
    forget(id);
    await asked(address(id), { method: "DELETE" });
  }

  async function start(fields) {
    if (!chosen) return picker.click();
    const form = new FormData();
    form.append("file", chosen);
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    const view = made(chosen.name);
    view.said.textContent = say("document_sending");
    choose(null);
    picker.value = "";
    const answer = await asked(new URL("documents", root), { method: "POST", body: form });
    if (!answer.id) {
      const gone = element("button", "", say("remove"));
      gone.onclick = () => view.row.remove();
      view.row.classList.add("yw-failed");
      view.bar.hidden = true;
      view.said.textContent = answer.error;
      return view.actions.replaceChildren(gone);
    }
    rows.set(answer.id, view);
    remember();
    show(view, answer.id, answer);
    follow(answer.id, view);
  }

  async function resume() {
    for (const id of remembered()) {
      const document = await asked(address(id));
      if (document.missing || document.status === "unreachable") continue;
      const view = made(document.name);
      rows.set(id, view);
      show(view, id, document);
      if (document.status !== "done" && document.status !== "error") follow(id, view);
    }
    remember();
  }

  return { useZone, useList: (place) => place.append(list), start, resume };
};
