// When the page comes back after it has lost its server: `node --test`, with a clock, sockets and dice of its own.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Connection } from "../../page/connection.js";

let now, timers, sockets, dice, states;

class FakeSocket {
  static OPEN = 1;
  readyState = 1;
  constructor() {
    sockets.push(this);
  }
  send() {}
  close() {}
}

globalThis.WebSocket = FakeSocket;
globalThis.setTimeout = (run, delay) => timers.push({ run, at: now + delay });
globalThis.clearTimeout = (number) => {
  if (number) timers[number - 1] = null;
};
Date.now = () => now;
Math.random = () => dice;

beforeEach(() => ([now, timers, sockets, dice, states] = [0, [], [], 0.5, []]));

function advance(milliseconds) {
  const until = now + milliseconds;
  for (;;) {
    const due = timers.filter((timer) => timer && timer.at <= until).sort((a, b) => a.at - b.at)[0];
    if (!due) break;
    timers[timers.indexOf(due)] = null;
    now = due.at;
    due.run();
  }
  now = until;
}

function opened() {
  const connection = new Connection("ws://here", {}, { state: (state) => states.push(state), message() {} });
  connection.open();
  sockets.at(-1).onopen();
  return connection;
}

/** Loses the newest socket; answers how long the page waits before it opens another one. */
function lose(code) {
  const [before, began] = [sockets.length, now];
  sockets.at(-1).onclose({ code, reason: "" });
  assert.equal(states.at(-1).phase, "waiting");
  const wait = states.at(-1).until - began;
  advance(wait);
  assert.equal(sockets.length, before + 1);
  return wait;
}

test("all clients of a server that is gone come back at moments of their own", () => {
  const waits = [0, 0.25, 0.999].map((thrown) => {
    dice = thrown;
    opened();
    return lose(1006);
  });
  assert.deepEqual(waits, [0, 125, 499.5]);
});

test("who finds nobody waits ever longer, but no more than ten seconds", () => {
  dice = 0.999_999;
  opened();
  const waits = Array.from({ length: 8 }, () => Math.round(lose(1006)));
  assert.deepEqual(waits, [500, 1000, 2000, 4000, 8000, 10000, 10000, 10000]);
});

test("a connection that has stood for a while begins anew", () => {
  dice = 0.999_999;
  opened();
  lose(1006);
  lose(1006);
  sockets.at(-1).onopen();
  advance(6_000);
  assert.equal(Math.round(lose(1006)), 500);
});

test("a server that restarts is given two seconds to be asked in", () => {
  const waits = [0, 0.5, 0.999_999].map((thrown) => {
    dice = thrown;
    opened();
    return Math.round(lose(1012));
  });
  assert.deepEqual(waits, [0, 1000, 2000]);
});

test("who was refused does not come back", () => {
  opened();
  sockets.at(-1).onclose({ code: 1008, reason: "no" });
  advance(60_000);
  assert.deepEqual([states.at(-1), sockets.length], [{ phase: "refused", reason: "no" }, 1]);
});

test("a line that is dead without a word is found out", () => {
  opened();
  advance(30_000 + 10_000);
  assert.equal(states.find(({ phase }) => phase === "waiting").code, 1006);
});
