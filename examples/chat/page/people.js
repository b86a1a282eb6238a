// Who is in the room and who is typing.

import { avatar, build, listed, paint } from "/dom.js";

const TYPING_FOR = 5_000;

export class People {
  #list;
  #counts;
  #typing;
  #users = new Set();
  #typers = new Map();
  #me = null;

  constructor({ list, counts, typing }) {
    this.#list = list;
    this.#counts = counts;
    this.#typing = typing;
  }

  set me(name) {
    this.#me = name;
    this.#show();
  }

  replace(users) {
    this.#users = new Set(users);
    this.#show();
  }

  joined(user) {
    this.#users.add(user);
    this.#show();
  }

  left(user) {
    this.#users.delete(user);
    this.rests(user);
    this.#show();
  }

  types(user) {
    if (user === this.#me) return;
    clearTimeout(this.#typers.get(user));
    this.#typers.set(user, setTimeout(() => this.rests(user), TYPING_FOR));
    this.#showTyping();
  }

  rests(user) {
    clearTimeout(this.#typers.get(user));
    if (this.#typers.delete(user)) this.#showTyping();
  }

  /** What they do now is not known any more. */
  rest() {
    for (const user of [...this.#typers.keys()]) this.rests(user);
  }

  clear() {
    this.rest();
    this.replace([]);
  }

  #show() {
    const order = new Intl.Collator().compare;
    const users = [...this.#users].sort((a, b) => (b === this.#me) - (a === this.#me) || order(a, b));
    this.#list.replaceChildren(...users.map((user) => {
      const name = build("span", "name", user);
      name.dir = "auto";
      const item = paint(build("li", "", avatar(user), name), user);
      if (user === this.#me) item.append(build("span", "you", "you"));
      return item;
    }));
    for (const count of this.#counts) count.textContent = users.length;
  }

  #showTyping() {
    const users = [...this.#typers.keys()];
    this.#typing.textContent = users.length === 0 ? "" : `${listed(users)} ${users.length === 1 ? "is" : "are"} typing`;
    this.#typing.classList.toggle("active", users.length > 0);
  }
}
