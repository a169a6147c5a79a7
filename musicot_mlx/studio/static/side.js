/** The panel beside the plan: the library, and the history of the day. */
import { fill, h, iconButton } from "./dom.js";
import * as history from "./history.js";
import * as library from "./library.js";
import { remember, remembered } from "./state.js";

/** @typedef {"library" | "history"} Tab */

const NAMES = { library: "Library", history: "Today" };

/** @param {HTMLElement} root @param {HTMLElement} tools where its buttons are */
export function mount(root, tools) {
  const views = { library: library.mount(), history: history.mount() };
  const heading = h("h2", { class: "grow", tabindex: -1 });
  const close = iconButton("close", "Close", () => show(null));
  const body = h("div");
  fill(root, h("div", { class: "side-head" }, heading, close), body);

  /** @type {Record<Tab, HTMLButtonElement>} */
  const buttons = {
    library: iconButton("search", "Library: find songs by how they sound", () => toggle("library")),
    history: iconButton("clock", "Today: what was made", () => toggle("history")),
  };
  for (const [tab, button] of Object.entries(buttons)) {
    button.append(h("span", { class: "tool-name" }, NAMES[/** @type {Tab} */ (tab)]));
    button.setAttribute("aria-controls", root.id);
  }
  fill(tools, buttons.library, buttons.history);

  /** @type {Tab | null} */
  let shown = null;
  /** @param {Tab | null} tab @param {boolean} [focus] */
  function show(tab, focus = true) {
    const before = shown;
    shown = tab;
    remember("side", tab);
    root.hidden = !tab;
    for (const [name, button] of Object.entries(buttons))
      button.setAttribute("aria-expanded", String(name === tab));
    if (!tab) {
      if (before) buttons[before].focus();
      return;
    }
    heading.textContent = NAMES[tab];
    fill(body, views[tab].element);
    if (focus) heading.focus();
    views[tab].open(focus);
  }
  const toggle = (/** @type {Tab} */ tab) => show(shown === tab ? null : tab);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || !shown) return;
    const field = document.activeElement?.closest("input, textarea, select");
    if (!field || root.contains(field)) show(null);
  });
  if (matchMedia("(min-width: 1081px)").matches) show(remembered("side"), false);
}
