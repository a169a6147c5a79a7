/** Key and chords of the whole plan. */
import { h } from "./dom.js";
import { openPopup } from "./popup.js";
import { modelOf, state } from "./state.js";

/**
 * @param {HTMLElement} anchor
 * @param {(body: object, done: string) => Promise<boolean>} edit
 */
export function openHarmony(anchor, edit) {
  const plan = state.plan;
  if (!plan) return;
  const can = (/** @type {string} */ name) => modelOf(plan.model)?.edits.includes(name);
  const chords = h("input", { type: "text", placeholder: "Am F C G, or i VI III VII" });
  const key = h("input", { type: "text", value: plan.key ?? "", placeholder: "D minor" });
  openPopup(anchor, "Harmony of the song", (close) => {
    const set = async () => {
      const asked = chords.value.trim();
      const tonic = key.value.trim();
      close();
      if (asked) {
        await edit(
          { edit: "chords", chords: asked, ...(tonic ? { key: tonic } : {}) },
          `The chords are ${asked}.`,
        );
      } else if (tonic && tonic !== plan.key) {
        await edit({ edit: "key", key: tonic }, `The song is in ${tonic}.`);
      }
    };
    for (const field of [chords, key])
      field.addEventListener("keydown", (event) => event.key === "Enter" && void set());
    const shift = (/** @type {number} */ semitones) =>
      h(
        "button",
        {
          type: "button",
          on: {
            click: () =>
              void edit(
                { edit: "transpose", semitones },
                `A semitone ${semitones > 0 ? "higher" : "lower"}.`,
              ),
          },
        },
        semitones > 0 ? "Higher" : "Lower",
      );
    return [
      h("label", null, "Key", key),
      h("label", null, "Chords, one a bar", chords),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "primary", on: { click: () => void set() } }, "Set"),
        can("transpose") && plan.chords.length ? [shift(-1), shift(1)] : null,
      ),
    ];
  });
}
