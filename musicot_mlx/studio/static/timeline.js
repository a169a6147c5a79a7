/** The plan as it lies in time: chords and beats, sections, and the heat map of its segments. */
import { clock, h, iconButton } from "./dom.js";
import { share } from "./heard.js";

/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./heard.js").Outcome} Outcome */

const SVG = "http://www.w3.org/2000/svg";

/** Columns of a grid, one a segment. @param {Plan} plan */
export const columns = (plan) =>
  plan.segments.map(({ start, end }) => `minmax(0, ${(end - start).toFixed(3)}fr)`).join(" ");

/** @param {Plan} plan */
export function chordLane(plan) {
  const length = plan.duration;
  const said = plan.chords.map(({ chord, start }) => `${chord} at ${clock(start)}`).join(", ");
  const lane = h("div", {
    class: "chords",
    role: "img",
    "aria-label": said ? `Chords: ${said}` : "Chords are left open",
  });
  lane.append(ticks(plan));
  let usual = 0; // seconds of the one before: how close names stand, though the end cuts the last
  let before = "";
  for (const { chord, start, end } of plan.chords) {
    const name = chord === "N" || chord === before ? "" : chord; // one that goes on is named once
    before = chord;
    const seconds = Math.min(end, length) - start;
    const wide = Math.max(seconds, end < length ? 0 : usual);
    usual = seconds;
    const left = `${((start / length) * 100).toFixed(3)}%`;
    const width = `${(wide / length) * 100}%`;
    const room = `${((length - start) / wide) * 100}cqi`; // to the end
    lane.append(
      h(
        "span",
        { class: "chord", title: `${chord}, ${clock(start)}`, vars: { left, width, room } },
        h("span", null, name),
      ),
    );
  }
  return h("div", { class: "lane" }, h("div", { class: "label" }, plan.key ?? "chords"), lane);
}

/** Bars as long ticks, beats as short ones. @param {Plan} plan */
function ticks(plan) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${plan.duration} 10`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "ticks");
  const bars = new Set(plan.bars);
  for (const [kind, times, top] of /** @type {const} */ ([
    ["beat", plan.beats.filter((beat) => !bars.has(beat)), 7],
    ["bar", plan.bars, 0],
  ])) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    path.setAttribute("d", times.map((time) => `M${time.toFixed(3)} ${top}V10`).join(""));
    svg.append(path);
  }
  return svg;
}

/** @param {Plan} plan */
export function sectionLane(plan) {
  const said = plan.sections.map(
    ({ letter, start, end }) => `${letter} from ${clock(start)} to ${clock(end)}`,
  );
  const lane = h("div", {
    class: "sections",
    role: "img",
    "aria-label": `Sections: ${said.join(", ")}`,
  });
  for (const { letter, start, end } of plan.sections) {
    const left = `${(start / plan.duration) * 100}%`;
    const width = `${((end - start) / plan.duration) * 100}%`;
    lane.append(h("span", { class: "section", vars: { left, width } }, letter));
  }
  return h("div", { class: "lane" }, h("div", { class: "label" }, "sections"), lane);
}

/**
 * @param {Plan} plan
 * @param {Outcome[]} outcomes
 * @param {string[]} own words that can be taken out again
 * @param {(anchor: string) => void} remove
 */
export function heatMap(plan, outcomes, own, remove) {
  const head = h(
    "div",
    { role: "row", class: "unseen" },
    h("span", { role: "columnheader" }, "word"),
    plan.segments.map(({ start, end }) =>
      h("span", { role: "columnheader" }, `${clock(start)} to ${clock(end)}`),
    ),
  );
  const rows = plan.anchors.map((anchor, row) =>
    h(
      "div",
      { role: "row", class: "lane heat" },
      h(
        "div",
        { role: "rowheader", class: "label" },
        h("span", { class: "word", title: anchor }, anchor),
        own.includes(anchor)
          ? iconButton("close", `Take out ${anchor}`, () => remove(anchor))
          : null,
      ),
      plan.segments.map((segment, at) => cell(anchor, segment.activity[row], outcomes[at])),
    ),
  );
  const label = "What each segment holds, in standard deviations above a typical one";
  return h("div", { role: "table", "aria-label": label, class: "heat-map" }, head, rows);
}

/** @param {string} anchor @param {number} asked @param {Outcome | undefined} outcome */
function cell(anchor, asked, outcome) {
  const heard = outcome?.same ? outcome.values.get(anchor) : undefined;
  const also = heard === undefined ? "" : `, ${heard.toFixed(1)} heard`;
  const said = `${asked.toFixed(1)} asked${also}`;
  return h(
    "div",
    {
      role: "cell",
      class: "cell",
      title: `${anchor}: ${said}`,
      vars: { asked: share(asked).toFixed(3) },
    },
    h("span", { class: "unseen" }, said),
    heard === undefined
      ? null
      : h("i", { class: "heard", vars: { heard: share(heard).toFixed(3) } }),
  );
}
