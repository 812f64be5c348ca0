// Zooms and pans an image within its stage: wheel, pinch, drag, double click, keys and buttons.

import { h, icon } from "./dom.js";

const LARGEST = 8; // times the image's own size, or of what fits if that is larger
const STEP = 1.4;
const KEYS = { "+": STEP, "=": STEP, "-": 1 / STEP };

/**
 * Makes an image zoomable.
 * @param {HTMLElement} stage what the image is centered in.
 * @param {HTMLImageElement} image
 * @param {(scale: number) => void} zoomed is called when the scale changes; 1 is what fits.
 */
export function zoomable(stage, image, zoomed = () => {}) {
  let scale = 1;
  let [x, y] = [0, 0]; // of the image's middle from the stage's, in pixels of the window
  const pointers = new Map(); // id → place, of fingers or the mouse

  /** The scale at which one pixel of the image is one of the window. */
  const own = () => Math.max(1, Number(image.getAttribute("width")) / (image.offsetWidth || 1));
  const greatest = () => Math.max(LARGEST, LARGEST * own());

  function place() {
    const room = (side, full) => Math.max(0, (side * scale - full) / 2);
    const [right, down] = [
      room(image.offsetWidth, stage.clientWidth),
      room(image.offsetHeight, stage.clientHeight),
    ];
    x = Math.min(right, Math.max(-right, x));
    y = Math.min(down, Math.max(-down, y));
    image.style.transform = scale === 1 ? "" : `translate(${x}px, ${y}px) scale(${scale})`;
    stage.classList.toggle("is-zoomed", scale > 1);
  }

  /** Multiplies the scale; the point of the image below (atX, atY) stays where it is. */
  function zoom(factor, atX = middle().x, atY = middle().y) {
    const before = scale;
    scale = Math.min(greatest(), Math.max(1, scale * factor));
    const share = scale / before;
    x = (x - (atX - middle().x)) * share + (atX - middle().x);
    y = (y - (atY - middle().y)) * share + (atY - middle().y);
    place();
    if (scale !== before) zoomed(scale);
  }

  const reset = () => zoom(1 / scale);

  function middle() {
    const box = stage.getBoundingClientRect();
    return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
  }

  function spread() {
    const [a, b] = [...pointers.values()];
    return { far: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  }

  stage.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), event.clientX, event.clientY);
    },
    { passive: false },
  );
  image.addEventListener("dblclick", (event) => {
    if (scale > 1) reset();
    else zoom(Math.max(2, own()), event.clientX, event.clientY);
  });
  image.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    image.setPointerCapture(event.pointerId);
  });
  image.addEventListener("pointermove", (event) => {
    const from = pointers.get(event.pointerId);
    if (!from) return;
    const before = pointers.size === 2 ? spread() : null;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (before) {
      const now = spread();
      x += now.x - before.x;
      y += now.y - before.y;
      zoom(now.far / before.far, now.x, now.y);
    } else if (scale > 1) {
      x += event.clientX - from.x;
      y += event.clientY - from.y;
      place();
    }
  });
  for (const name of ["pointerup", "pointercancel"])
    image.addEventListener(name, (event) => pointers.delete(event.pointerId));

  return {
    zoom,
    /** Follows a key; returns whether it was one for zooming. */
    key({ key }) {
      if (key === "0") reset();
      else if (key in KEYS) zoom(KEYS[key]);
      else return false;
      return true;
    },
    /** Moves the part that is shown; false where the whole image is. */
    pan(byX, byY) {
      if (scale === 1) return false;
      x -= byX;
      y -= byY;
      place();
      return true;
    },
  };
}

const button = (mark, label, act) =>
  h("button", { type: "button", class: "round", "aria-label": label, onclick: act }, icon(mark));

/** Buttons that zoom. */
export const zoomButtons = (zoom) =>
  h(
    "div",
    { class: "zoom" },
    button("minus", "Zoom out", () => zoom(1 / STEP)),
    button("plus", "Zoom in", () => zoom(STEP)),
  );

/** The buttons of a map: of what has `zoom` and `fit`. */
export function mapButtons(map) {
  const buttons = zoomButtons((factor) => map.zoom(factor));
  buttons.append(button("whole", "Show all", () => map.fit()));
  return buttons;
}
