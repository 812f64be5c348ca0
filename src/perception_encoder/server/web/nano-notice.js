// Says that pe-nano knows drawings where an index of it seems to hold photos.

import { reembed } from "./commands.js";
import { copyButton, h, icon } from "./dom.js";

const MODEL = "pe-nano";
const BETTER = "PE-Core-S16-384";
const PHOTO = /\.(jpe?g|jfif|hei[cf]|dng|cr[23]|nef|arw)$/i;
const ENOUGH = 0.5; // share of the images

const closed = new Set(); // indexes for which it was closed

/** Shows the notice in an element, or nothing. */
export function showNotice(root, index, items) {
  const photos = items.filter(({ member, uri }) => PHOTO.test(member ?? uri));
  const isNeeded = index.model === MODEL && photos.length > ENOUGH * items.length;
  root.hidden = !isNeeded || closed.has(index.name);
  if (root.hidden || root.dataset.index === index.name) return;
  root.dataset.index = index.name;
  const command = reembed(index.path, BETTER);
  root.replaceChildren(
    h(
      "p",
      {},
      h("strong", {}, "This index uses pe-nano, which knows drawings, not photos. "),
      `Embed its images again with ${BETTER} or a larger model; searches go on meanwhile:`,
    ),
    h("pre", {}, h("code", {}, command)),
    copyButton("Copy the command", command),
    h(
      "button",
      {
        type: "button",
        class: "quiet round",
        "aria-label": "Close the notice",
        onclick: () => {
          closed.add(index.name);
          root.hidden = true;
        },
      },
      icon("close"),
    ),
  );
}
