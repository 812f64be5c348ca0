// Says that an index is searched with images only where its model reads no text, and what helps.

import { serveWith } from "./commands.js";
import { $, copyButton, h } from "./dom.js";

const PLACEHOLDERS = {
  texts: "Describe an image, or drop one here",
  images: "Choose or drop an image; Text searches in names",
};

/** Shows the explanation above the results, or hides it. */
export function showImagesOnly(index) {
  const isImagesOnly = index.text_model === null;
  $("#query").placeholder = isImagesOnly ? PLACEHOLDERS.images : PLACEHOLDERS.texts;
  $("#search-form .not-this").hidden = isImagesOnly;
  const root = $("#images-only");
  root.hidden = !isImagesOnly;
  if (!isImagesOnly) return;
  const command = serveWith(index.text_twin, [index.path]);
  root.replaceChildren(
    h(
      "p",
      {},
      h("strong", {}, "This index is searched with images. "),
      `Its model, ${index.model}, reads no text. `,
      "Names and metadata are searched with Text. For descriptions, start the server with the model's twin, too:",
    ),
    h("pre", {}, h("code", {}, command)),
    copyButton("Copy the command", command),
  );
}
