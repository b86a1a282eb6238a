// Ties the page together: which room, who we are, and what each frame of the server means for the parts.

import { Connection } from "/connection.js";
import { Log } from "/log.js";
import { People } from "/people.js";
import { Composer } from "/composer.js";
import { stored } from "/dom.js";

const NICKNAME = "strait.nickname";
const PASSING = new Set(["rate_limited", "timeout", "unavailable"]);
const TRY_AGAIN_AFTER = 2_000;
const MESSAGE_TOO_BIG = 1009;

const byId = (id) => document.getElementById(id);
const login = byId("login");
const chat = byId("chat");
const nicknameInput = byId("nickname");

const log = new Log({ scroller: byId("scroller"), list: byId("log"), newer: byId("newer"), empty: byId("empty") });
const people = new People({ list: byId("people"), counts: document.querySelectorAll(".count"), typing: byId("typing") });
const composer = new Composer(
  { form: byId("composer"), input: byId("text"), note: byId("note"), outbox: byId("outbox") },
  {
    post: (text) => joined && connection.send({ action: "post", text }),
    typing: () => joined && connection.send({ action: "typing" }),
    sent: () => log.toBottom(),
  },
);

let room;
let connection;
let state = { phase: "connecting" };
let outage = false;
let reached = false;
let nickname = stored(() => localStorage.getItem(NICKNAME));
let joined = false;
let asked = false;
let missed = 0;
const later = new Map();

function enter() {
  connection?.close();
  for (const name of [...later.keys()]) cancel(name);
  room = roomOfAddress();
  for (const element of document.querySelectorAll(".room-name")) element.textContent = room;
  byId("room").value = room;
  show(nickname === null);
  composer.open(room);
  log.clear();
  people.clear();
  outage = false;
  reached = false;
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const url = `${scheme}//${location.host}/rooms/${encodeURIComponent(room)}`;
  connection = new Connection(url, { action: "who" }, { state: changed, message: received });
  connection.open();
}

function roomOfAddress() {
  let name = location.hash.slice(1);
  try {
    name = decodeURIComponent(name);
  } catch {
    // A stray "%" is taken as it stands.
  }
  name = name.trim();
  // URL parsers resolve these as path segments, encoded or not.
  return name === "" || name === "." || name === ".." ? "lobby" : name;
}

function changed(next) {
  state = next;
  if (next.phase !== "online") {
    joined = false;
    asked = false;
    for (const name of [...later.keys()]) cancel(name);
    people.rest();
  }
  if (next.phase === "waiting" || next.phase === "refused") {
    outage = true;
    composer.lost(next.code === MESSAGE_TOO_BIG ? "Not sent: the message is too long." : undefined);
  }
  if (next.phase === "online") {
    outage = false;
    reached = true;
    composer.connected();
    signIn();
  }
  showState();
}

function signIn() {
  if (nickname === null || joined || asked) return;
  asked = connection.send({ action: "login", nickname });
}

function received(frame) {
  if (typeof frame.event === "string") happened(frame);
  else if (frame.gap) gap();
  else if (frame.action === undefined && Array.isArray(frame.messages)) merge(frame.messages, frame.before);
  else if (frame.error) failed(frame.action, frame.error);
  else answered(frame);
}

function happened({ event, user, text, at }) {
  if (typeof user !== "string") return;
  const own = user === nickname;
  if (event === "posted") {
    people.rests(user);
    if (isMessage({ user, text, at })) posted({ user, text, at });
  } else if (event === "typing") {
    people.types(user);
  } else if (event === "joined") {
    people.joined(user);
    if (!own) log.presence(user, "joined");
  } else if (event === "left") {
    people.left(user);
    if (!own) log.presence(user, "left");
    // The user may be here still, on another device. Everyone asks at another moment.
    soon("who", 500 + Math.random() * 2_000, () => connection.send({ action: "who" }));
  }
}

function posted(message) {
  const added = log.post(message);
  if (message.user === nickname) composer.logged(message);
  else if (added && document.hidden) missed += 1;
  showTitle();
}

function merge(messages, before) {
  // A long history comes in pages, the newest first.
  if (before !== undefined) connection.send({ action: "history", before });
  for (const message of log.merge(messages.filter(isMessage))) {
    if (message.user === nickname) composer.logged(message);
  }
}

function isMessage(value) {
  // Date holds ±8.64e15 ms; a time beyond it cannot be shown.
  return typeof value?.user === "string" && typeof value.text === "string" && Math.abs(value.at) <= 8.64e15;
}

function gap() {
  log.remark("Messages were missed here and are fetched again");
  soon("catch up", 250, catchUp);
}

function catchUp() {
  connection.send({ action: "history" });
  connection.send({ action: "who" });
}

function answered({ action, at, users, messages, before }) {
  if (action === "login" && asked) {
    asked = false;
    joined = true;
    stored(() => localStorage.setItem(NICKNAME, nickname));
    show(false);
    composer.focus();
    connection.send({ action: "who" });
  } else if (action === "post") {
    composer.accepted(at);
  } else if (action === "who" && Array.isArray(users)) {
    people.replace(users.filter((user) => typeof user === "string"));
  } else if (action === "history" && Array.isArray(messages)) {
    merge(messages, before);
  }
}

function failed(action, { code, message }) {
  if (action === "login") {
    asked = false;
    const remembered = !chat.hidden;
    if (remembered && PASSING.has(code)) {
      soon("login", TRY_AGAIN_AFTER, signIn);
      return;
    }
    nickname = null;
    show(true);
    byId("login-wait").hidden = true;
    setLoginError(message ?? code);
    nicknameInput.select();
  } else if (action === "post") {
    composer.refused(message ?? code);
    if (code !== "unauthenticated") return;
    joined = false;
    signIn();
  } else if (action === "history" && PASSING.has(code)) {
    soon("catch up", TRY_AGAIN_AFTER, catchUp);
  }
}

function soon(name, delay, act) {
  if (later.has(name)) return;
  later.set(name, setTimeout(() => {
    later.delete(name);
    act();
  }, delay));
}

function cancel(name) {
  clearTimeout(later.get(name));
  later.delete(name);
}

function show(asksName) {
  log.me = nickname;
  people.me = nickname;
  byId("self").textContent = nickname ?? "";
  login.hidden = !asksName;
  chat.hidden = asksName;
  if (asksName) {
    drawer(false);
    nicknameInput.focus();
  } else {
    log.follow();
  }
  showTitle();
}

function showTitle() {
  document.title = `${missed ? `(${missed}) ` : ""}${room} – Strait`;
}

const PHASES = { connecting: "Connecting", online: "Online", waiting: "Offline", refused: "Offline" };

function showState() {
  const { phase, reason } = state;
  setText(byId("state"), PHASES[phase]);
  byId("state").dataset.phase = phase;
  byId("outage").hidden = !outage;
  if (!outage) return;
  const refused = phase === "refused";
  if (refused) setText(byId("outage-what"), `The server closed the connection${reason ? `: ${reason}` : ""}.`);
  else if (phase === "waiting") setText(byId("outage-what"), reached ? "Connection lost." : "The server cannot be reached.");
  const seconds = Math.max(1, Math.ceil((state.until - Date.now()) / 1_000));
  setText(byId("outage-when"), { waiting: `Retrying in ${seconds} s`, connecting: "Reconnecting…" }[phase] ?? "");
  byId("retry").disabled = phase === "connecting";
}

// A live region is read out again whenever it is written, also with the same words.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setLoginError(text) {
  byId("login-error").textContent = text;
  nicknameInput.setAttribute("aria-invalid", String(text !== ""));
}

byId("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = nicknameInput.value.trim();
  if (asked) return;
  if (name === "") {
    setLoginError("Enter a name.");
    nicknameInput.focus();
    return;
  }
  nickname = name;
  setLoginError("");
  byId("login-wait").hidden = state.phase === "online";
  signIn();
});

byId("rename").addEventListener("click", () => {
  nicknameInput.value = nickname ?? "";
  nickname = null;
  stored(() => localStorage.removeItem(NICKNAME));
  // A new connection is the one way to be nobody again.
  enter();
  nicknameInput.select();
});

byId("room-form").addEventListener("submit", (event) => {
  event.preventDefault();
  drawer(false);
  location.hash = encodeURIComponent(byId("room").value.trim() || "lobby");
  composer.focus();
});

function drawer(open) {
  const was = chat.classList.contains("drawer");
  chat.classList.toggle("drawer", open);
  byId("people-open").setAttribute("aria-expanded", String(open));
  byId("shade").hidden = !open;
  byId("conversation").inert = open;
  if (open) byId("people-close").focus();
  else if (was) byId("people-open").focus();
}

byId("people-open").addEventListener("click", () => drawer(true));
byId("people-close").addEventListener("click", () => drawer(false));
byId("shade").addEventListener("click", () => drawer(false));
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.classList.contains("drawer")) drawer(false);
});
// On a wide window the drawer is a column, and nothing may stay inert behind it.
matchMedia("(max-width: 44rem)").addEventListener("change", () => drawer(false));

byId("retry").addEventListener("click", () => connection.open());
addEventListener("online", () => connection.check());
addEventListener("offline", () => state.phase === "online" && connection.check());
addEventListener("hashchange", enter);
addEventListener("pagehide", () => connection.close());
addEventListener("pageshow", (event) => event.persisted && connection.open());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  missed = 0;
  showTitle();
});

// Safari lays its keyboard over the page instead of shrinking it.
visualViewport?.addEventListener("resize", () => {
  if (visualViewport.scale !== 1) return;
  document.documentElement.style.setProperty("--height", `${visualViewport.height}px`);
});

setInterval(() => outage && showState(), 250);
nicknameInput.value = nickname ?? "";
enter();
