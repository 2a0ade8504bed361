// What the reader sees of a run: paints the translation, says how it goes, and answers the buttons and keys.
//
// `window.YIWEN` is put before this by ui/blocks.py: its constants are destructured below.
// Text from the server or the reader only ever becomes a text node.

window.yiwen = (() => {
  const FRAME_MS = 33; // at most 30 paints a second, however fast the tokens come
  const COUNT_AFTER_MS = 400; // of quiet, before the server is asked for a token count
  const LAST_SOURCE = "yiwen-source";
  const MOST_NOTES = 30; // of each kind: a book may have a thousand terms

  const { text, chineseLocales, languages, maxTextTokens, model, licence } = window.YIWEN;
  const chinese = chineseLocales.includes(navigator.language); // the choice that gr.I18n makes for the labels
  const words = chinese ? text.zh : text.en;
  const at = (id) => document.getElementById(id);
  const output = () => at("yw-output-box");

  const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const sayCount = (key, count) => say(count === 1 ? `${key}_one` : key, { count: count.toLocaleString() });
  const languageName = (code) => languages[code][chinese ? "chinese" : "english"];
  const known = (code) => code in languages; // a text without words has none that is

  function element(tag, className, ...children) {
    const made = document.createElement(tag);
    made.className = className;
    made.append(...children);
    return made;
  }

  // ── painting ──────────────────────────────────────────────────────────────────────────────────────────────────

  let segments = new Map(); // segment number → its text node
  let pending = []; // deltas that wait for the next frame
  let frame = 0;
  let painted = 0;

  function node(segment) {
    if (!segments.has(segment)) {
      const made = document.createTextNode("");
      segments.set(segment, made);
      output().append(made);
    }
    return segments.get(segment);
  }

  function flush() {
    cancelAnimationFrame(frame);
    frame = 0;
    const box = output();
    const following = box.scrollHeight - box.scrollTop - box.clientHeight < 40; // unless the reader scrolled up
    for (const { segment, text } of pending) node(segment).appendData(text);
    pending = [];
    if (following) box.scrollTop = box.scrollHeight;
  }

  function paintSoon() {
    frame ||= requestAnimationFrame(function paint(now) {
      if (now - painted < FRAME_MS) return (frame = requestAnimationFrame(paint));
      painted = now;
      flush();
    });
  }

  // Where the terms stand: `places` count characters, and a text node counts halves of pairs.
  function markTerms(terms) {
    if (!window.Highlight) return; // a browser without them shows the words plain
    const nodes = [...output().childNodes];
    let length = 0;
    const ends = nodes.map((node) => (length += node.length));
    const at = halves(output().textContent);
    const within = (place, node) => [nodes[node], place - (ends[node - 1] ?? 0)];
    const ranges = terms.flatMap(({ places }) => places ?? []).map(([start, end]) => {
      const range = new Range();
      range.setStart(...within(at(start), first(ends, (nodeEnd) => nodeEnd > at(start))));
      range.setEnd(...within(at(end), first(ends, (nodeEnd) => nodeEnd >= at(end)))); // at a border the node before
      return range;
    });
    CSS.highlights.set("yw-term", new Highlight(...ranges));
  }

  // Characters → halves, as JavaScript counts.
  function halves(text) {
    const starts = [];
    if (/[\ud800-\udbff]/.test(text)) {
      let half = 0;
      for (const character of text) {
        starts.push(half);
        half += character.length;
      }
      starts.push(half);
    }
    return (place) => starts[place] ?? place;
  }

  // The index of the first of which `holds` is true, as it is of all after it.
  function first(sorted, holds) {
    let [from, to] = [0, sorted.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (holds(sorted[middle])) to = middle;
      else from = middle + 1;
    }
    return from;
  }

  function show(translation, lang) {
    window.CSS.highlights?.delete("yw-term");
    pending = [];
    segments = new Map();
    const box = output();
    box.replaceChildren();
    box.lang = lang;
    box.dir = languages[lang].direction;
    if (translation) node(0).data = translation;
  }

  // ── saying how it goes ────────────────────────────────────────────────────────────────────────────────────────

  let target = ""; // of the run in progress
  let detected = ""; // the language found last
  let total = 0; // segments of the run in progress
  let current = -1; // the segment being painted
  let deltas = 0;
  let firstDeltaAt = 0;
  let rateSaidAt = 0;

  function status(sentence) {
    const line = at("yw-status");
    if (line.textContent !== sentence) line.textContent = sentence; // a screen reader reads every change aloud
  }

  function busy(yes) {
    output().setAttribute("aria-busy", String(yes));
    at("yw-stop").disabled = !yes;
    if (!yes) at("yw-rate").textContent = "";
  }

  function note(kind, ...children) {
    at("yw-notes").append(element("li", `yw-${kind}`, ...children));
  }

  function fail(sentence) {
    busy(false);
    flush();
    status(say("failed"));
    note("error", sentence);
  }

  function progress(segment) {
    if (segment !== current && total > 1) status(say("segment", { number: segment + 1, total }));
    current = segment;
    const now = performance.now();
    firstDeltaAt ||= now;
    deltas += 1; // a delta is a token, or a few that make one character: near enough while it runs
    if (now - rateSaidAt < 500 || now - firstDeltaAt < 500) return;
    rateSaidAt = now;
    const rate = Math.round((deltas * 1000) / (now - firstDeltaAt));
    at("yw-rate").textContent = `· ${say("rate", { rate })}`;
  }

  function sayDone({ usage, detected_source_lang: source, detection, terms, warnings }) {
    const seconds = usage.seconds.toFixed(usage.seconds < 0.1 ? 2 : usage.seconds < 10 ? 1 : 0);
    let sentence = say("done", { tokens: sayCount("tokens", usage.output_tokens), seconds });
    const unsure = (warnings ?? []).some(({ code }) => code === "uncertain_language");
    if (detection?.length && known(source)) {
      sentence += ` · ${say(unsure ? "taken_for" : "detected", { language: languageName(source) })}`;
    }
    status(sentence);
    noteEach(warnings ?? [], "warning", ({ code, message }) => {
      note("warning", code === "uncertain_language" && detection?.length ? doubted(detection) : message);
    });
    const [missed, used] = [[], []];
    for (const term of terms ?? []) (term.applied < term.count ? missed : used).push(term);
    noteEach(missed, "term-missed", (term) => noteTerm("term-missed", term));
    noteEach(used, "term-used", (term) => noteTerm("term-used", term));
  }

  function noteEach(all, kind, tell) {
    all.slice(0, MOST_NOTES).forEach(tell);
    if (all.length > MOST_NOTES) note(kind, say("more", { count: (all.length - MOST_NOTES).toLocaleString() }));
  }

  function noteTerm(kind, { source, target, count, applied }) {
    const kept = source === target;
    const how = element("span", "yw-used", say(kept ? "term_kept" : "term_applied", { applied, count }));
    note(kind, kept ? `${source} ` : `${source} → ${target} `, how);
  }

  // Which languages a text may be in, in the reader's words.
  function doubted(detection) {
    const named = detection.map(({ lang, score }) =>
      say("share", { language: known(lang) ? languageName(lang) : lang, share: Math.round(score * 100) }),
    );
    return say("uncertain", { languages: named.join(say("or")) });
  }

  const on = {
    queued: ({ ahead }) => status(ahead ? say("queued", { ahead }) : say("next")),
    started: (message) => {
      total = message.segments;
      detected = message.detected_source_lang;
      show("", target); // not before: a run that is refused leaves the last translation where it was
      status(say("translating"));
    },
    delta: (message) => {
      pending.push(message);
      paintSoon();
      progress(message.segment);
    },
    replace: ({ segment, text }) => {
      flush();
      node(segment).data = text;
    },
    done: (message) => {
      flush();
      if (output().textContent !== message.translation) show(message.translation, target);
      markTerms(message.terms);
      busy(false);
      sayDone(message);
    },
    cancelled: () => {
      busy(false);
      status(say("stopped"));
    },
    error: ({ error, code }) => {
      fail(error);
      forgetGlossary(code);
    },
    lost: () => fail(say("lost")),
    unreachable: () => fail(say("unreachable")),
  };

  const documents = window.yiwenDocuments(document.baseURI, { say, element });
  const glossaries = window.yiwenGlossaries(document.baseURI, { say, element, languageName, languages });
  const stream = window.yiwenStream(document.baseURI, (message) => on[message.type]?.(message));

  // ── the buttons ───────────────────────────────────────────────────────────────────────────────────────────────

  function glossary(terms) {
    const rows = terms.data.map((row) => row.map((cell) => String(cell ?? "").trim()));
    return Object.fromEntries(rows.filter(([term]) => term)); // one without a translation is kept as it is
  }

  // What a translation of either kind is asked with.
  function asks(source, into, context, terms) {
    const fields = { source_lang: source, target_lang: into, context };
    if (known(lastSource())) fields.source_hint = lastSource();
    return { ...fields, glossary: glossary(terms), glossary_id: glossaries.chosen() };
  }

  async function startDocument(source, into, context, terms) {
    const fields = asks(source, into, context, terms);
    const answer = await documents.start({ ...fields, glossary: JSON.stringify(fields.glossary) });
    forgetGlossary(answer?.code);
  }

  // Another page has deleted it: it is not asked for again.
  function forgetGlossary(code) {
    if (code === "no_such_glossary") glossaries.refresh();
  }

  // The language that the reader named last: it counts where that of a text is not sure.
  function lastSource(code) {
    try {
      if (code) localStorage.setItem(LAST_SOURCE, code);
      return localStorage.getItem(LAST_SOURCE) ?? "";
    } catch {
      return ""; // a browser that keeps nothing
    }
  }

  let pair = { source_lang: "", target_lang: "" }; // as the pickers have it

  function choosePair(source, into) {
    pair = { source_lang: known(source) ? source : "", target_lang: into };
    if (pair.source_lang) lastSource(source);
  }

  function start(source, into, text, context, terms) {
    target = into;
    total = 0;
    current = -1;
    deltas = firstDeltaAt = rateSaidAt = 0;
    at("yw-notes").replaceChildren();
    busy(true);
    status(say("starting"));
    stream.start({ ...asks(source, into, context, terms), text, format: at("yw-format").value });
  }

  function stop() {
    if (!stream.running()) return;
    stream.cancel();
    flush();
    busy(false);
    status(say(output().textContent ? "stopped" : "stopped_empty"));
  }

  // The two languages and the two texts change places, so that swapping twice brings everything back.
  function swap(source, into, text) {
    const from = source === "auto" ? detected : source;
    if (!known(from)) {
      status(say("swap_unknown"));
      return [source, into, text];
    }
    stop();
    at("yw-notes").replaceChildren();
    status("");
    const translation = output().textContent;
    if (!translation) return [into, from, text];
    show(text, from);
    return [into, from, translation];
  }

  const addRow = (terms) => ({ ...terms, data: [...terms.data, ["", ""]] });

  async function copy() {
    const box = output();
    if (!box.textContent) return status(say("copy_empty"));
    status(say((await copied(box)) ? "copied" : "copy_refused"));
  }

  async function copied(box) {
    if (navigator.clipboard) return navigator.clipboard.writeText(box.textContent).then(() => true, () => false);
    const selection = getSelection(); // plain http on another machine has no clipboard; a selection can still be copied
    selection.selectAllChildren(box);
    const done = document.execCommand("copy");
    selection.removeAllRanges();
    return done;
  }

  // ── the counts under the source ───────────────────────────────────────────────────────────────────────────────

  let server = null; // the Python functions of the counter's gr.HTML
  let countLater = 0;

  function count(text) {
    clearTimeout(countLater);
    countLater = 0; // and an answer still under way is no longer wanted
    at("yw-characters").textContent = sayCount("characters", [...text].length);
    at("yw-tokens").textContent = "";
    if (text && server) countLater = setTimeout(() => countTokens(text, countLater), COUNT_AFTER_MS);
  }

  async function countTokens(text, mine) {
    const tokens = await server.count_tokens(text).catch(() => null); // a count is not worth an error
    if (mine !== countLater || tokens === null) return;
    const line = at("yw-tokens");
    const over = tokens > maxTextTokens;
    line.textContent = `· ${sayCount("tokens", tokens)}${over ? ` / ${maxTextTokens.toLocaleString()}` : ""}`;
    line.classList.toggle("yw-over", over);
  }

  // ── the memory line ───────────────────────────────────────────────────────────────────────────────────────────

  function meter(box, readings) {
    box.replaceChildren(
      ...readings.map(({ name, value, share }) => {
        const reading = element("span", "yw-reading", element("b", "", say(name)), ` ${value}`);
        if (share === null) return reading;
        const bar = element("span", "yw-bar", element("i", ""));
        bar.firstChild.style.width = `${Math.round(share * 100)}%`;
        reading.append(bar);
        return reading;
      }),
    );
  }

  // Once, when all is there. Gives back what target and terms show first: the target is not the reader's own language.
  function boot(target, terms) {
    document.documentElement.lang = chinese ? "zh-CN" : "en";
    for (const spoken of document.querySelectorAll("[data-say]")) spoken.textContent = say(spoken.dataset.say);
    for (const option of at("yw-format").options) option.textContent = say(`format_${option.value}`);
    at("yw-format").setAttribute("aria-label", say("format"));
    // what is under way, or will be used, must be seen
    if (documents.resume()) at("yw-document").querySelector("button").click();
    if (glossaries.remembered()) at("yw-glossaries").querySelector("button").click();
    at("yw-model").textContent = model;
    at("yw-licence").textContent = licence;
    at("yw-licence").parentElement.hidden = !licence;
    const box = output();
    box.dataset.hint = say("output_hint");
    box.setAttribute("aria-label", say("output"));
    at("yw-swap").title = say("swap");
    at("yw-swap").setAttribute("aria-label", say("swap"));
    at("yw-source").querySelector("textarea").dir = "auto";
    busy(false);
    count("");
    stream.connect();
    document.addEventListener("click", ({ target }) => {
      // Gradio wants a double click to edit a cell, and takes no input method (Chinese!) before it.
      const cell = target.closest("button") ? null : target.closest("#yw-terms [role=gridcell]");
      cell?.dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        at("yw-translate").click();
      } else if (event.key === "Escape") stop();
    });
    const own = chinese ? "zh" : "en";
    const first = ["zh", "en", ...Object.keys(languages)].find((code) => known(code) && code !== own);
    pair.target_lang = first ?? target;
    return [pair.target_lang, { ...terms, headers: [say("term"), say("term_translation")] }];
  }

  const useGlossaries = (place, kinds) => glossaries.use(place, kinds, () => pair);

  return { boot, say, documents, useGlossaries, choosePair, start, startDocument, stop, swap, addRow, copy, count, meter, useServer: (functions) => (server = functions) };
})();
