// Lays images out in rows of one width, like text that is set justified. No DOM access.

const NARROWEST = 0.45; // width to height; what goes beyond is cropped in the grid
const WIDEST = 3.2;

/** Width to height of an item, within bounds; squares where it is not known. */
export function aspect(item) {
  const ratio = item.width && item.height ? item.width / item.height : 1;
  return Math.min(WIDEST, Math.max(NARROWEST, ratio));
}

/** The first row for which something holds, of rows that lack it and then have it. */
export function firstRow(rows, holds) {
  let low = 0;
  let high = Math.max(0, rows.length - 1);
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(rows[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}

/**
 * Rows of images that fill `width`, which can be added to. Full rows never change again.
 *
 * Rows are {top, height, end, tiles: [{at, left, width}]} or {top, height, end, headings}; `at` is
 * an item's place among all that were added, `end` the number of items down to there. `height` of a
 * row of images leaves the caption out.
 */
export class Layout {
  #ratios = []; // of the row that is not full yet
  #first = 0; // its first item
  #open = null; // the row itself, if it is laid out

  constructor({ width, target, gap, caption }) {
    Object.assign(this, { width, target, gap, caption });
    this.rows = [];
    this.bottom = 0; // below the last row
    this.length = 0; // items so far
  }

  /** Begins a new row below a heading. */
  break(text, height) {
    this.#finish();
    this.rows.push({ top: this.bottom, height, end: this.length, headings: [{ text, left: 0 }] });
    this.bottom += height;
  }

  /** Adds items. */
  push(items) {
    this.#reopen();
    for (const item of items) {
      this.#ratios.push(aspect(item));
      this.length += 1;
      if (this.#height() <= this.target) this.#close(this.#height());
    }
    this.#drawOpen();
  }

  #height() {
    const sum = this.#ratios.reduce((total, ratio) => total + ratio, 0);
    return (this.width - this.gap * (this.#ratios.length - 1)) / sum;
  }

  #close(height) {
    let left = 0;
    const tiles = this.#ratios.map((ratio, n) => {
      const tile = { at: this.#first + n, left, width: ratio * height };
      left += tile.width + this.gap;
      return tile;
    });
    const row = { top: this.bottom, height, end: this.#first + tiles.length, tiles };
    this.rows.push(row);
    this.bottom += height + this.caption + this.gap;
    this.#first = this.length;
    this.#ratios = [];
    return row;
  }

  /** Draws the last row at the usual height, not stretched. */
  #drawOpen() {
    if (!this.#ratios.length) return;
    const ratios = this.#ratios;
    const first = this.#first;
    this.#open = this.#close(Math.min(this.target, this.#height()));
    this.#ratios = ratios;
    this.#first = first;
  }

  #reopen() {
    if (!this.#open) return;
    this.rows.pop();
    this.bottom = this.#open.top;
    this.#open = null;
  }

  #finish() {
    this.#open = null;
    this.#ratios = [];
    this.#first = this.length;
  }
}
