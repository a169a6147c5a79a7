/** One sentence where the eye is: what was done, what went wrong, and with which field. */
import { fill, h } from "./dom.js";
import { GivenUp } from "./work.js";

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

/** @param {unknown} error */
const sentence = (error) => (error instanceof Error ? error.message : String(error));

/** @param {HTMLElement} where @param {unknown} error */
export function sayError(where, error) {
  if (error instanceof GivenUp) return say(where, error.message);
  where.dataset.kind = "error";
  return fill(where, sentence(error));
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

let faults = 0;

/**
 * Say what is wrong with a field: below it, until something else is written there. The keyboard
 * goes to it.
 * @param {HTMLElement} field an input, or what else takes the focus
 * @param {unknown} error
 */
export function refuse(field, error) {
  clearFault(field);
  const id = `fault-${(faults += 1)}`;
  const text = h("p", { class: "fault", id }, sentence(error));
  (field.closest("label, .with-button") ?? field).after(text);
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", id);
  field.addEventListener("input", () => clearFault(field), { once: true });
  field.focus();
}

/** @param {HTMLElement} field */
export function clearFault(field) {
  const id = field.getAttribute("aria-describedby");
  if (!field.hasAttribute("aria-invalid") || !id) return;
  document.getElementById(id)?.remove();
  field.removeAttribute("aria-invalid");
  field.removeAttribute("aria-describedby");
}

/** To screen readers alone. @param {string} text */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  if (announcer) announcer.textContent = text;
}
