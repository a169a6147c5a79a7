/** Key and chords of the whole plan. */
import { h } from "./dom.js";
import { onEnter, once, openPopup } from "./popup.js";
import { refuse } from "./says.js";
import { modelOf, state } from "./state.js";

/**
 * @param {HTMLElement} anchor
 * @param {(body: object, done: string) => Promise<unknown>} edit
 * @param {(error: unknown) => void} elsewhere where the dialog was closed meanwhile
 */
export function openHarmony(anchor, edit, elsewhere) {
  const plan = state.plan;
  if (!plan) return;
  const can = (/** @type {string} */ name) => modelOf(plan.model)?.edits.includes(name);
  const chords = h("input", { type: "text", placeholder: "Am F C G, or i VI III VII" });
  const key = h("input", { type: "text", value: plan.key ?? "", placeholder: "D minor" });
  openPopup(anchor, "Harmony of the song", (close) => {
    const set = () => {
      const asked = chords.value.trim();
      const tonic = key.value.trim();
      if (asked) {
        const body = { edit: "chords", chords: asked, ...(tonic ? { key: tonic } : {}) };
        const done = () => edit(body, `The chords are ${asked}.`);
        void once(chords, done, close, elsewhere, ({ param }) => (param === "key" ? key : chords));
      } else if (tonic && tonic !== plan.key) {
        const done = () => edit({ edit: "key", key: tonic }, `The song is in ${tonic}.`);
        void once(key, done, close, elsewhere);
      } else close();
    };
    for (const field of [chords, key]) onEnter(field, set);
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
              ).catch((error) => refuse(key, error)),
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
