// A small copy of the query's image, from this browser or from the index.

import { thumbnail } from "./api.js";
import { h, icon } from "./dom.js";
import { addressOf } from "./images.js";

/**
 * Fills an element with the state's image and a button that takes it away; hides it without one.
 * @param {string} index the index's name, for an image of it.
 */
export async function showChip(root, { like, image }, index, remove) {
  root.hidden = !(like || image);
  const key = like ?? image ?? "";
  if (root.dataset.key === key) return;
  root.dataset.key = key;
  if (!key) {
    root.replaceChildren();
    return;
  }
  const shown = h("img", { alt: "The image that is searched with", width: 36, height: 36 });
  const source = like ? thumbnail(like, index, 128) : await addressOf(image);
  if (source) shown.src = source;
  root.replaceChildren(
    shown,
    h(
      "button",
      {
        type: "button",
        class: "quiet round",
        "aria-label": "Search without the image",
        onclick: remove,
      },
      icon("close"),
    ),
  );
}
