/**
 * Long work where the eye is: what runs, how far it has come, how long it will take, and a way out.
 * Screen readers hear the sentence once; its numbers, which change all the time, are seen alone.
 */
import { clock, fill, h } from "./dom.js";
import { remember, remembered } from "./state.js";

/** What somebody gave up: no fault, and no reason to say more than that. */
export class GivenUp extends Error {}

/**
 * @typedef {object} Expected
 * @property {string} [kind] work that takes alike, as "plan musicot-mini"
 * @property {number} [units] how much of it there is: the time it takes grows with that
 * @property {() => void} [cancel]
 */

const PATIENCE = 700; // milliseconds before numbers are shown
const TICK = 250; // milliseconds

/** What would be lost with the page. */
let running = 0;
const ask = (/** @type {BeforeUnloadEvent} */ event) => {
  event.preventDefault();
  event.returnValue = true; // older browsers ask by this
};

/** @param {number} by */
function count(by) {
  running += by;
  if (running) addEventListener("beforeunload", ask);
  else removeEventListener("beforeunload", ask);
}

/** Seconds that so much of a kind took lately, if it was ever done. @param {Expected} expected */
function usual({ kind, units = 1 }) {
  const each = kind && remembered("paces")?.[kind];
  return each ? each * units : null;
}

/** @param {Expected} expected @param {number} seconds */
function learn({ kind, units = 1 }, seconds) {
  if (kind) remember("paces", { ...remembered("paces"), [kind]: seconds / units });
}

/**
 * Show work in a place until it has ended, well or not.
 * @template T
 * @param {HTMLElement} where
 * @param {string} text
 * @param {Expected} expected
 * @param {(part: (fraction: number) => void) => Promise<T>} act part: tell how far it is, 0 to 1
 * @returns {Promise<T>}
 */
export async function work(where, text, expected, act) {
  const began = performance.now();
  const bar = h("progress", { max: 1, "aria-label": text });
  const numbers = h("span", { class: "numbers", "aria-hidden": "true" });
  const { cancel } = expected;
  const stop =
    cancel && h("button", { type: "button", class: "chip", on: { click: cancel } }, "Cancel");
  /** @type {number | null} */
  let told = null;
  const draw = () => {
    const seconds = (performance.now() - began) / 1000;
    const whole = usual(expected);
    const far = told ?? (whole && seconds < whole ? seconds / whole : null);
    bar.hidden = numbers.hidden = seconds < PATIENCE / 1000 && told === null;
    if (far === null || !far) bar.removeAttribute("value");
    else bar.value = far;
    const left = far ? Math.ceil(seconds / far - seconds) : null;
    const parts = [told === null ? null : `${Math.floor(told * 100)} %`];
    parts.push(left !== null && left < 1e4 ? `${clock(left)} left` : `${clock(seconds)} so far`);
    numbers.textContent = parts.filter(Boolean).join(" · ");
  };
  delete where.dataset.kind;
  fill(where, h("span", null, text), " ", bar, " ", numbers, stop ? [" ", stop] : null);
  draw();
  const timer = setInterval(draw, TICK);
  if (cancel) count(1);
  try {
    const done = await act((fraction) => {
      told = fraction;
      draw();
    });
    learn(expected, (performance.now() - began) / 1000);
    return done;
  } finally {
    clearInterval(timer);
    if (cancel) count(-1);
    if (stop && stop === document.activeElement) {
      const near = where.parentElement?.querySelector("textarea, input, button");
      /** @type {HTMLElement | null | undefined} */ (where.closest("[tabindex]") ?? near)?.focus();
    }
    if (where.contains(bar)) fill(where);
  }
}
