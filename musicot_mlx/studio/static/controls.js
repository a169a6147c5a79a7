/** What the model takes of a single segment beside its thought: options that are its own there. */
import { h } from "./dom.js";
import { optionField } from "./fields.js";
import { once, openPopup } from "./popup.js";
import { modelOf, state } from "./state.js";

/** @typedef {import("./types.js").Segment} Segment */

/**
 * @param {import("./popup.js").Anchor} anchor
 * @param {Segment} segment
 * @param {(controls: Record<string, unknown>) => Promise<unknown>} set null of a control: as in the
 *   whole song
 * @param {(error: unknown) => void} elsewhere where the dialog was closed meanwhile
 */
export function openControls(anchor, segment, set, elsewhere) {
  const options = (modelOf(state.plan?.model)?.options ?? []).filter((each) => each.by_segment);
  // what a song has by default is the song's own here, whatever it was asked for
  const fields = options.map((option) =>
    optionField({ ...option, default: null }, () => undefined),
  );
  for (const field of fields) field.set(segment.controls[field.option.name]);
  openPopup(anchor, `Of segment ${segment.index + 1} alone`, (close) => {
    const done = () => {
      const asked = fields.map(({ option, get }) => [option.name, get() ?? null]);
      const changed = asked.filter(
        ([name, value]) => value !== (segment.controls[`${name}`] ?? null),
      );
      const first = /** @type {HTMLElement} */ (fields[0].element.querySelector("input, select"));
      if (changed.length)
        void once(first, () => set(Object.fromEntries(changed)), close, elsewhere);
      else close();
    };
    for (const { element } of fields) {
      element.addEventListener("keydown", (event) => event.key === "Enter" && done());
    }
    const apply = h("button", { type: "button", class: "primary", on: { click: done } }, "Set");
    const leave = h("button", { type: "button", on: { click: close } }, "Leave it");
    return [...fields.map(({ element }) => element), h("div", { class: "row" }, apply, leave)];
  });
}

/** @param {Segment} segment @returns {string} as a card says it */
export const controlsOf = (segment) =>
  Object.entries(segment.controls ?? {})
    .map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`)
    .join(", ");
