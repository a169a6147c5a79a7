/** One sentence where the eye is: what was done, what runs, what went wrong. */
import { fill, h } from "./dom.js";

/**
 * A place for sentences; screen readers hear them.
 * @returns {HTMLParagraphElement}
 */
export const place = () => h("p", { class: "says", role: "status" });

/**
 * @param {HTMLElement} where
 * @param {string} text
 * @param {{label: string, act: () => void}} [offer] a button after the sentence
 */
export function say(where, text, offer) {
  delete where.dataset.kind;
  const button =
    offer && h("button", { type: "button", class: "chip", on: { click: offer.act } }, offer.label);
  fill(where, text, button ? [" ", button] : null);
}

/** @param {HTMLElement} where @param {unknown} error */
export function sayError(where, error) {
  where.dataset.kind = "error";
  fill(where, error instanceof Error ? error.message : String(error));
}

/**
 * Run it; a refusal is told in its place, and null comes back.
 * @template T
 * @param {HTMLElement} where
 * @param {() => Promise<T>} act
 * @returns {Promise<T | null>}
 */
export async function attempt(where, act) {
  try {
    return await act();
  } catch (error) {
    sayError(where, error);
    return null;
  }
}

/** To screen readers alone. @param {string} text */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  if (announcer) announcer.textContent = text;
}
