// What a view shows when it has no results, and what to do about it.

import { addImages, serve } from "./commands.js";
import { copyButton, h } from "./dom.js";
import { knownPaths } from "./indexes.js";

/** A message: a heading, a sentence, perhaps a command to copy and buttons. */
export function message({ title, text, command = null, actions = [] }) {
  const buttons = actions.map(([label, act, isMain]) =>
    h("button", { type: "button", class: isMain && "primary", onclick: act }, label),
  );
  if (command) buttons.push(copyButton("Copy the command", command));
  return h(
    "div",
    { class: "message" },
    h("h2", {}, title),
    text && h("p", {}, text),
    command && h("pre", {}, h("code", {}, command)),
    buttons.length > 0 && h("div", { class: "actions" }, buttons),
  );
}

/** What a failure means for a person; `again` tries once more. */
export function failureMessage(failure, again) {
  const actions = [["Try again", again, true]];
  if (failure.code === "unreachable") {
    return message({
      title: "The server does not answer",
      text: "It may have been stopped.",
      command: serve(knownPaths()),
      actions,
    });
  }
  if (failure.code === "model_unavailable") {
    return message({ title: "The model cannot be used", text: failure.message, actions });
  }
  if (failure.code === "unknown_index") {
    return message({ title: "There is no such index here", text: failure.message });
  }
  if (failure.code === "invalid_query") {
    return message({ title: "That query cannot be used", text: failure.message });
  }
  if (failure.code === "unsupported_by_model") {
    return message({ title: "The model cannot do that", text: failure.message });
  }
  if (failure.status === 429) {
    return message({ title: "Too much at once", text: failure.message, actions });
  }
  return message({ title: "That did not work", text: failure.message, actions });
}

export const noIndex = () =>
  message({
    title: "No images yet",
    text: "Make an index of a folder of images, then start the server with it.",
    command: `${addImages("images.lance")}\n${serve(["images.lance"])}`,
  });
