// One room's WebSocket: opens it, notices its loss, opens it again. Knows nothing of the page.

const FIRST_BACKOFF = 500;
const LONGEST_BACKOFF = 10_000;
const DRAIN_SPREAD = 2_000;
const OPEN_WITHIN = 10_000;
const PROBE_AFTER = 30_000;
const ANSWER_WITHIN = 10_000;
const STABLE_AFTER = 5_000;

const POLICY_VIOLATION = 1008;
const SERVICE_RESTART = 1012;
const ABNORMAL = 1006;

/**
 * `on.state` gets `{phase}`: "connecting", "online", "waiting" (with `until`, `code`) or "refused" (with `reason`).
 * `on.message` gets each parsed JSON object. `probe` is sent when the line is quiet; any frame counts as its answer.
 */
export class Connection {
  #url;
  #probe;
  #on;
  #socket = null;
  #attempt = 0;
  #openedAt = null;
  #timer;
  #phase = null;

  constructor(url, probe, on) {
    this.#url = url;
    this.#probe = probe;
    this.#on = on;
  }

  open() {
    this.close();
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#lost(ABNORMAL, ""), OPEN_WITHIN);
    socket.onopen = () => {
      this.#openedAt = Date.now();
      this.#heard();
      this.#tell({ phase: "online" });
    };
    socket.onmessage = ({ data }) => {
      this.#heard();
      const frame = parse(data);
      if (frame) this.#on.message(frame);
    };
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    this.#tell({ phase: "connecting" });
  }

  /** Closes for good; only `open` brings it back. */
  close() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    this.#openedAt = null;
    if (!socket) return;
    // A half-open socket waits minutes for the peer's close: it is abandoned, not awaited.
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  /** Whether the frame was handed to an open socket. That is no promise that it arrives. */
  send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  /** The network changed: find out now what became of the line, instead of when a timer ends. */
  check() {
    if (this.#phase === "waiting") this.open();
    else if (this.#phase === "online") this.#ask();
  }

  #heard() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), PROBE_AFTER);
  }

  // Pings are invisible to scripts, so a dead line shows only as a question without an answer.
  #ask() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lost(ABNORMAL, ""), ANSWER_WITHIN);
    this.send(this.#probe);
  }

  #lost(code, reason) {
    const stable = this.#openedAt !== null && Date.now() - this.#openedAt > STABLE_AFTER;
    this.close();
    if (code === POLICY_VIOLATION) {
      this.#tell({ phase: "refused", reason });
      return;
    }
    // Sockets that open and close at once go on backing off.
    if (stable || code === SERVICE_RESTART) this.#attempt = 0;
    const spread = code === SERVICE_RESTART ? DRAIN_SPREAD : Math.min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** this.#attempt++);
    const delay = Math.random() * spread;
    this.#timer = setTimeout(() => this.open(), delay);
    this.#tell({ phase: "waiting", until: Date.now() + delay, code });
  }

  #tell(state) {
    this.#phase = state.phase;
    this.#on.state(state);
  }
}

function parse(data) {
  try {
    const frame = JSON.parse(data);
    return frame !== null && typeof frame === "object" && !Array.isArray(frame) ? frame : null;
  } catch {
    return null;
  }
}
