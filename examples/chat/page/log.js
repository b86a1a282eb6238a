// The conversation: messages in the order of their time, comings and goings, days, and where the reader is in it.

import { avatar, build, listed, paint } from "/dom.js";

const KEPT = 1_000;
const GROUP_WITHIN = 5 * 60_000;
const AT_BOTTOM = 48;

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const dayOfYear = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long" });
const dayAndYear = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", year: "numeric" });

const NEXT = {
  joined: { "": "joined", left: "left and came back", "joined and left": "joined" },
  left: { "": "left", joined: "joined and left", "left and came back": "left" },
};

export class Log {
  #scroller;
  #list;
  #newer;
  #empty;
  #entries = [];
  #keys = new Set();
  #me = null;
  #unread = 0;
  #follows = true;
  #top = 0;

  constructor({ scroller, list, newer, empty }) {
    this.#scroller = scroller;
    this.#list = list;
    this.#newer = newer;
    this.#empty = empty;
    newer.addEventListener("click", () => {
      this.toBottom();
      scroller.focus({ preventScroll: true });
    });
    scroller.addEventListener("scroll", () => {
      const atBottom = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < AT_BOTTOM;
      // More may have come since the scrolling that this tells of: only a reader goes upwards.
      if (atBottom) this.#turn(true);
      else if (scroller.scrollTop < this.#top) this.#turn(false);
      this.#top = scroller.scrollTop;
    });
    // Not at each message, which would lay the page out each time. And a phone's keyboard, a banner or a growing input
    // take height too: the last message stays in sight.
    const resized = new ResizeObserver(() => this.follow());
    for (const element of [scroller, ...scroller.children]) resized.observe(element);
  }

  clear() {
    this.#entries = [];
    this.#keys.clear();
    this.#list.replaceChildren();
    this.#empty.hidden = true;
    this.toBottom();
  }

  set me(name) {
    this.#me = name;
    this.#entries.forEach((_, index) => this.#arrange(index));
  }

  /** A message as it happens. False if it was there already. */
  post(message) {
    if (!this.#insert(message)) return false;
    if (!this.#follows && message.user !== this.#me) {
      this.#unread += 1;
      this.#newer.textContent = this.#unread === 1 ? "1 new message" : `${this.#unread} new messages`;
      this.#newer.hidden = false;
    }
    return true;
  }

  /** Puts what is missing in its place; answers with what was new. */
  merge(messages) {
    this.#list.setAttribute("aria-busy", "true");
    const added = messages.filter((message) => this.#insert(message));
    this.#list.removeAttribute("aria-busy");
    this.#empty.hidden = this.#entries.length > 0;
    return added;
  }

  /** Someone "joined" or "left". Neighbouring ones share a line, or a restart of the server would fill the page. */
  presence(user, change) {
    let entry = this.#entries.at(-1);
    if (entry?.kind !== "presence") {
      entry = this.#append({ kind: "presence", changes: new Map() });
    }
    const before = entry.changes.get(user) ?? "";
    entry.changes.set(user, NEXT[change][before] ?? before);
    entry.element.lastChild.textContent = summarize(entry.changes);
  }

  remark(text) {
    const last = this.#entries.at(-1);
    if (last?.kind === "remark" && last.text === text) return;
    const entry = this.#append({ kind: "remark", text });
    entry.element.lastChild.textContent = text;
  }

  follow() {
    if (!this.#follows) return;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#top = this.#scroller.scrollTop;
  }

  toBottom() {
    this.#turn(true);
    this.follow();
  }

  #turn(follows) {
    this.#follows = follows;
    this.#scroller.classList.toggle("follows", follows);
    if (!follows) return;
    this.#unread = 0;
    this.#newer.hidden = true;
  }

  // Notices have no time of the server's, and the clock here may differ from it: they stay behind what they followed.
  #append(notice) {
    notice.at = this.#entries.at(-1)?.at ?? Date.now();
    notice.element = build("li", "notice", build("p"));
    this.#place(this.#entries.length, notice);
    return notice;
  }

  #insert({ user, text, at }) {
    const key = JSON.stringify([at, user, text]);
    if (this.#keys.has(key)) return false;
    this.#keys.add(key);
    let index = this.#entries.length;
    while (index > 0 && this.#entries[index - 1].at > at) index -= 1;
    this.#place(index, { kind: "message", key, user, text, at, element: bubble(user, text, at) });
    return true;
  }

  #place(index, entry) {
    this.#list.insertBefore(entry.element, this.#entries[index]?.element ?? null);
    this.#entries.splice(index, 0, entry);
    this.#empty.hidden = true;
    this.#arrange(index);
    this.#arrange(index + 1);
    if (this.#entries.length <= KEPT) return;
    const oldest = this.#entries.shift();
    this.#keys.delete(oldest.key);
    oldest.element.remove();
    this.#arrange(0);
  }

  // What an entry shows of author and day depends on the one before it.
  #arrange(index) {
    const entry = this.#entries[index];
    if (entry?.kind !== "message") return;
    const before = this.#entries[index - 1];
    const newDay = !before || day(before.at) !== day(entry.at);
    const grouped = !newDay && before.kind === "message" && before.user === entry.user && entry.at - before.at < GROUP_WITHIN;
    entry.element.classList.toggle("own", entry.user === this.#me);
    entry.element.classList.toggle("grouped", grouped);
    entry.element.querySelector(".day")?.remove();
    if (newDay) entry.element.prepend(build("p", "day", day(entry.at)));
  }
}

function bubble(user, text, at) {
  const author = build("span", "author", user);
  const words = build("span", "text", text);
  author.dir = words.dir = "auto";
  const date = new Date(at);
  const time = build("time", "", clock.format(date));
  time.dateTime = date.toISOString();
  time.title = moment.format(date);
  return paint(build("li", "message", avatar(user), build("div", "bubble", author, words, time)), user);
}

function day(at) {
  const date = new Date(at);
  return (date.getFullYear() === new Date().getFullYear() ? dayOfYear : dayAndYear).format(date);
}

function summarize(changes) {
  const groups = new Map();
  for (const [user, change] of changes) groups.set(change, [...(groups.get(change) ?? []), user]);
  return [...groups].map(([change, users]) => `${listed(users)} ${change}`).join(" · ");
}
