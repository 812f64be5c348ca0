// A small copy of the query's image, from this browser or from the index.

import { thumbnail } from "./api.js";
import { h, icon } from "./dom.js";
import { addressOf } from "./images.js";
import { readBox, splitPart } from "./parts.js";

const SIDE = 72; // pixels of a part: twice what it takes on the screen

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
  const { item, crop } = splitPart(like ?? "");
  const alt = "The image that is searched with";
  const shown = h("img", { alt, width: 36, height: 36 });
  const box = readBox(crop);
  const source = like ? thumbnail(item, index, box ? 512 : 128) : await addressOf(image);
  if (source) shown.src = source;
  root.replaceChildren(
    box ? partOf(shown, box) : shown,
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

/** A canvas with the middle square of a part of an image. */
function partOf(image, box) {
  const canvas = h("canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": `${image.alt}: a part of it` });
  image.addEventListener("load", () => {
    const [width, height] = [image.naturalWidth / 100, image.naturalHeight / 100];
    const side = Math.min(box.width * width, box.height * height);
    const left = box.x * width + (box.width * width - side) / 2;
    const top = box.y * height + (box.height * height - side) / 2;
    canvas.getContext("2d").drawImage(image, left, top, side, side, 0, 0, SIDE, SIDE);
  });
  return canvas;
}
