// Which images of each group of duplicates stay. Remembers what the person chose. No DOM access.

/** Decisions on groups of duplicates. By default, the server's choice is kept. */
export class Review {
  #kept = new Map(); // id of the group's first image → Set of ids

  /** All images of a group, the one that the server would keep first. */
  static members(group) {
    return [group.keep, ...group.others];
  }

  isKept(group, item) {
    return this.#of(group).has(item.id);
  }

  /** Keeps an image or not; the last one of a group stays. Returns whether anything changed. */
  set(group, item, isKept) {
    const kept = this.#of(group);
    if (!isKept && kept.size === 1 && kept.has(item.id)) return false;
    if (isKept) kept.add(item.id);
    else kept.delete(item.id);
    return true;
  }

  /** Groups as {kept, removed}. */
  decided(groups) {
    return groups.map((group) => {
      const members = Review.members(group);
      return {
        kept: members.filter((item) => this.isKept(group, item)),
        removed: members.filter((item) => !this.isKept(group, item)),
      };
    });
  }

  #of(group) {
    const key = group.keep.id;
    if (!this.#kept.has(key)) this.#kept.set(key, new Set([key]));
    return this.#kept.get(key);
  }
}
