// Small pieces of page, and how a name looks everywhere.

const names = new Intl.ListFormat("en", { type: "conjunction" });

/** An element with a class and children; text becomes text, never markup. */
export function build(tag, name = "", ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

/** Gives the element the hue of the name; the style sheet keeps lightness, and so contrast, the same for all. */
export function paint(element, name) {
  let hash = 0x811c9dc5;
  for (const character of name) hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193);
  element.style.setProperty("--hue", (hash >>> 8) % 360);
  return element;
}

export function avatar(name) {
  const element = build("span", "avatar", [...name][0]?.toLocaleUpperCase() ?? "?");
  element.setAttribute("aria-hidden", "true");
  return element;
}

/** At most three names, the others counted. */
export function listed(users) {
  if (users.length <= 3) return names.format(users);
  return names.format([...users.slice(0, 2), `${users.length - 2} others`]);
}

/** Storage is a convenience: a browser that forbids it gets a page that forgets. */
export function stored(access) {
  try {
    return access();
  } catch {
    return null;
  }
}
