// A box on the viewer's image: the part of it to search for. Drawn with mouse, pen, finger or keys.
//
// It is in percent of the image, and lies in a layer that follows the image when that is zoomed.

import { announce, h, icon } from "./dom.js";

const LEAST = 2; // percent: the smallest side of a box
const FIRST = Object.freeze({ x: 25, y: 25, width: 50, height: 50 }); // of the button
const STEP = 2; // percent that a key moves
const FINE = 0.25; // with Alt
const DRAGGED = 6; // pixels from which on a press is a drag
const CORNERS = ["nw", "ne", "sw", "se"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

/**
 * A layer over an image, of its size and place however it is zoomed.
 * @param {HTMLElement} stage what the image is in.
 * @param {HTMLImageElement} image
 */
export function imageLayer(stage, image) {
  const layer = h("div", { class: "image-layer" });
  const follow = () => {
    for (const [side, name] of Object.entries({ left: "Left", top: "Top", width: "Width", height: "Height" }))
      layer.style[side] = `${image[`offset${name}`]}px`;
    layer.style.transform = image.style.transform;
  };
  new ResizeObserver(follow).observe(image);
  new ResizeObserver(follow).observe(stage);
  new MutationObserver(follow).observe(image, { attributes: true, attributeFilter: ["style"] });
  image.addEventListener("load", follow);
  stage.append(layer);
  return layer;
}

/** Puts an element where a box is, {x, y, width, height} in percent of the layer. */
export function place(element, box) {
  element.style.left = `${box.x}%`;
  element.style.top = `${box.y}%`;
  element.style.width = `${box.width}%`;
  element.style.height = `${box.height}%`;
}

/**
 * Lets people draw a box on an image.
 * @param {HTMLElement} stage what the image is in; gets the class `is-cropping` meanwhile.
 * @param {HTMLImageElement} image
 * @param {(box: object) => void} search is called with the box, in percent of the image.
 * @returns {HTMLButtonElement} the button that begins.
 */
export function partBox(stage, image, search) {
  const layer = imageLayer(stage, image);
  let box = null; // while one is drawn
  let drag = null; // what a pointer does: {id, from, start, corner}

  const frame = h("div", {
    class: "part-box",
    tabindex: 0,
    role: "group",
    "aria-label": "The part to search for",
    "aria-describedby": "part-help",
  });
  frame.append(...CORNERS.map((corner) => h("span", { class: `corner ${corner}`, data: { corner } })));
  const bar = h(
    "div",
    { class: "part-bar" },
    h("p", { id: "part-help", class: "unseen" }, "Arrow keys move the box, with Shift they change its size, with Alt in small steps. Enter searches, Escape cancels."),
    h("button", { type: "button", class: "primary", onclick: () => finish() }, icon("search"), "Search this part"),
    h("button", { type: "button", onclick: () => cancel() }, "Cancel"),
  );
  const button = h(
    "button",
    { type: "button", class: "round part-start", "aria-label": "Search by a part of the image", title: "Search by a part: drag a box on the image", onclick: () => begin(FIRST) },
    icon("part"),
  );

  function begin(first) {
    if (!box) {
      layer.append(frame);
      stage.append(bar);
      stage.classList.add("is-cropping");
      document.addEventListener("keydown", key, true);
    }
    show(first);
    frame.focus({ preventScroll: true });
  }

  function show(next) {
    box = next;
    place(frame, box);
  }

  function end() {
    box = drag = null;
    frame.remove();
    bar.remove();
    stage.classList.remove("is-cropping");
    document.removeEventListener("keydown", key, true);
  }

  function cancel() {
    end();
    button.focus();
    announce("No part is chosen");
  }

  function finish() {
    const chosen = box;
    end();
    search(chosen);
  }

  /** Follows a key before the viewer does: Escape must not close it. */
  function key(event) {
    if (!stage.isConnected) return end();
    const isOfBox = event.target === frame;
    if (event.key === "Escape") cancel();
    else if (event.key === "Enter" && isOfBox) finish();
    else if (event.key in ARROWS && isOfBox) move(event);
    else if (!(event.key in ARROWS)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  function move({ key: name, shiftKey, altKey }) {
    const step = altKey ? FINE : STEP;
    const [right, down] = ARROWS[name].map((one) => one * step);
    const { x, y, width, height } = box;
    if (shiftKey) {
      show({ x, y, width: clamp(width + right, LEAST, 100 - x), height: clamp(height + down, LEAST, 100 - y) });
    } else {
      show({ x: clamp(x + right, 0, 100 - width), y: clamp(y + down, 0, 100 - height), width, height });
    }
    const said = (number) => Math.round(number);
    announce(`left ${said(box.x)}, top ${said(box.y)}, ${said(box.width)} by ${said(box.height)} percent`);
  }

  /** Where a pointer is, in percent of the image. */
  function point({ clientX, clientY }) {
    const { left, top, width, height } = layer.getBoundingClientRect();
    return {
      x: clamp((100 * (clientX - left)) / width, 0, 100),
      y: clamp((100 * (clientY - top)) / height, 0, 100),
    };
  }

  const between = (a, b) => ({
    x: Math.min(a.x, b.x),
    y: Math.min(a.y, b.y),
    width: Math.abs(a.x - b.x),
    height: Math.abs(a.y - b.y),
  });

  const isEnough = ({ width, height }) => width >= LEAST && height >= LEAST;

  /** The corner of the box that stays when another one is dragged. */
  function opposite(corner) {
    return {
      x: corner.includes("w") ? box.x + box.width : box.x,
      y: corner.includes("n") ? box.y + box.height : box.y,
    };
  }

  layer.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || drag || !box) return;
    const { corner } = event.target.dataset;
    const isInside = event.target === frame;
    const from = corner ? opposite(corner) : point(event);
    drag = { id: event.pointerId, from, start: box, isMoved: isInside };
    layer.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  layer.addEventListener("pointermove", (event) => {
    if (drag?.id !== event.pointerId) return;
    const to = point(event);
    if (drag.isMoved) {
      const { x, y, width, height } = drag.start;
      show({
        x: clamp(x + to.x - drag.from.x, 0, 100 - width),
        y: clamp(y + to.y - drag.from.y, 0, 100 - height),
        width,
        height,
      });
    } else if (isEnough(between(drag.from, to))) show(between(drag.from, to));
  });
  for (const name of ["pointerup", "pointercancel"]) {
    layer.addEventListener(name, (event) => {
      if (drag?.id !== event.pointerId) return;
      drag = null;
      if (isEnough(box)) frame.focus({ preventScroll: true });
      else cancel(); // a click
    });
  }

  // A mouse needs no button: what it drags on an image that is not zoomed is a box.
  let pressed = null;
  image.addEventListener("pointerdown", (event) => {
    const isFree = event.pointerType === "mouse" && event.button === 0 && !stage.classList.contains("is-zoomed");
    pressed = isFree ? event : null;
  });
  image.addEventListener("pointermove", (event) => {
    if (!pressed || event.buttons !== 1) return;
    if (Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) < DRAGGED) return;
    const from = point(pressed);
    pressed = null;
    // Whatever else follows this pointer on the image lets go of it.
    image.dispatchEvent(new PointerEvent("pointercancel", { pointerId: event.pointerId }));
    begin({ ...from, width: 0, height: 0 });
    drag = { id: event.pointerId, from, start: box, isMoved: false };
    layer.setPointerCapture(event.pointerId);
  });
  image.addEventListener("pointerup", () => {
    pressed = null;
  });

  return button;
}
