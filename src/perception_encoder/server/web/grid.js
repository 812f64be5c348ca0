// The grid of images. Only images near the window have elements.

import { DayLayout } from "./day-layout.js";
import { h } from "./dom.js";
import { counted, day, month } from "./format.js";
import { firstRow, Layout } from "./justified.js";
import { emptyTile, markSelected, tile } from "./tile.js";

const GAP = 10;
const CAPTION = 30;
const HEADING = 34;
const BEYOND = 1.2; // screens above and below the window that have tiles
const AHEAD = 3; // screens below the window that should be loaded

const HEADINGS = { weak: "Weak matches", none: "Less likely" };

export class Grid {
  #items = [];
  #layout = null;
  #tiles = new Map(); // position → element
  #headings = new Map(); // row → element
  #active = 0; // the tile that Tab reaches
  #label = null; // of the last item that was laid out

  /**
   * @param {HTMLElement} root empty; it gets a list inside.
   * @param {object} page
   * @param {(item: object) => string} page.href where a tile leads.
   * @param {(at: number) => void} page.open opens the image at a position.
   * @param {() => void} page.needMore the end is near.
   * @param {(first: number, end: number) => void} page.missing these are near the window and are
   *   not there yet; `arrived` shows them once they are.
   * @param {() => void} page.moved another part of the images is in the window.
   * @param {Selection} page.selection
   */
  constructor(root, { href, open, needMore, missing, moved, selection }) {
    Object.assign(this, { root, href, open, needMore, missing, moved, selection });
    this.list = h("div", { role: "list", "aria-label": "Images" });
    this.above = h("div");
    root.append(this.above, this.list);
    let waiting = false;
    const soon = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        this.draw();
      });
    };
    addEventListener("scroll", soon, { passive: true });
    new ResizeObserver(() => (this.#isResized() ? this.relayout() : soon())).observe(root);
    this.list.addEventListener("keydown", (event) => this.#onKey(event));
    this.list.addEventListener("click", (event) => this.#onClick(event));
    this.list.addEventListener("focusin", (event) => {
      const element = event.target.closest(".tile");
      if (element) this.#activate(Number(element.dataset.at));
    });
  }

  get length() {
    return this.#items.length;
  }

  item(at) {
    return this.#items[at];
  }

  /** The position of the first image in the window. */
  get first() {
    if (!this.#layout?.length) return 0;
    const top = document.querySelector("header.frame").offsetHeight;
    const y = top + GAP + 1 - this.root.getBoundingClientRect().top; // as `reveal` places a row
    const row = this.#layout.rows[this.#rowAt(y)];
    return row.tiles?.[0].at ?? Math.min(row.end, this.length - 1);
  }

  /** Scrolls to the row of a position. */
  reveal(at) {
    if (!this.length) return;
    let row = this.#rowOf(Math.min(at, this.length - 1));
    const { rows } = this.#layout;
    while (rows[row - 1]?.headings && this.days) row -= 1;
    const { top } = rows[row];
    const head = document.querySelector("header.frame").offsetHeight + GAP;
    scrollTo({ top: this.root.getBoundingClientRect().top + scrollY + top - head });
    this.draw();
  }

  /** Shows again which tiles are selected. */
  markSelected() {
    for (const [at, element] of this.#tiles)
      markSelected(element, this.#isSelected(at));
    this.root.classList.toggle("has-selection", this.selection.size > 0);
  }

  /** The position of an item, or else of the first moment of its video; -1 if there is none. */
  placeOf({ id, uri, moment }) {
    const at = this.#items.findIndex((item) => item?.id === id);
    if (at >= 0 || !moment) return at;
    return this.#items.findIndex((item) => item?.uri === uri && item.moment);
  }

  /**
   * Shows other images, from the beginning.
   * @param {object[]} items may have gaps where `days` says how many there are.
   * @param {{day: string|null, count: number}[]|null} days of a timeline.
   */
  show(items, { index, total, days = null }) {
    Object.assign(this, { index, total, days });
    this.#items = items;
    this.#active = 0;
    this.list.hidden = !items.length; // a list without items confuses screen readers
    this.relayout();
  }

  /** Images were added to the list that `show` was given. */
  grown(total) {
    this.total = total;
    const focused = this.#focusedAt();
    this.#push(this.#items.slice(this.#layout.length));
    this.#sized();
    this.draw();
    if (focused !== null && this.#focusedAt() === null) this.#focusTile(focused);
  }

  /** Images from `first` to `end` have come into the gaps. */
  arrived(first, end) {
    const focused = this.#focusedAt();
    for (const [at, element] of [...this.#tiles]) {
      if (at >= first && at < end && element.isEmpty && this.#items[at]) this.#drop(at);
    }
    this.draw();
    if (focused !== null && this.#focusedAt() === null) this.#focusTile(focused);
  }

  /** Lays everything out again, for another width or other labels. */
  relayout() {
    const hadFocus = this.list.contains(document.activeElement);
    this.#clear();
    const width = this.root.clientWidth;
    if (!width) return;
    const target = width < 520 ? 130 : Math.min(230, Math.max(170, width / 6));
    if (this.days) {
      const side = width < 520 ? 110 : Math.min(190, Math.max(150, width / 7));
      this.#layout = new DayLayout({ width, target: side, gap: width < 520 ? 4 : 6 }, this.days);
    } else {
      this.#layout = new Layout({ width, target, gap: GAP, caption: CAPTION });
      this.#label = null;
      this.#push(this.#items);
    }
    this.#sized();
    this.draw();
    if (hadFocus) this.focus(this.#active);
  }

  /** Makes the tiles near the window and drops the others. */
  draw() {
    if (!this.#layout || !this.root.offsetParent) return;
    const top = -this.root.getBoundingClientRect().top;
    const screen = innerHeight;
    const first = this.#rowAt(top - BEYOND * screen);
    const end = this.#rowAt(top + (1 + BEYOND) * screen) + 1;
    this.#drawRows(this.#layout.rows.slice(first, end));
    if (this.#layout.bottom < top + (1 + AHEAD) * screen) this.needMore();
    this.moved();
  }

  /** Moves the focus to a tile, wherever it is. */
  focus(at) {
    if (at < 0 || at >= this.#items.length) return;
    this.#activate(at);
    const box = this.#boxOf(at);
    const top = this.root.getBoundingClientRect().top + scrollY + box.top;
    const head = document.querySelector("header.frame").offsetHeight + GAP;
    if (top - head < scrollY) scrollTo({ top: top - head });
    else if (top + box.height + this.#layout.caption > scrollY + innerHeight) {
      scrollTo({ top: top + box.height + this.#layout.caption + GAP - innerHeight });
    }
    this.draw();
    this.#focusTile(at);
  }

  /** Moves the focus to the tile that had it last. */
  focusActive() {
    this.#focusTile(this.#active);
  }

  #focusTile(at) {
    this.#tiles.get(at)?.querySelector("a").focus({ preventScroll: true });
  }

  /** The position of the tile that has the focus, or null. */
  #focusedAt() {
    const tile = this.list.contains(document.activeElement)
      ? document.activeElement.closest(".tile")
      : null;
    return tile ? Number(tile.dataset.at) : null;
  }

  #isResized() {
    return this.root.clientWidth && this.#layout?.width !== this.root.clientWidth;
  }

  #push(items) {
    let from = 0;
    items.forEach((item, n) => {
      if (item.heading && item.heading !== this.#label) {
        this.#layout.push(items.slice(from, n));
        from = n;
        if (HEADINGS[item.heading]) this.#layout.break(HEADINGS[item.heading], HEADING);
        this.#label = item.heading;
      }
    });
    this.#layout.push(items.slice(from));
    for (const [at, { box }] of [...this.#tiles]) {
      const now = this.#boxOf(at); // the last row was not full, and may be a different one now
      if (box.left !== now.left || box.top !== now.top || box.width !== now.width) this.#drop(at);
    }
  }

  #sized() {
    this.root.style.height = `${Math.max(0, this.#layout.bottom)}px`;
  }

  #clear() {
    this.#tiles.clear();
    this.#headings.clear();
    this.list.replaceChildren();
    this.above.replaceChildren();
    this.#layout = null;
  }

  #drawRows(rows) {
    const wanted = new Set();
    for (const row of rows) for (const { at } of row.tiles ?? []) wanted.add(at);
    const focused = this.#focusedAt();
    for (const at of [...this.#tiles.keys()]) {
      if (!wanted.has(at) && at !== focused) this.#drop(at);
    }
    for (const row of rows) {
      for (const place of row.tiles ?? []) if (!this.#tiles.has(place.at)) this.#make(row, place);
    }
    this.#drawHeadings(new Set(rows.filter((row) => row.headings)));
    const missing = [...wanted].filter((at) => !this.#items[at]);
    if (missing.length) this.missing(missing[0], missing.at(-1) + 1);
  }

  #make(row, { at, left, width }) {
    const item = this.#items[at];
    const box = { top: row.top, left, width, height: row.height };
    const place = { index: this.index, at, total: this.total, box, isSelected: this.#isSelected(at) };
    const element = item
      ? tile(item, { ...place, href: this.href(item), isBare: Boolean(this.days) })
      : emptyTile(place);
    element.box = box;
    if (at === this.#active) element.querySelector("a").tabIndex = 0;
    this.#tiles.set(at, element);
    let next = null; // screen readers and Tab go by the order of elements
    for (const other of this.list.children) {
      if (Number(other.dataset.at) > at) {
        next = other;
        break;
      }
    }
    this.list.insertBefore(element, next);
  }

  #drop(at) {
    this.#tiles.get(at)?.remove();
    this.#tiles.delete(at);
  }

  #drawHeadings(wanted) {
    for (const [row, elements] of this.#headings) {
      if (!wanted.has(row)) {
        for (const element of elements) element.remove();
        this.#headings.delete(row);
      }
    }
    for (const row of wanted) {
      if (this.#headings.has(row)) continue;
      const elements = row.headings.map((one) => heading(one, row));
      this.#headings.set(row, elements);
      this.above.append(...elements);
    }
  }

  #isSelected(at) {
    const item = this.#items[at];
    return item !== undefined && this.selection.has(item);
  }

  /** The number of the row at a height. */
  #rowAt(y) {
    const { rows } = this.#layout;
    const next = firstRow(rows, ({ top }) => top > y);
    return rows[next]?.top > y ? Math.max(0, next - 1) : next;
  }

  #rowOf(at) {
    return firstRow(this.#layout.rows, ({ end }) => end > at);
  }

  #boxOf(at) {
    const row = this.#layout.rows[this.#rowOf(at)];
    const place = row.tiles[at - row.tiles[0].at];
    return { top: row.top, height: row.height, left: place.left, width: place.width };
  }

  #activate(at) {
    const before = this.#tiles.get(this.#active)?.querySelector("a");
    if (before) before.tabIndex = -1;
    this.#active = at;
    const now = this.#tiles.get(at)?.querySelector("a");
    if (now) now.tabIndex = 0;
  }

  #onClick(event) {
    const element = event.target.closest(".tile");
    if (!element) return;
    const at = Number(element.dataset.at);
    const isCheck = event.target.matches("input");
    if (event.shiftKey) this.selection.extend(this.#items, this.#active, at);
    else if (isCheck || event.metaKey || event.ctrlKey) this.selection.toggle(this.#items, at);
    else if (this.#items[at]) this.open(at);
    if (!isCheck) event.preventDefault();
    else this.#focusTile(at);
    this.#activate(at);
  }

  #onKey(event) {
    if (event.altKey) return;
    const at = this.#active;
    if (event.key === " ") this.selection.toggle(this.#items, at);
    else if (event.key === "Escape" && this.selection.size) this.selection.clear();
    else if (event.key === "a" && (event.metaKey || event.ctrlKey)) this.selection.add(this.#items);
    else if (event.metaKey || event.ctrlKey || !this.#move(event, at)) return;
    event.preventDefault();
  }

  /** Follows a key that moves; with Shift the selection follows, too. */
  #move(event, at) {
    const to = {
      ArrowLeft: () => at - 1,
      ArrowRight: () => at + 1,
      ArrowUp: () => this.#beside(at, -1),
      ArrowDown: () => this.#beside(at, 1),
      Home: () => 0,
      End: () => this.#items.length - 1,
    }[event.key]?.();
    if (to === undefined) return false;
    const target = Math.min(this.#items.length - 1, Math.max(0, to));
    if (event.shiftKey) this.selection.extend(this.#items, at, target);
    this.focus(target);
    return true;
  }

  /** The tile above or below: the one whose middle is nearest. */
  #beside(at, step) {
    const { rows } = this.#layout;
    const box = this.#boxOf(at);
    let to = this.#rowOf(at) + step;
    while (rows[to]?.headings) to += step;
    if (!rows[to]?.tiles) return at;
    const middle = box.left + box.width / 2;
    const distance = (tile) => Math.abs(tile.left + tile.width / 2 - middle);
    return rows[to].tiles.reduce((best, tile) => (distance(tile) < distance(best) ? tile : best))
      .at;
  }
}

/** A heading above some images: of a month, of a day, or a text that the images' names say, too. */
function heading({ text, month: ofMonth, day: ofDay, count, left, width }, { top, height }) {
  let element;
  if (text) element = h("div", { class: "grid-heading", "aria-hidden": "true" }, text);
  else if (ofDay) {
    element = h(
      "h3",
      { class: "day-heading", title: counted(count, "image") },
      h("span", {}, day(ofDay)),
    );
    element.style.width = `${width}px`;
  } else element = h("h2", { class: "month-heading" }, ofMonth ? month(ofMonth) : "No date");
  element.style.left = `${left}px`;
  element.style.top = `${top}px`;
  element.style.height = `${height}px`;
  return element;
}
