/** The keys, told where one looks for them: every drag has one. */
import { h, iconButton } from "./dom.js";
import { openPopup } from "./popup.js";

/** @type {[string, [string, string][]][]} */
const KEYS = [
  [
    "On a segment",
    [
      ["← →", "go from card to card"],
      ["Enter", "other words"],
      ["C, then V", "copy it onto another one"],
      ["M", "morph"],
      ["F", "from an audio file"],
      ["H", "chords"],
      ["S", "its own settings, where the model has some"],
      ["L", "lock"],
      ["R", "draw anew"],
      ["D", "duplicate"],
      ["I", "insert before"],
      ["Alt ← →", "earlier, later"],
      ["Del", "delete"],
    ],
  ],
  [
    "Everywhere",
    [
      ["Space", "play, pause"],
      ["1 to 9", "listen to another take"],
      ["Ctrl Z", "undo; with Shift, redo"],
      ["Ctrl Enter", "render, from the words"],
    ],
  ],
];

/** @returns {HTMLButtonElement} */
export function keysButton() {
  const open = () => openPopup(button, "Keys", (close) => [...lists(), closing(close)]);
  const button = iconButton("keys", "Keys", open, { "aria-haspopup": "dialog" });
  return button;
}

function lists() {
  return KEYS.flatMap(([title, keys]) => [
    h("h4", null, title),
    h(
      "dl",
      { class: "keys" },
      keys.flatMap(([key, what]) => [h("dt", null, key), h("dd", null, what)]),
    ),
  ]);
}

/** @param {() => void} close */
const closing = (close) => h("button", { type: "button", on: { click: close } }, "Close");
