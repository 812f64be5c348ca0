// "Why this image": what each part of an image adds to its score for a text, in colors over it.

import { post } from "./api.js";
import { announce, h, icon } from "./dom.js";
import { score } from "./format.js";
import { state } from "./router.js";

const SIDE = 192; // pixels of an enlarged map; the browser enlarges it further
const OPACITY = 0.9; // of the strongest patch
const RAISES = [[255, 214, 120], [244, 109, 38], [178, 12, 38]]; // from weak to strong
const LOWERS = [[168, 206, 236], [74, 140, 200], [20, 72, 150]];

let wanted = null; // the text that is explained, also when the next image is shown; null: none

/** Forgets the text, when the viewer is closed. */
export const forgetExplanation = () => {
  wanted = null;
};

/**
 * Makes the button and the panel of an image in the viewer.
 * @param {HTMLImageElement} image in the stage.
 * @param {object} item that it shows.
 * @param {string} index its name.
 * @returns {{button: HTMLElement, element: HTMLElement, toggle: Function}}
 */
export function relevanceOverlay(image, item, index) {
  const canvas = h("canvas", { class: "relevance", "aria-hidden": "true" });
  const text = h("input", { id: "explained-text", value: state().query.trim(), maxlength: 500, autocomplete: "off" });
  const result = h("div", { class: "explanation", role: "status" });
  const element = h(
    "form",
    { class: "why", hidden: true, onsubmit: (event) => { event.preventDefault(); explain(text.value.trim()); } },
    h("label", { for: "explained-text" }, "What raises the score for this text?"),
    h("div", { class: "row" }, text, h("button", { type: "submit", class: "button" }, "Show")),
    result,
  );
  const button = h(
    "button",
    { type: "button", class: "button why-button", "aria-pressed": "false", title: "Key: w", onclick: () => toggle() },
    icon("why"),
    "Why this image",
  );
  const followed = follow(image, canvas);

  function toggle() {
    if (element.hidden) open(text.value.trim());
    else close();
  }

  function open(written) {
    element.hidden = false;
    button.setAttribute("aria-pressed", "true");
    if (written) explain(written);
    else text.focus();
  }

  function close() {
    wanted = null;
    element.hidden = true;
    button.setAttribute("aria-pressed", "false");
    uncover();
    result.replaceChildren();
    announce("The colors are hidden");
  }

  function uncover() {
    canvas.remove();
    image.classList.remove("is-explained");
  }

  async function explain(written) {
    if (!written) return text.focus();
    text.value = written;
    wanted = written;
    uncover();
    result.replaceChildren(h("p", { class: "soft" }, "Comparing…"));
    try {
      const reply = await post("v1/explain", { item: item.id, index, texts: [written] });
      if (wanted !== written || !image.isConnected) return;
      show(reply);
    } catch (failure) {
      if (wanted === written) result.replaceChildren(h("p", { class: "failure" }, failure.message));
    }
  }

  function show({ region, explanations: [found] }) {
    const scale = Math.max(...found.map.flat().map(Math.abs)) || 1;
    paint(canvas, found.map, region, scale);
    image.after(canvas);
    image.classList.add("is-explained");
    followed();
    const rest = found.score - found.rest;
    result.replaceChildren(
      legend(scale),
      h(
        "p",
        { class: "soft" },
        `Score ${score(found.score)}: ${signed(rest)} from all parts of the image, ${signed(found.rest)} from no place in it.`,
      ),
    );
    announce(`Colors show what raises and lowers the score of ${score(found.score)}`);
  }

  if (wanted !== null) open(wanted);
  return { button, element, toggle };
}

/** Keeps a canvas where an image is; returns what does it at once. */
function follow(image, canvas) {
  const move = () => {
    canvas.style.width = `${image.offsetWidth}px`;
    canvas.style.height = `${image.offsetHeight}px`;
    canvas.style.transform = image.style.transform;
  };
  new ResizeObserver(move).observe(image);
  new MutationObserver(move).observe(image, { attributes: true, attributeFilter: ["style"] });
  return move;
}

/** Paints an enlarged map on the region that it covers. */
function paint(canvas, map, [left, top, right, bottom], scale) {
  canvas.width = Math.round(SIDE / (right - left));
  canvas.height = Math.round(SIDE / (bottom - top));
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(SIDE, SIDE);
  for (let y = 0; y < SIDE; y += 1) {
    for (let x = 0; x < SIDE; x += 1)
      pixels.data.set(color(between(map, x, y) / scale), 4 * (SIDE * y + x));
  }
  context.putImageData(pixels, Math.round(left * canvas.width), Math.round(top * canvas.height));
}

function between(map, x, y) {
  const [row, column] = [place(y, map.length), place(x, map[0].length)];
  const [r, c] = [Math.floor(row), Math.floor(column)];
  const [r1, c1] = [Math.min(r + 1, map.length - 1), Math.min(c + 1, map[0].length - 1)];
  const [down, along] = [smooth(row - r), smooth(column - c)];
  const upper = map[r][c] + (map[r][c1] - map[r][c]) * along;
  const lower = map[r1][c] + (map[r1][c1] - map[r1][c]) * along;
  return upper + (lower - upper) * down;
}

const smooth = (share) => share * share * (3 - 2 * share);

const place = (pixel, count) =>
  Math.min(count - 1, Math.max(0, ((pixel + 0.5) / SIDE) * count - 0.5));

/** Red, green, blue and alpha of a value from -1 to 1. */
function color(value) {
  const strength = Math.min(1, Math.abs(value));
  const stops = value < 0 ? LOWERS : RAISES;
  const at = strength * (stops.length - 1);
  const from = Math.min(stops.length - 2, Math.floor(at));
  const mixed = stops[from].map((channel, n) => channel + (stops[from + 1][n] - channel) * (at - from));
  return [...mixed, 255 * OPACITY * strength ** 0.7];
}

function legend(scale) {
  const bar = h("canvas", { width: SIDE, height: 1, "aria-hidden": "true" });
  const context = bar.getContext("2d");
  const pixels = context.createImageData(SIDE, 1);
  for (let x = 0; x < SIDE; x += 1) pixels.data.set(color((2 * x) / (SIDE - 1) - 1), 4 * x);
  context.putImageData(pixels, 0, 0);
  return h(
    "div",
    { class: "legend" },
    bar,
    h("span", {}, `lowers ${signed(-scale)}`),
    h("span", {}, `raises ${signed(scale)}`),
  );
}

const signed = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toPrecision(2)}`;
