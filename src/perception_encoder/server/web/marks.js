// Marks: images that hits should be like, and not be like. Marked images also teach a classifier.

import { post, thumbnail } from "./api.js";
import { announce, h, icon, save } from "./dom.js";
import { counted } from "./format.js";
import { go, state } from "./router.js";

const MOST = 200; // of both kinds, as POST /v1/search takes them
const SHOWN = 8; // small images of each kind

const idsOf = (written) => written.split(",").filter(Boolean);

/** The fields of POST /v1/search for the marks of a state. */
export const markFields = ({ liked, unliked }) => ({
  like: idsOf(liked).map((item) => ({ item })),
  unlike: idsOf(unliked).map((item) => ({ item })),
});

/** Marks items: "liked" or "unliked"; searches anew. */
export function mark(items, kind) {
  const ids = items.filter(Boolean).map(({ id }) => id);
  if (!ids.length) return;
  const other = kind === "liked" ? "unliked" : "liked";
  const now = state();
  const found = [...new Set([...idsOf(now[kind]), ...ids])];
  const rest = idsOf(now[other]).filter((id) => !ids.includes(id));
  if (found.length + rest.length > MOST) {
    announce(`Up to ${MOST} images can be marked`);
    return;
  }
  go({ [kind]: found.join(","), [other]: rest.join(","), saved: "", cluster: "", k: "", item: null });
  announce(`${counted(ids.length, "image")} marked: ${kind === "liked" ? "more" : "less"} like ${ids.length === 1 ? "this" : "these"}`);
}

/** Buttons that mark the selected images. */
export function markButtons(selection, cleared) {
  const button = (mark_, label, kind, key) =>
    h(
      "button",
      {
        type: "button",
        class: "quiet",
        title: `Key ${key}`,
        "aria-keyshortcuts": key,
        onclick: () => {
          const { items } = selection;
          selection.clear();
          mark(items, kind);
          cleared();
        },
      },
      icon(mark_),
      h("span", {}, label),
    );
  return [
    button("plus", "More like these", "liked", "+"),
    button("minus", "Less like these", "unliked", "-"),
  ];
}

/** The keys + and - mark the selected images, or else the one with the focus. */
export function startMarkKeys(root, selection, grid) {
  root.addEventListener("keydown", (event) => {
    const kind = { "+": "liked", "=": "liked", "-": "unliked" }[event.key];
    if (!kind || event.metaKey || event.ctrlKey || event.altKey) return;
    const at = event.target.closest(".tile")?.dataset.at;
    const items = selection.size ? selection.items : at === undefined ? [] : [grid.item(Number(at))];
    if (!items.length) return;
    event.preventDefault();
    selection.clear();
    mark(items, kind);
  });
}

/** Shows the marks of a state, with what can be done with them; hides the row without any. */
export function showMarks(root, now, index) {
  const liked = idsOf(now.liked);
  const unliked = idsOf(now.unliked);
  root.hidden = !liked.length && !unliked.length;
  const key = `${index} ${now.liked} ${now.unliked}`;
  if (root.dataset.key === key) return;
  root.dataset.key = key;
  root.replaceChildren(
    ...(root.hidden
      ? []
      : [
          marked("More like", liked, "liked", index),
          marked("Less like", unliked, "unliked", index),
          teacher(index, liked, unliked),
          h("button", { type: "button", class: "quiet", onclick: () => go({ liked: "", unliked: "" }) }, "Clear marks"),
        ]),
  );
}

function marked(title, ids, kind, index) {
  if (!ids.length) return null;
  const without = (id) => ids.filter((one) => one !== id).join(",");
  const shown = ids.slice(-SHOWN).map((id) =>
    h(
      "button",
      {
        type: "button",
        "aria-label": `Take this mark away: ${title.toLowerCase()} this image`,
        title: "Take the mark away",
        onclick: () => go({ [kind]: without(id) }),
      },
      h("img", { alt: "", width: 34, height: 34, src: thumbnail(id, index, 128) }),
    ),
  );
  const more = ids.length > SHOWN ? h("span", { class: "soft" }, `+${ids.length - SHOWN}`) : null;
  return h("div", { class: `marked ${kind}`, role: "group", "aria-label": title }, h("span", {}, title), shown, more);
}

/** A form that saves a classifier: liked images are examples of a label, the others of none. */
function teacher(index, liked, unliked) {
  if (!liked.length || !unliked.length) return null;
  const said = h("span", { role: "status", class: "soft" });
  const label = h("input", {
    type: "text",
    "aria-label": "Label of the liked images",
    placeholder: "label, such as cat",
    required: true,
    maxlength: 60,
    spellcheck: "false",
  });
  const send = h("button", { type: "submit", class: "quiet" }, icon("tag"), h("span", {}, "Teach"));
  const teach = async (event) => {
    event.preventDefault();
    const name = label.value.trim();
    if (!name) return;
    send.disabled = true;
    try {
      const reply = await post("v1/teach", { index, examples: { [name]: liked }, none: unliked });
      const file = `${name.replace(/[^\p{L}\p{N} _-]+/gu, "-")}.npz`;
      save(file, await reply.blob());
      said.textContent = `Saved ${file}. Use it: pe classify IMAGES --classifier ${file}`;
    } catch (failure) {
      said.textContent = failure.message;
    }
    send.disabled = false;
  };
  return h("form", { class: "teacher", onsubmit: teach }, label, send, said);
}
