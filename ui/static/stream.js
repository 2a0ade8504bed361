// Runs one translation at a time over one WebSocket. Knows nothing of the page.
//
// Only frames of the run in progress are passed on, so a run that was stopped or replaced never paints. Where a
// WebSocket cannot be had twice in a row (a proxy, a company network), the run goes as POST /translate with
// stream: true; its server-sent events carry the same messages.

window.yiwenStream = (root, receive) => {
  const HANDSHAKE_MS = 4000; // some proxies swallow a handshake and never answer it
  const FAILURES_BEFORE_POST = 2;
  const BACK_OFF_MS = [500, 1000, 2000, 5000, 15000, 30000];

  let socket = null; // opening or open
  let failures = 0; // sockets in a row that never brought a message
  let retry = 0;
  let run = null; // { id, request, via: null | "socket" | "post", abort }
  let runs = 0;

  function pass(message) {
    if (["done", "cancelled", "error", "lost", "unreachable"].includes(message.type)) run = null;
    receive(message);
  }

  function connect() {
    clearTimeout(retry);
    if (socket) return;
    const url = new URL("ws/translate", root);
    url.protocol = url.protocol.replace("http", "ws");
    const opening = (socket = new WebSocket(url));
    const late = setTimeout(() => opening.close(), HANDSHAKE_MS);
    opening.onopen = () => {
      clearTimeout(late);
      opening.send(JSON.stringify({ type: "ping" })); // its pong proves that messages come through
      if (run && !run.via) sendOver(opening);
    };
    opening.onmessage = (event) => {
      failures = 0;
      const message = JSON.parse(event.data);
      // An error without an id is about what we sent last.
      if (run && (message.id === run.id || (message.type === "error" && !message.id))) pass(message);
    };
    opening.onclose = () => {
      clearTimeout(late);
      socket = null;
      failures += 1;
      if (run?.via === "socket") pass({ type: "lost" });
      if (run && !run.via) return failures < FAILURES_BEFORE_POST ? connect() : post(run);
      const wait = BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length) - 1];
      retry = setTimeout(connect, wait * (0.5 + Math.random())); // spread: a restart must not bring everyone at once
    };
  }

  function sendOver(open) {
    run.via = "socket";
    open.send(JSON.stringify({ ...run.request, type: "start", id: run.id }));
  }

  async function post(mine) {
    mine.via = "post";
    mine.abort = new AbortController();
    const hand = (message) => mine === run && pass(message);
    try {
      const answer = await fetch(new URL("translate", root), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...mine.request, stream: true }),
        signal: mine.abort.signal,
      });
      if (!answer.ok) return hand({ ...(await answer.json()), type: "error" });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return hand({ type: "lost" }); // too late to matter when the last message has come
        const lines = (rest + value).split(/\r?\n/);
        rest = lines.pop();
        for (const line of lines) if (line.startsWith("data:")) hand(JSON.parse(line.slice(5)));
      }
    } catch {
      hand({ type: "unreachable" }); // nobody listens any more if it was we who broke it off
    }
  }

  return {
    connect,
    running: () => run !== null,
    start(request) {
      this.cancel();
      run = { id: `r${++runs}`, request, via: null, abort: null };
      if (socket?.readyState === WebSocket.OPEN) sendOver(socket);
      else if (failures >= FAILURES_BEFORE_POST) post(run);
      else connect();
    },
    cancel() {
      if (!run) return;
      const { id, via, abort } = run;
      run = null;
      abort?.abort();
      if (via === "socket") socket.send(JSON.stringify({ type: "cancel", id }));
    },
  };
};
