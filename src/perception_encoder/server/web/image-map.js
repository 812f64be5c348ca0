// Draws places of images on a canvas: small images where there is room, dots for the others.

import { thumbnail } from "./api.js";
import { counted } from "./format.js";

const TILE = 64; // pixels of an image's longer side
const DOT = 3; // pixels of a dot's radius
const MOST_KEPT = 1500; // small images that are remembered
const MOST_LOADING = 6; // at a time
const LARGEST = 400; // how far one can zoom in
const STEP = 60; // pixels of an arrow key
const KEYS = { "+": 1.4, "=": 1.4, "-": 1 / 1.4 };
const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class ImageMap {
  #images = new Map(); // id → loaded image, null while it loads, false where it cannot be shown
  #loading = 0;
  #shown = []; // {id, left, top, width, height} of what was drawn last, images first
  #isWaiting = false;
  #scale = 1; // 1: the whole map fits
  #x = 0; // the map's middle from the canvas's, in pixels
  #y = 0;
  #pointers = new Map();
  #moved = 0; // pixels since a button was pressed
  #at = null; // the image below the pointer

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {(id: string) => void} open is called for the image that is clicked.
   */
  constructor(canvas, open) {
    Object.assign(this, { canvas, open });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    new MutationObserver(() => this.draw()).observe(document.documentElement, {
      attributeFilter: ["data-theme"],
    });
    this.#listen();
  }

  /** Shows other places: ids, x, y and clusters, lists of one length. */
  show({ ids, x, y, clusters, groups }, index) {
    Object.assign(this, { ids, x, y, clusters, groups, index });
    this.#images.clear();
    this.canvas.setAttribute(
      "aria-label",
      `Map of ${counted(ids.length, "image")}. The view “Clusters” lists them.`,
    );
    this.fit();
  }

  /** Gives the clusters their names. */
  name(groups) {
    this.groups = groups;
    this.draw();
  }

  fit() {
    [this.#scale, this.#x, this.#y] = [1, 0, 0];
    this.draw();
  }

  /** Multiplies the scale; what is below a point of the canvas stays there. */
  zoom(factor, atX = this.canvas.clientWidth / 2, atY = this.canvas.clientHeight / 2) {
    const before = this.#scale;
    this.#scale = Math.min(LARGEST, Math.max(1, before * factor));
    const share = this.#scale / before;
    const [fromX, fromY] = [atX - this.canvas.clientWidth / 2, atY - this.canvas.clientHeight / 2];
    this.#x = fromX - (fromX - this.#x) * share;
    this.#y = fromY - (fromY - this.#y) * share;
    this.draw();
  }

  /** Draws in the next frame. */
  draw() {
    if (this.#isWaiting || !this.ids) return;
    this.#isWaiting = true;
    requestAnimationFrame(() => {
      this.#isWaiting = false;
      if (this.canvas.clientWidth) this.#paint();
    });
  }

  #paint() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const density = Math.min(devicePixelRatio, 2);
    if (canvas.width !== width * density || canvas.height !== height * density) {
      canvas.width = width * density;
      canvas.height = height * density;
    }
    this.#keepInside(width, height);
    const pen = canvas.getContext("2d");
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const isDark = style.getPropertyValue("--is-dark").trim() === "1";
    const taken = new Map(); // cell of the canvas → middle of the image in it
    const [images, dots] = [[], []];
    for (let n = 0; n < this.ids.length; n += 1) {
      const [x, y] = this.#placeOf(n, width, height);
      if (x < -TILE || y < -TILE || x > width + TILE || y > height + TILE) continue;
      if (this.#hasRoom(x, y, taken)) images.push([n, x, y]);
      else dots.push(this.#paintDot(pen, n, x, y, isDark));
    }
    this.#shown = [...images.map(([n, x, y]) => this.#paintImage(pen, n, x, y)), ...dots];
    for (const one of this.#shown) if (one.id === this.#at) this.#paintRing(pen, one, style);
    this.#paintNames(pen, width, height, style);
  }

  /** Some of the map stays in sight. */
  #keepInside(width, height) {
    const room = (full) => (full * this.#scale) / 2;
    this.#x = Math.min(room(width), Math.max(-room(width), this.#x));
    this.#y = Math.min(room(height), Math.max(-room(height), this.#y));
  }

  #placeOf(n, width, height) {
    const half = Math.max(50, Math.min(width, height * 2) / 2 - TILE / 2) * this.#scale;
    const tall = Math.max(50, height / 2 - TILE / 2) * this.#scale;
    return [width / 2 + this.#x + this.x[n] * half, height / 2 + this.#y - this.y[n] * tall];
  }

  /** Whether no image meets one at this place; takes the place if so. */
  #hasRoom(x, y, taken) {
    const [column, row] = [Math.floor(x / TILE), Math.floor(y / TILE)];
    for (const by of [-1, 0, 1])
      for (const down of [-1, 0, 1]) {
        const other = taken.get(`${column + by} ${row + down}`);
        if (other && Math.abs(other[0] - x) < TILE && Math.abs(other[1] - y) < TILE) return false;
      }
    taken.set(`${column} ${row}`, [x, y]);
    return true;
  }

  #paintImage(pen, n, x, y) {
    const id = this.ids[n];
    const image = this.#imageOf(id);
    if (!image) {
      pen.fillStyle = "rgb(128 128 128 / 25%)";
      pen.fillRect(x - TILE / 2, y - TILE / 2, TILE, TILE);
      return { id, left: x - TILE / 2, top: y - TILE / 2, width: TILE, height: TILE };
    }
    const scale = TILE / Math.max(image.naturalWidth, image.naturalHeight);
    const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
    const [left, top] = [x - width / 2, y - height / 2];
    pen.drawImage(image, left, top, width, height);
    return { id, left, top, width, height };
  }

  #paintDot(pen, n, x, y, isDark) {
    const hue = (this.clusters[n] * 137.5) % 360;
    pen.fillStyle = `oklch(${isDark ? 0.75 : 0.58} 0.12 ${hue} / 80%)`;
    pen.beginPath();
    pen.arc(x, y, DOT, 0, 2 * Math.PI);
    pen.fill();
    return { id: this.ids[n], left: x - DOT, top: y - DOT, width: 2 * DOT, height: 2 * DOT };
  }

  #paintRing(pen, { left, top, width, height }, style) {
    pen.strokeStyle = style.outlineColor;
    pen.lineWidth = 3;
    pen.strokeRect(left - 2, top - 2, width + 4, height + 4);
  }

  /** Names of clusters at the middle of their images; a name is left out where there is another. */
  #paintNames(pen, width, height, style) {
    const sums = this.groups.map(() => [0, 0, 0]);
    for (let n = 0; n < this.ids.length; n += 1) {
      const sum = sums[this.clusters[n]];
      const [x, y] = this.#placeOf(n, width, height);
      sum[0] += x;
      sum[1] += y;
      sum[2] += 1;
    }
    const boxes = [];
    pen.font = `600 13px ${style.fontFamily}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    this.groups.forEach(({ name }, n) => {
      if (!name || !sums[n][2]) return;
      const [x, y] = [sums[n][0] / sums[n][2], sums[n][1] / sums[n][2]];
      const half = pen.measureText(name).width / 2 + 8;
      const meets = (box) => Math.abs(box.x - x) < box.half + half && Math.abs(box.y - y) < 26;
      if (x < half || x > width - half || y < 14 || y > height - 14 || boxes.some(meets)) return;
      boxes.push({ x, y, half });
      pen.fillStyle = style.color;
      pen.beginPath();
      pen.roundRect(x - half, y - 12, 2 * half, 24, 12);
      pen.fill();
      pen.fillStyle = style.backgroundColor;
      pen.fillText(name, x, y + 1);
    });
  }

  /** The image of an id once it is loaded; asks for it otherwise. */
  #imageOf(id) {
    const known = this.#images.get(id);
    if (known !== undefined || this.#loading >= MOST_LOADING) return known;
    const image = new Image();
    this.#images.set(id, null);
    this.#loading += 1;
    const end = (result) => {
      this.#loading -= 1;
      this.#images.set(id, result);
      this.draw();
    };
    image.onload = () => end(image);
    image.onerror = () => end(false);
    image.src = thumbnail(id, this.index, 128);
    for (const old of [...this.#images.keys()].slice(0, -MOST_KEPT)) this.#images.delete(old);
    return null;
  }

  #listen() {
    const { canvas } = this;
    const place = (event) => ({ x: event.offsetX, y: event.offsetY });
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const strength = event.ctrlKey ? 100 : 400;
        this.zoom(Math.exp(-event.deltaY / strength), event.offsetX, event.offsetY);
      },
      { passive: false },
    );
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, place(event));
      this.#moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => this.#move(event, place(event)));
    canvas.addEventListener("pointerup", (event) => {
      const isClick = this.#pointers.size === 1 && this.#moved < 5;
      this.#pointers.delete(event.pointerId);
      const found = isClick && this.#find(place(event));
      if (found) this.open(found.id);
    });
    canvas.addEventListener("pointercancel", (event) => this.#pointers.delete(event.pointerId));
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #move(event, now) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) {
      const at = this.#find(now)?.id ?? null;
      this.canvas.style.cursor = at ? "pointer" : "grab";
      if (at !== this.#at) {
        this.#at = at;
        this.draw();
      }
      return;
    }
    const others = [...this.#pointers].filter(([id]) => id !== event.pointerId);
    this.#pointers.set(event.pointerId, now);
    this.#moved += Math.hypot(now.x - before.x, now.y - before.y);
    if (others.length) {
      const [[, other]] = others;
      const far = (one) => Math.hypot(one.x - other.x, one.y - other.y);
      this.zoom(far(now) / (far(before) || 1), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else {
      this.#x += now.x - before.x;
      this.#y += now.y - before.y;
      this.draw();
    }
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in KEYS) this.zoom(KEYS[event.key]);
    else if (event.key === "0") this.fit();
    else if (event.key in ARROWS) {
      this.#x += STEP * ARROWS[event.key][0];
      this.#y += STEP * ARROWS[event.key][1];
      this.draw();
    } else if (event.key === "Enter") this.#openMiddle();
    else return;
    event.preventDefault();
  }

  /** The image nearest to the middle of the canvas. */
  #openMiddle() {
    const far = ({ left, top, width, height }) =>
      Math.hypot(
        left + width / 2 - this.canvas.clientWidth / 2,
        top + height / 2 - this.canvas.clientHeight / 2,
      );
    const [first] = [...this.#shown].sort((a, b) => far(a) - far(b));
    if (first) this.open(first.id);
  }

  #find({ x, y }) {
    const has = ({ left, top, width, height }) =>
      x >= left - 1 && y >= top - 1 && x <= left + width + 1 && y <= top + height + 1;
    return this.#shown.find(has);
  }
}
