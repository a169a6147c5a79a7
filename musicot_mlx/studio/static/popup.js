/**
 * What opens over the page beside its anchor: menus, and small dialogs. One at a time; Escape and a
 * press elsewhere close it, and the keyboard goes back to where it was.
 */
import { fill, h } from "./dom.js";
import { refuse } from "./says.js";

/**
 * @typedef {object} MenuItem
 * @property {string} label
 * @property {() => void} act
 * @property {string} [key] the key that does the same, as people read it
 * @property {boolean} [disabled]
 * @property {boolean} [danger]
 */

/**
 * What it opens beside, and gives the keyboard back to; a call where it may be drawn anew
 * meanwhile.
 * @typedef {HTMLElement | (() => HTMLElement | undefined)} Anchor
 */

/** @param {Anchor} anchor */
const there = (anchor) => (typeof anchor === "function" ? anchor() : anchor);

/**
 * A menu below its anchor.
 * @param {Anchor} anchor
 * @param {string} label
 * @param {(MenuItem | "line")[]} items
 */
export function openMenu(anchor, label, items) {
  const menu = h("div", { role: "menu", "aria-label": label, class: "menu" });
  const shown = openAt(anchor, menu);
  fill(
    menu,
    ...items.map((item) => {
      if (item === "line") return h("div", { role: "separator", class: "line" });
      const act = () => {
        shown.close();
        item.act();
      };
      return h(
        "button",
        {
          type: "button",
          role: "menuitem",
          tabindex: -1,
          class: item.danger ? "danger" : null,
          disabled: item.disabled ?? false,
          on: { click: act },
        },
        h("span", { dir: "auto" }, item.label),
        item.key ? h("kbd", { "aria-hidden": "true" }, item.key) : null,
      );
    }),
  );
  const buttons = () => [...menu.querySelectorAll("button:not(:disabled)")];
  menu.addEventListener("keydown", (event) => {
    const all = /** @type {HTMLElement[]} */ (buttons());
    const at = all.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Tab") shown.close();
    if (to === undefined) return;
    event.preventDefault();
    all[(to + all.length) % all.length]?.focus();
  });
  shown.place();
  /** @type {HTMLElement | undefined} */ (buttons()[0])?.focus();
}

/**
 * A small dialog below its anchor; the first field of it gets the keyboard.
 * @param {Anchor} anchor
 * @param {string} label
 * @param {(close: () => void) => Node[]} content
 * @param {{closed?: () => void, above?: boolean}} [more] closed: told however it is closed; above:
 *   on that side of its anchor where there is room, to keep what is below it in sight
 */
export function openPopup(anchor, label, content, { closed, above = false } = {}) {
  const box = h("div", { role: "dialog", "aria-label": label, class: "popup" });
  const shown = openAt(anchor, box, closed);
  fill(box, h("h3", { dir: "auto" }, label), ...content(shown.close));
  shown.place(above);
  const first = box.querySelector("[autofocus], input, textarea, select, button");
  /** @type {HTMLElement | null} */ (first)?.focus();
}

/**
 * A line of text, asked for beside its anchor; Enter sets it. What is refused is told below it, with
 * the text still there; `elsewhere`, where it was left meanwhile.
 * @param {Anchor} anchor
 * @param {string} label
 * @param {string} value
 * @param {string} hint
 * @param {(text: string) => Promise<unknown>} act
 * @param {(error: unknown) => void} elsewhere
 */
export function askWords(anchor, label, value, hint, act, elsewhere) {
  openPopup(anchor, label, (close) => {
    const field = h("textarea", {
      rows: 2,
      value,
      placeholder: hint,
      "aria-label": label,
      class: "words-field",
      dir: "auto",
    });
    const done = () => {
      const text = field.value.trim();
      if (text) void once(field, () => act(text), close, elsewhere);
      else close();
    };
    onEnter(field, done);
    queueMicrotask(() => field.select());
    const set = h("button", { type: "button", class: "primary", on: { click: done } }, "Set");
    const leave = h("button", { type: "button", on: { click: close } }, "Leave it");
    return [field, h("div", { class: "row" }, set, leave)];
  });
}

/** @param {HTMLElement} field @param {() => void} act */
export function onEnter(field, act) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    act();
  });
}

/**
 * Do what a dialog asks for and close it; where that is refused, it stays and says so at the field.
 * @param {HTMLElement} field what was asked; while that is done, it is not asked again
 * @param {() => Promise<unknown>} act
 * @param {() => void} close
 * @param {(error: unknown) => void} elsewhere where the dialog was closed meanwhile
 * @param {(error: any) => HTMLElement} [at] the field that it is about
 */
export async function once(field, act, close, elsewhere, at = () => field) {
  if (field.ariaBusy === "true") return;
  field.ariaBusy = "true";
  try {
    await act();
    close();
  } catch (error) {
    if (field.isConnected) refuse(at(error), error);
    else elsewhere(error);
  }
  field.ariaBusy = null;
}

/** @type {{box: HTMLElement, close: () => void} | null} */
let opened = null;

document.addEventListener("pointerdown", ({ target }) => {
  if (!opened?.box.contains(/** @type {Node} */ (target))) opened?.close();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || !opened) return;
  event.preventDefault();
  opened.close();
});

/**
 * Not the popover attribute: Safari has it from version 17 on alone.
 * @param {Anchor} anchor
 * @param {HTMLElement} box
 * @param {() => void} [closed]
 */
function openAt(anchor, box, closed) {
  opened?.close();
  box.classList.add("overlay");
  document.body.append(box);
  const close = () => {
    if (!box.isConnected) return;
    const inside = box.contains(document.activeElement) || document.activeElement === document.body;
    box.remove();
    opened = null;
    closed?.();
    if (inside) there(anchor)?.focus();
  };
  opened = { box, close };
  const place = (above = false) => {
    const beside = (there(anchor) ?? document.body).getBoundingClientRect();
    const { width, height } = box.getBoundingClientRect();
    const fits = beside.bottom + 6 + height < innerHeight;
    const below = above ? beside.top - 6 - height < 0 : fits;
    const top = below ? beside.bottom + 6 : Math.max(8, beside.top - 6 - height);
    const left = Math.max(8, Math.min(beside.left, innerWidth - width - 8));
    box.style.setProperty("top", `${Math.min(top, Math.max(8, innerHeight - height - 8))}px`);
    box.style.setProperty("left", `${left}px`);
  };
  return { close, place };
}
