// The picture in hand, small: from this browser or from the table.

import { thumbnail } from "./api.js";
import { h, icon } from "./dom.js";
import { addressOf } from "./pictures.js";

/**
 * Fills an element with the state's picture and a button that takes it away; hides it without one.
 * @param {string} index the table's name, for a picture of it.
 */
export async function showChip(root, { like, picture }, index, remove) {
  root.hidden = !(like || picture);
  const key = like ?? picture ?? "";
  if (root.dataset.key === key) return;
  root.dataset.key = key;
  if (!key) {
    root.replaceChildren();
    return;
  }
  const image = h("img", { alt: "The picture that is searched with", width: 36, height: 36 });
  const source = like ? thumbnail(like, index, 128) : await addressOf(picture);
  if (source) image.src = source;
  root.replaceChildren(
    image,
    h(
      "button",
      {
        type: "button",
        class: "quiet round",
        "aria-label": "Search without the picture",
        onclick: remove,
      },
      icon("close"),
    ),
  );
}
