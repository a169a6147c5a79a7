/** A segment on its way to something else, by a slider; the heat map shows it while it moves. */
import { fill, h } from "./dom.js";
import { onEnter, openPopup } from "./popup.js";
import { place, refuse, sayError } from "./says.js";
import * as session from "./session.js";
import { state } from "./state.js";

/** @typedef {import("./drag.js").Thing} Thing */
/** @typedef {import("./types.js").Source} Source */

const STILL = 120; // milliseconds that the slider rests before it is shown what would come

/**
 * @param {import("./popup.js").Anchor} anchor
 * @param {number} at the segment
 * @param {Thing | null} thing what it goes to; null: words or another segment are asked for
 * @param {object} around
 * @param {(body: object, done: string) => Promise<unknown>} around.edit
 * @param {() => void} [around.copy] what becomes of it all the way
 */
export function openMorph(anchor, at, thing, { edit, copy }) {
  const plan = state.plan;
  if (!plan) return;
  const name = `segment ${at + 1}`;
  const label = thing ? `From ${name} to ${thing.title}` : `Morph ${name}`;
  const words = h("input", {
    type: "text",
    placeholder: "words, as full drum kit",
    "aria-label": "Words to go to",
    dir: "auto",
  });
  const says = place();
  const others = plan.segments.filter((segment) => segment.index !== at);
  const towards = h(
    "select",
    { "aria-label": "Towards" },
    h("option", { value: "words" }, "words"),
    state.clipboard
      ? h("option", { value: "clipboard" }, `what was copied: ${state.clipboard.title}`)
      : null,
    others.map((segment) =>
      h("option", { value: segment.index }, `segment ${segment.index + 1}: ${segment.label}`),
    ),
  );
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 100,
    value: 50,
    "aria-label": "How far",
  });
  const shown = h("output", null, "50 %");

  /** @returns {Source | null | undefined} null: nothing to go to yet */
  const source = () => {
    if (thing) return thing.source;
    if (towards.value === "words") return words.value.trim() ? { words: words.value.trim() } : null;
    if (towards.value === "clipboard") return state.clipboard?.source;
    return { plan: plan.id, segments: [Number(towards.value)] };
  };
  const body = () => {
    const to = source();
    return to
      ? { edit: "morph", segments: [at], source: to, amount: Number(slider.value) / 100 }
      : null;
  };

  let timer = 0;
  const moved = () => {
    shown.textContent = `${slider.value} %`;
    words.hidden = towards.value !== "words";
    fill(says);
    clearTimeout(timer);
    timer = window.setTimeout(() => void session.preview(body()).catch(refused), STILL);
  };
  const refused = (/** @type {unknown} */ error) => sayError(says, error);
  for (const field of [words, towards, slider]) field.addEventListener("input", moved);

  let applied = false;
  const closed = () => {
    clearTimeout(timer);
    if (!applied) void session.preview(null);
  };
  openPopup(
    anchor,
    label,
    (close) => {
      const apply = async () => {
        const wish = body();
        if (!wish) return refuse(words, "Write the words that it is to go to.");
        clearTimeout(timer);
        applied = true;
        try {
          await edit(wish, `Segment ${at + 1} went ${slider.value} % of the way.`);
          close();
        } catch (error) {
          applied = false;
          refused(error);
          if (!says.isConnected) await session.preview(null);
        }
        return undefined;
      };
      const finish = () => {
        close();
        copy?.();
      };
      for (const field of [words, slider, towards]) onEnter(field, () => void apply());
      return [
        ...(thing ? [] : [h("label", null, "Towards", towards), words]),
        h("div", { class: "slider" }, slider, shown),
        says,
        h(
          "div",
          { class: "row" },
          h(
            "button",
            { type: "button", class: "primary", on: { click: () => void apply() } },
            "Morph",
          ),
          copy ? h("button", { type: "button", on: { click: finish } }, "Copy it here") : null,
          h("button", { type: "button", on: { click: close } }, "Leave it"),
        ),
      ];
    },
    { closed, above: true },
  );
  if (thing) moved();
}
