// What everything does that sends files: a place to drop one, and an answer that is never an exception.

window.yiwenFiles = (say, element) => {
  // A zone where a file is dropped or chosen, of these `kinds`: ".txt,.md"
  function useZone(zone, { id, kinds, hint, choose }) {
    const picker = element("input", "");
    Object.assign(picker, { type: "file", id, accept: kinds });
    picker.onchange = () => picker.files[0] && choose(picker.files[0], picker);
    zone.ondragover = (event) => event.preventDefault();
    zone.ondrop = (event) => {
      event.preventDefault();
      if (event.dataTransfer.files[0]) choose(event.dataTransfer.files[0], picker);
    };
    zone.replaceChildren(picker, hint);
  }

  // The answer's body; { missing } where there is no such thing; { trouble } where it may go better later. Both are
  // sentences, with the server's `code` beside them.
  async function asked(url, options) {
    try {
      const answer = await fetch(url, options);
      const body = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
      if (answer.ok) return body;
      const sentence = body.error ?? say("document_refused", { status: answer.status });
      return { [answer.status === 404 ? "missing" : "trouble"]: sentence, code: body.code };
    } catch {
      return { trouble: say("unreachable") };
    }
  }

  function button(label, act) {
    const made = element("button", "", say(label));
    made.type = "button";
    made.onclick = act;
    return made;
  }

  return { useZone, asked, button };
};
