// The input and what was sent from it but not yet confirmed. A text leaves only when the server took it.

import { build, stored } from "/dom.js";

const TYPING_EVERY = 3_000;
const NOT_CONNECTED = "Not connected. Your message stays here.";

export class Composer {
  #input;
  #note;
  #outbox;
  #on;
  #sent = [];
  #unconfirmed = [];
  #draft = null;
  #lastTyping = 0;

  /** `on.post(text)` says whether it could be sent at all, `on.typing()` is throttled, `on.sent()` follows a sending. */
  constructor({ form, input, note, outbox }, on) {
    this.#input = input;
    this.#note = note;
    this.#outbox = outbox;
    this.#on = on;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    input.addEventListener("input", () => {
      this.#changed();
      this.#say("");
      if (input.value.trim() === "" || Date.now() - this.#lastTyping < TYPING_EVERY) return;
      this.#lastTyping = Date.now();
      on.typing();
    });
  }

  /** Turns to the draft of another room. What was under way in the old one goes back into its draft. */
  open(room) {
    this.lost();
    this.#unconfirmed = [];
    this.#draft = `strait.draft:${room}`;
    this.#input.value = stored(() => sessionStorage.getItem(this.#draft)) ?? "";
    this.#changed();
    this.#say("");
  }

  /** Takes back what is no longer true. */
  connected() {
    if (this.#note.textContent === NOT_CONNECTED) this.#say("");
  }

  focus() {
    this.#fit();
    this.#input.focus();
  }

  /** Answers carry no correlation but keep the order of what was sent. */
  accepted(at) {
    const entry = this.#sent.find((entry) => !entry.answered);
    if (!entry) return;
    entry.answered = true;
    entry.at = at;
    if (entry.logged) this.#forget(entry);
  }

  refused(message) {
    const entry = this.#sent.find((entry) => !entry.answered);
    if (!entry) return;
    this.#forget(entry);
    this.#giveBack([entry.text]);
    this.#say(`Not sent: ${message}`);
  }

  /** The connection is gone: what it did not confirm returns to the input. */
  lost(why = "The connection was lost before this was confirmed.") {
    const open = this.#sent.filter((entry) => !entry.answered && !entry.logged).map((entry) => entry.text);
    for (const entry of [...this.#sent]) this.#forget(entry);
    this.#lastTyping = 0;
    if (open.length === 0) return;
    this.#giveBack(open);
    this.#unconfirmed.push(...open);
    this.#say(why);
  }

  /** An own message is in the log. */
  logged({ text, at }) {
    const waiting = this.#sent.filter((entry) => !entry.logged);
    const entry = waiting.find((entry) => entry.at === at) ?? waiting.find((entry) => entry.text === text);
    if (entry) {
      entry.logged = true;
      entry.element.remove();
      if (entry.answered) this.#forget(entry);
    }
    // It had arrived after all, only its confirmation had not: sending it again would double it.
    const index = this.#unconfirmed.indexOf(text);
    if (index < 0) return;
    this.#unconfirmed.splice(index, 1);
    if (!this.#input.value.startsWith(text)) return;
    this.#input.value = this.#input.value.slice(text.length).replace(/^\n/, "");
    this.#changed();
    this.#say("");
  }

  #submit() {
    const text = this.#input.value.trim();
    if (text === "") return;
    if (!this.#on.post(text)) {
      this.#say(NOT_CONNECTED);
      return;
    }
    const element = build("li", "message own pending", build("div", "bubble", build("span", "text", text), build("span", "sending", "sending")));
    this.#outbox.append(element);
    this.#sent.push({ text, element, at: null, answered: false, logged: false });
    this.#unconfirmed = [];
    this.#lastTyping = 0;
    this.#input.value = "";
    this.#changed();
    this.#say("");
    this.#on.sent();
  }

  #forget(entry) {
    this.#sent.splice(this.#sent.indexOf(entry), 1);
    entry.element.remove();
  }

  #giveBack(texts) {
    this.#input.value = [...texts, this.#input.value].filter(Boolean).join("\n");
    this.#changed();
  }

  #changed() {
    this.#fit();
    stored(() => sessionStorage.setItem(this.#draft, this.#input.value));
  }

  #fit() {
    this.#input.style.height = "auto";
    this.#input.style.height = `${this.#input.scrollHeight}px`;
  }

  #say(text) {
    this.#note.textContent = text;
  }
}
