// A slider beside the results that goes to any position of thousands of images.

import { h } from "./dom.js";
import { count } from "./format.js";

const WORTH_IT = 300; // images; fewer are scrolled through

/**
 * Makes the slider.
 * @param {HTMLElement} root
 * @param {object} results
 * @param {() => number} results.total how many images there are, as far as that is known.
 * @param {() => number} results.position of the first image in the window.
 * @param {(at: number) => string} results.describe what a position holds: a date, a name, a score.
 * @param {(at: number) => Promise<void>} results.go shows a position.
 */
export function scrubber(root, { total, position, describe, go }) {
  const label = h("output", { for: "scrubber", hidden: true });
  const slider = h("input", {
    type: "range",
    id: "scrubber",
    min: 0,
    step: 1,
    "aria-label": "Position in the images",
  });
  root.append(label, slider);
  let wanted = null; // the position that is being loaded

  function say(at, isLoading = false) {
    const place = `${count(at + 1)} of ${count(total())}`;
    const text = [isLoading ? "Loading…" : describe(at), place].filter(Boolean).join(" · ");
    label.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    const share = at / Math.max(1, total() - 1);
    label.style.top = `calc(${share} * (100% - 24px))`;
  }

  async function move() {
    const at = Number(slider.value);
    const isFirst = wanted === null;
    wanted = at;
    label.hidden = false;
    say(at, true);
    if (!isFirst) return; // the move under way goes on to the newest position
    try {
      let reached = null;
      while (reached !== wanted) {
        reached = wanted;
        await go(reached);
      }
      say(reached);
    } finally {
      wanted = null;
    }
  }

  slider.addEventListener("input", move);
  const rest = () => {
    label.hidden = true;
  };
  for (const name of ["change", "pointerleave", "blur"]) slider.addEventListener(name, rest);
  slider.addEventListener("focus", () => say(Number(slider.value)));

  return {
    /** Follows the window, and what has been loaded. */
    follow() {
      const number = total();
      root.hidden = number < WORTH_IT;
      if (root.hidden || wanted !== null) return;
      slider.max = number - 1;
      slider.value = position();
      say(Number(slider.value));
    },
  };
}
