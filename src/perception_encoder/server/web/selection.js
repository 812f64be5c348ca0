// Images that are selected in the grid, also those of earlier results. No DOM access.

export class Selection {
  #items = new Map(); // id → item
  #anchor = null; // position that a range begins at
  #index = null; // whose images they are
  #range = []; // ids of the range that grows and shrinks with Shift

  /** @param {() => void} changed is called after every change. */
  constructor(changed) {
    this.changed = changed;
  }

  get items() {
    return [...this.#items.values()];
  }

  get size() {
    return this.#items.size;
  }

  has(item) {
    return this.#items.has(item.id);
  }

  /** Selects an item or not; ranges begin at its position. */
  toggle(items, at) {
    const item = items[at];
    if (!item) return;
    if (!this.#items.delete(item.id)) this.#items.set(item.id, item);
    this.#anchor = at;
    this.#range = [];
    this.changed();
  }

  /** Selects everything from the anchor (or `from`, if there is none) to a position. */
  extend(items, from, at) {
    this.#anchor ??= from;
    for (const id of this.#range) this.#items.delete(id);
    const [first, last] = [Math.min(this.#anchor, at), Math.max(this.#anchor, at)];
    const added = items.slice(first, last + 1).filter(Boolean);
    this.#range = added.filter((item) => !this.has(item)).map((item) => item.id);
    for (const item of added) this.#items.set(item.id, item);
    this.changed();
  }

  add(items) {
    for (const item of items.filter(Boolean)) this.#items.set(item.id, item);
    this.changed();
  }

  /** Other images are shown: ranges begin anew; images of another index are no longer selected. */
  moveTo(index) {
    if (this.#index !== index) this.#items.clear();
    this.#index = index;
    this.#anchor = null;
    this.#range = [];
    this.changed();
  }

  clear() {
    if (!this.size && this.#anchor === null) return;
    this.#items.clear();
    this.#anchor = null;
    this.#range = [];
    this.changed();
  }
}
