/** A segment on its way to something else, by a slider; the heat map shows it while it moves. */
import { h } from "./dom.js";
import { sourceOf } from "./drag.js";
import { openPopup } from "./popup.js";
import { attempt, say } from "./says.js";
import * as session from "./session.js";
import { state } from "./state.js";

/** @typedef {import("./drag.js").Thing} Thing */
/** @typedef {import("./types.js").Source} Source */

const STILL = 120; // milliseconds that the slider rests before it is shown what would come

/**
 * @param {import("./popup.js").Anchor} anchor
 * @param {number} at the segment
 * @param {Thing | null} thing what it goes to; null: words or another segment are asked for
 * @param {{says: HTMLElement, copy?: () => void}} around copy: what becomes of it all the way
 */
export function openMorph(anchor, at, thing, { says, copy }) {
  const plan = state.plan;
  if (!plan) return;
  const name = `segment ${at + 1}`;
  const label = thing ? `From ${name} to ${thing.title}` : `Morph ${name}`;
  const words = h("input", {
    type: "text",
    placeholder: "words, as full drum kit",
    "aria-label": "Words to go to",
  });
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

  /** @returns {Promise<Source | null>} null: nothing to go to yet */
  const source = async () => {
    if (thing) return sourceOf(thing);
    if (towards.value === "words") return words.value.trim() ? { words: words.value.trim() } : null;
    if (towards.value === "clipboard" && state.clipboard) return sourceOf(state.clipboard);
    return { plan: plan.id, segments: [Number(towards.value)] };
  };
  const body = async () => {
    const to = await source();
    return to && { edit: "morph", segments: [at], source: to, amount: Number(slider.value) / 100 };
  };

  let timer = 0;
  const moved = () => {
    shown.textContent = `${slider.value} %`;
    words.hidden = towards.value !== "words";
    clearTimeout(timer);
    timer = window.setTimeout(
      () => void attempt(says, async () => session.preview(await body())),
      STILL,
    );
  };
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
        const edit = await attempt(says, body);
        if (!edit) return words.focus();
        applied = true;
        close();
        const done = await attempt(says, () => session.edit(edit));
        if (done) say(says, `Segment ${at + 1} went ${slider.value} % of the way.`);
        else await session.preview(null);
        return undefined;
      };
      const finish = () => {
        close();
        copy?.();
      };
      words.addEventListener("keydown", (event) => event.key === "Enter" && void apply());
      slider.addEventListener("keydown", (event) => event.key === "Enter" && void apply());
      return [
        ...(thing
          ? []
          : [h("div", { class: "row" }, h("label", { class: "grow" }, "Towards", towards)), words]),
        h("div", { class: "slider" }, slider, shown),
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
