// Says that pe-nano knows drawings where an index of it seems to hold photos.

import { get } from "./api.js";
import { indexAnew } from "./commands.js";
import { copyButton, h, icon } from "./dom.js";

const MODEL = "pe-nano";
const BETTER = "PE-Core-S16-384";
const PHOTO = /\.(jpe?g|jfif|hei[cf]|dng|cr[23]|nef|arw)$/i;
const ENOUGH = 0.5; // share of the images

const closed = new Set(); // indexes for which it was closed

/** Shows the notice in an element, or nothing. */
export async function showNotice(root, index, items) {
  const photos = items.filter(({ member, uri }) => PHOTO.test(member ?? uri));
  const isNeeded = index.model === MODEL && photos.length > ENOUGH * items.length;
  root.hidden = !isNeeded || closed.has(index.name);
  if (root.hidden || root.dataset.index === index.name) return;
  root.dataset.index = index.name;
  const command = indexAnew(index.path, await folderOf(index), BETTER);
  root.replaceChildren(
    h(
      "p",
      {},
      h("strong", {}, "This index uses pe-nano, which knows drawings, not photos. "),
      `Index photos with ${BETTER} or a larger model:`,
    ),
    h("pre", {}, h("code", {}, command)),
    copyButton("Copy the commands", command),
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

/** The folder that holds the index's images, if it is a single one. */
async function folderOf(index) {
  try {
    const { folders } = await get(`v1/indexes/${encodeURIComponent(index.name)}/folders`);
    const [{ path }] = folders;
    return folders.every((one) => one.path.startsWith(path)) ? path : undefined;
  } catch {
    return undefined;
  }
}
