// Makes elements. Text is always text here: nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element: `h("button", { class: "quiet", onclick: go }, "Go")`.
 * Properties that begin with "on" are listeners, false and null are left out, `data` is a dataset.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children
      .flat(Infinity)
      .filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** An icon of `index.html`. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export const $ = (selector, root = document) => root.querySelector(selector);

/** Returns a function that acts once it has not been called for a while. */
export function settled(action, milliseconds) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), milliseconds);
  };
}

let saying = 0;

/** Announces a text to screen readers without moving the focus. */
export function announce(text) {
  const region = $("#announcements");
  clearTimeout(saying);
  region.textContent = "";
  saying = setTimeout(() => {
    region.textContent = text; // a change that comes a moment later is read even if it is the same
  }, 60);
}

/** Copies text, also where the page is not served by https and the clipboard is out of reach. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "unseen", readonly: true, value: text });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announce("Copied");
}

/** A button that copies, and confirms it for a moment. */
export function copyButton(label, text) {
  const button = h(
    "button",
    { type: "button", class: "quiet" },
    icon("copy"),
    h("span", {}, label),
  );
  button.addEventListener("click", async () => {
    await copy(typeof text === "function" ? await text() : text);
    const shown = $("span", button);
    shown.textContent = "Copied";
    setTimeout(() => {
      shown.textContent = label;
    }, 1500);
  });
  return button;
}

/** Saves what an address holds as a file. */
export const downloadFrom = (url, name) => h("a", { href: url, download: name }).click();

/** Saves a text or bytes as a file. */
export function save(name, content, type = "text/plain") {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const url = URL.createObjectURL(blob);
  downloadFrom(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
