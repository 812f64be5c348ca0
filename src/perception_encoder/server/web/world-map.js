// A map of the world with images at their places: an outline, and a marker for each cluster.

import { thumbnail, url } from "./api.js";
import { h, settled } from "./dom.js";
import { count, counted, degrees } from "./format.js";
import { cellOf, gridOver, isWithin, toRegion, toX, toY, widthAt } from "./mercator.js";

const CELL = 58; // pixels of a cluster's cell, at least
const MARKER = 46; // pixels
const EDGE = 17; // pixels that a marker stays from the edge of its cell, so that it hides no other
const CLOSEST = 3e7; // pixels of the whole world's width: about a meter each
const LEAST = 6; // degrees: one place alone is shown with its surroundings
const SETTLING = 90; // milliseconds that the map is still until clusters are asked for
const MOST_KEPT = 40; // replies
const STEP = 1.6; // of a button or a key
const PAN = 90; // pixels of an arrow key
const KEYS = { "+": STEP, "=": STEP, "-": 1 / STEP };
const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const SVG = "http://www.w3.org/2000/svg";
export const WORLD = { south: -90, north: 90, west: -180, east: 180, cell: 360 / 256, columns: 256 };

let outline = null;

/** The paths of the outline, in units of which the world has `viewBox`. */
function loadOutline() {
  outline ??= fetch(url("web/world.svg"))
    .then((reply) => reply.text())
    .then((text) => new DOMParser().parseFromString(text, "image/svg+xml").documentElement)
    .catch(() => {
      outline = null; // the markers alone are of use, too
      return document.createElementNS(SVG, "svg");
    });
  return outline;
}

/** An `<svg>` that the outline comes into; `show` chooses a part of the square from 0 to 1. */
export function worldOutline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "world");
  svg.setAttribute("preserveAspectRatio", "none");
  let size = 8192;
  let part = [0, 0, 1, 1];
  const show = (...box) => {
    part = box;
    svg.setAttribute("viewBox", part.map((one) => one * size).join(" "));
  };
  loadOutline().then((loaded) => {
    size = Number(loaded.getAttribute("viewBox")?.split(" ")[2]) || size;
    for (const path of loaded.querySelectorAll("path")) {
      const copy = document.importNode(path);
      copy.setAttribute("class", copy.id);
      copy.removeAttribute("id");
      svg.append(copy);
    }
    show(...part);
  });
  return { svg, show };
}

export class WorldMap {
  #clusters = null; // {grid, points} as drawn
  #around = null; // the region of all images
  #replies = new Map(); // of a grid
  #scale = 1; // pixels of the world's width
  #x = 0.5; // the middle of the window
  #y = 0.5;
  #isWaiting = false;
  #markers = new Map(); // key → element
  #pointers = new Map();
  #moved = 0; // pixels since a button was pressed
  #isFit = true; // stays so when the window changes

  /**
   * @param {HTMLElement} stage empty; focusable for the keys.
   * @param {(cluster: object, label: string) => HTMLElement} link makes the element of a cluster.
   */
  constructor(stage, link) {
    Object.assign(this, { stage, link });
    this.outline = worldOutline();
    this.markers = h("div", { class: "markers" });
    this.bar = h("div", { class: "scale-bar", "aria-hidden": "true" });
    stage.append(this.outline.svg, this.markers, this.bar);
    this.update = settled(() => this.#update(), SETTLING);
    new ResizeObserver(() => (this.#isFit ? this.fit() : this.draw())).observe(stage);
    this.#listen();
  }

  /**
   * Shows images at their places.
   * @param {object[]} points of the grid `WORLD`.
   * @param {string} index its name.
   * @param {(grid: object) => Promise<object[]>} load returns the points of another grid.
   */
  show(points, index, load) {
    Object.assign(this, { index, load });
    this.#replies.clear();
    this.#clusters = { grid: WORLD, points };
    const cells = points.map((point) => cellOf(WORLD, point));
    this.#around = {
      south: Math.min(...cells.map(({ south }) => south)),
      north: Math.max(...cells.map(({ north }) => north)),
      west: Math.min(...cells.map(({ west }) => west)),
      east: Math.max(...cells.map(({ east }) => east)),
    };
    this.markers.replaceChildren();
    this.#markers.clear();
    this.fit();
  }

  /** The region in the window, as {south, north, west, east}. */
  get region() {
    return toRegion(this.#window());
  }

  /** Shows all places. */
  fit() {
    if (!this.#around) return;
    const { south, north, west, east } = this.#around;
    const [left, right, top, bottom] = [toX(west), toX(east), toY(north), toY(south)];
    const [width, height] = this.#size();
    const room = 1 - (2 * MARKER) / Math.min(width, height);
    const wide = Math.max(LEAST / 360, right - left) / room;
    const tall = Math.max(LEAST / 720, bottom - top) / room;
    [this.#x, this.#y] = [(left + right) / 2, (top + bottom) / 2];
    this.#scale = Math.min(width / wide, height / tall);
    this.#isFit = true;
    this.draw();
  }

  /** Multiplies the scale; what is below a point of the window stays there. */
  zoom(factor, atX = this.#size()[0] / 2, atY = this.#size()[1] / 2) {
    const [width, height] = this.#size();
    const before = this.#scale;
    this.#scale = this.#bounded(before * factor);
    const [fromX, fromY] = [atX - width / 2, atY - height / 2];
    this.#x += fromX / before - fromX / this.#scale;
    this.#y += fromY / before - fromY / this.#scale;
    this.#isFit = false;
    this.draw();
  }

  /** Draws in the next frame. */
  draw() {
    if (this.#isWaiting || !this.#clusters) return;
    this.#isWaiting = true;
    requestAnimationFrame(() => {
      this.#isWaiting = false;
      if (this.stage.clientWidth) this.#paint();
    });
  }

  #size() {
    return [this.stage.clientWidth || 1, this.stage.clientHeight || 1];
  }

  #bounded(scale) {
    const [width, height] = this.#size();
    return Math.min(CLOSEST, Math.max(Math.min(width, height) * 0.9, scale));
  }

  #window() {
    const [width, height] = this.#size().map((side) => side / this.#scale / 2);
    const { left, top } = { left: this.#x - width, top: this.#y - height };
    return { left, top, right: this.#x + width, bottom: this.#y + height };
  }

  #paint() {
    this.#scale = this.#bounded(this.#scale);
    this.#x = Math.min(1, Math.max(0, this.#x));
    this.#y = Math.min(1, Math.max(0, this.#y));
    const { left, top, right, bottom } = this.#window();
    this.outline.show(left, top, right - left, bottom - top);
    this.#drawMarkers(left, top);
    this.#drawBar();
    this.update();
  }

  /** Asks for the clusters of this window and scale, unless they are there. */
  async #update() {
    if (!this.stage.clientWidth) return; // another view is shown by now
    const grid = gridOver(this.region, (360 * CELL) / this.#scale);
    const { grid: now } = this.#clusters;
    if (now !== WORLD && now.cell === grid.cell && isWithin(this.region, now)) return;
    const key = [grid.cell, grid.south, grid.north, grid.west, grid.east].join();
    const { load } = this;
    if (!this.#replies.has(key)) {
      this.#replies.set(key, load(grid));
      for (const old of [...this.#replies.keys()].slice(0, -MOST_KEPT)) this.#replies.delete(old);
    }
    try {
      const points = await this.#replies.get(key);
      if (load !== this.load) return;
      this.#clusters = { grid, points };
      this.draw();
    } catch {
      this.#replies.delete(key); // what is drawn stays; the next move asks again
    }
  }

  #drawMarkers(left, top) {
    const [width, height] = this.#size();
    const { grid, points } = this.#clusters;
    const across = (longitude) => (toX(longitude) - left) * this.#scale;
    const down = (latitude) => (toY(latitude) - top) * this.#scale;
    const wanted = new Map();
    for (const point of points) {
      const region = cellOf(grid, point);
      const x = within(across(point.longitude), across(region.west), across(region.east));
      const y = within(down(point.latitude), down(region.north), down(region.south));
      if (x > -MARKER && y > -MARKER && x < width + MARKER && y < height + MARKER)
        wanted.set([grid.cell, region.south, region.west].join(), [{ ...point, region }, x, y]);
    }
    for (const [key, element] of this.#markers) {
      if (wanted.has(key)) continue;
      element.remove();
      this.#markers.delete(key);
    }
    for (const [key, [cluster, x, y]] of wanted) {
      if (!this.#markers.has(key)) {
        const element = this.#marker(cluster);
        this.#markers.set(key, element);
        this.markers.append(element);
      }
      const { style } = this.#markers.get(key);
      style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px)`;
      style.zIndex = Math.round(y + MARKER); // the number at the top of each stays visible
    }
  }

  #marker(cluster) {
    const image = h("img", { alt: "", width: MARKER, height: MARKER, draggable: "false" });
    image.src = thumbnail(cluster.item, this.index, 128);
    const place = degrees(cluster.latitude, cluster.longitude);
    const element = this.link(cluster, `${counted(cluster.count, "image")} near ${place}`);
    element.classList.add("marker");
    element.draggable = false;
    element.append(image);
    if (cluster.count > 1) element.append(h("span", { class: "number" }, count(cluster.count)));
    return element;
  }

  /** A round number of kilometers, as long as it is in the middle of the window. */
  #drawBar() {
    const { south, north } = this.region;
    const perPixel = widthAt((south + north) / 2) / this.#scale;
    const longest = 110 * perPixel;
    const power = 10 ** Math.floor(Math.log10(longest));
    const round = [5, 2, 1].find((digit) => digit * power <= longest) * power;
    this.bar.style.width = `${round / perPixel}px`;
    this.bar.textContent = round < 1 ? `${Math.round(round * 1000)} m` : `${count(round)} km`;
  }

  #listen() {
    const { stage } = this;
    const place = (event) => {
      const box = stage.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    stage.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const { x, y } = place(event);
        this.zoom(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 300)), x, y);
      },
      { passive: false },
    );
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.target.closest("button")) return;
      this.#pointers.set(event.pointerId, place(event));
      this.#moved = 0;
    });
    stage.addEventListener("pointermove", (event) => this.#move(event, place(event)));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"])
      stage.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    stage.addEventListener(
      "click",
      (event) => {
        if (this.#moved < 5) return; // a map that was dragged by a marker
        event.preventDefault();
        event.stopPropagation();
      },
      { capture: true },
    );
    stage.addEventListener("dblclick", (event) => {
      if (event.target.closest("a, button")) return;
      const { x, y } = place(event);
      this.zoom(2, x, y);
    });
    stage.addEventListener("keydown", (event) => this.#key(event));
    stage.addEventListener("focusin", (event) => this.#reveal(event.target));
  }

  #move(event, now) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.#pointers].filter(([id]) => id !== event.pointerId);
    this.#pointers.set(event.pointerId, now);
    this.#moved += Math.hypot(now.x - before.x, now.y - before.y);
    if (this.#moved >= 5) this.stage.setPointerCapture(event.pointerId);
    if (others.length) {
      const [[, other]] = others;
      const far = (one) => Math.hypot(one.x - other.x, one.y - other.y);
      this.zoom(far(now) / (far(before) || 1), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else this.#pan(now.x - before.x, now.y - before.y);
  }

  #pan(byX, byY) {
    this.#x -= byX / this.#scale;
    this.#y -= byY / this.#scale;
    this.#isFit = false;
    this.draw();
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in KEYS) this.zoom(KEYS[event.key]);
    else if (event.key === "0") this.fit();
    else if (event.key in ARROWS) this.#pan(...ARROWS[event.key].map((step) => step * PAN));
    else return;
    event.preventDefault();
  }

  /** Moves a marker into the window that Tab has reached at its edge. */
  #reveal(element) {
    if (!element.classList.contains("marker") || !element.matches(":focus-visible")) return;
    this.stage.scrollTo(0, 0);
    const [width, height] = this.#size();
    const box = element.getBoundingClientRect();
    const stage = this.stage.getBoundingClientRect();
    const [x, y] = [box.left - stage.left + MARKER / 2, box.top - stage.top + MARKER / 2];
    const beyond = (at, side) => Math.min(0, side - MARKER - at) + Math.max(0, MARKER - at);
    const [byX, byY] = [beyond(x, width), beyond(y, height)];
    if (byX || byY) this.#pan(byX, byY);
  }
}

const within = (at, from, to) => Math.min(to - EDGE, Math.max(from + EDGE, at));
