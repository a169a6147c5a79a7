/**
 * Elements, written as calls. Text always becomes a text node: nothing that a user, a file or a
 * model wrote is ever read as markup.
 */

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {Record<string, unknown>} Attributes */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Attributes: `on` holds listeners, `data` the dataset, `vars` CSS custom properties,
 * `value`, `checked` and the like are set as properties; null and false leave an attribute out.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes | null} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) set(element, name, value);
  append(element, children);
  return element;
}

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "indeterminate", "htmlFor"]);

/** @param {HTMLElement} element @param {string} name @param {unknown} value */
function set(element, name, value) {
  if (name === "on") {
    for (const [event, listener] of Object.entries(/** @type {any} */ (value))) {
      element.addEventListener(event, /** @type {EventListener} */ (listener));
    }
  } else if (name === "data") {
    Object.assign(element.dataset, value);
  } else if (name === "vars") {
    for (const [key, entry] of Object.entries(/** @type {any} */ (value))) {
      element.style.setProperty(`--${key}`, String(entry));
    }
  } else if (PROPERTIES.has(name)) {
    /** @type {any} */ (element)[name] = value;
  } else if (value !== null && value !== undefined && value !== false) {
    element.setAttribute(name, value === true ? "" : String(value));
  }
}

/** @param {Element} parent @param {(Child | Child[])[]} children */
function append(parent, children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Put other children in the place of those that there are.
 * @param {Element} parent
 * @param {...(Child | Child[])} children
 */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/**
 * The same, where most of them are there already: those are not touched, so that the keyboard stays
 * where it is, or goes to the next one where it was on one that goes.
 * @param {Element} parent
 * @param {HTMLElement[]} children
 */
export function refill(parent, children) {
  const there = [...parent.children];
  if (children.length === there.length && children.every((child, at) => child === there[at]))
    return;
  const at = there.findIndex((child) => child.contains(document.activeElement));
  const focused = /** @type {HTMLElement | null} */ (at < 0 ? null : document.activeElement);
  parent.replaceChildren(...children);
  if (!focused) return;
  const next = children[Math.min(at, children.length - 1)];
  const stop = next?.querySelector("button:not([hidden])") ?? parent.closest("[tabindex]");
  /** @type {HTMLElement | null} */ (focused.isConnected ? focused : stop)?.focus();
}

/**
 * The element of an id, which index.html must have.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no #${id}`);
  return element;
}

/** Outlines on a grid of 24 by 24, stroked in the colour of the text. */
const PATHS = {
  play: "M7 4.5v15l12-7.5z",
  pause: "M8 5v14M16 5v14",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  unlock: "M6 11h12v9H6zM8.5 11V7.5a3.5 3.5 0 0 1 6.6-1.6",
  more: "M5 11.9v.2M12 11.9v.2M19 11.9v.2",
  undo: "M9 7 4 12l5 5M4 12h10a6 6 0 0 1 6 6",
  redo: "m15 7 5 5-5 5M20 12H10a6 6 0 0 0-6 6",
  redraw: "M20 11a8 8 0 1 0-2.3 6.7M20 5v6h-6",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M12 12h.01M15 9h.01M9 15h.01",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5 20 20",
  clock: "M12 20a8 8 0 1 0 0-16 8 8 0 0 0 0 16zM12 8v4l3 2",
  save: "M12 4v11M7.5 10.5 12 15l4.5-4.5M5 19h14",
  open: "M4 18V6h6l2 2.5h8V18z",
  close: "M6 6l12 12M18 6 6 18",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  drop: "M12 15V4M7.5 8.5 12 4l4.5 4.5M5 14v5h14v-5",
  plus: "M12 5v14M5 12h14",
  keys: "M3 7h18v10H3zM7 11v.1M11 11v.1M15 11v.1M8 14h8",
};

/** @typedef {keyof typeof PATHS} IconName */

/**
 * A drawing that says nothing to a screen reader: its button has the words.
 * @param {IconName} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button of a drawing, named for screen readers and for the pointer that rests on it.
 * @param {IconName} name
 * @param {string} label
 * @param {(event: MouseEvent) => void} act
 * @param {Attributes} [attributes]
 * @returns {HTMLButtonElement}
 */
export function iconButton(name, label, act, attributes = {}) {
  return h(
    "button",
    {
      type: "button",
      class: "quiet",
      "aria-label": label,
      title: label,
      on: { click: act },
      ...attributes,
    },
    icon(name),
  );
}

/**
 * A time as people write it: 75 is 1:15.
 * @param {number} seconds
 * @returns {string}
 */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/**
 * "1 bar", "3 bars".
 * @param {number} count
 * @param {string} what
 * @returns {string}
 */
export function counted(count, what) {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
