// Asks for a key if the server needs one. The key is sent once, for a session cookie.

import { onKeyNeeded, post } from "./api.js";
import { $, h } from "./dom.js";

let asking = null;

/** Opens the dialog whenever the server needs a key. */
export function startSession(dialog) {
  onKeyNeeded(() => {
    asking ??= askIn(dialog).finally(() => {
      asking = null;
    });
    return asking;
  });
}

function askIn(dialog) {
  return new Promise((resolve) => {
    const problem = h("p", { role: "alert", class: "alarm" });
    const field = h("input", { type: "password", id: "key", required: true, autocomplete: "off" });
    const send = async (event) => {
      event.preventDefault();
      try {
        await post(
          "v1/session",
          {},
          { headers: { Authorization: `Bearer ${field.value.trim()}` } },
        );
      } catch (failure) {
        problem.textContent =
          failure.status === 401 ? "That key is not accepted." : failure.message;
        field.select();
        return;
      }
      dialog.close();
      resolve();
    };
    dialog.replaceChildren(
      h(
        "form",
        { onsubmit: send },
        h("h2", { id: "key-title" }, "This server needs a key"),
        h(
          "p",
          { class: "soft" },
          "Whoever runs it has one for you. It is kept for twelve hours in this browser.",
        ),
        h("label", { for: "key" }, "Key"),
        field,
        problem,
        h("button", { type: "submit", class: "primary" }, "Go on"),
      ),
    );
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
    $("#key").focus();
  });
}
