/** The plan and what came of it: the timeline, its cards, the takes, on one axis of time. */
import * as cards from "./cards.js";
import { openDocument, planFrom } from "./desk.js";
import { clock, counted, fill, h, iconButton } from "./dom.js";
import { chooseFiles, takesDrops } from "./drag.js";
import { openHarmony } from "./harmony.js";
import { outcomes } from "./heard.js";
import { player } from "./listening.js";
import { attempt, place, refuse, say, sayError } from "./says.js";
import * as session from "./session.js";
import { modelOf, on, shownPlan, state, takes } from "./state.js";
import * as takesView from "./takes.js";
import { chordLane, columns, heatMap, sectionLane } from "./timeline.js";

/** @typedef {import("./types.js").Plan} Plan */

const LONGER = 10; // seconds that one press adds
const EDGE = 24; // pixels: how near the playhead may come to the right end of what is seen
const BEFORE = 140; // pixels that are seen before it when the timeline moves on

const says = place();
const title = h("h2", null);
const legend = h(
  "p",
  { class: "legend", hidden: true },
  h("i", { class: "asked" }),
  "asked",
  h("i", { class: "heard" }),
  "heard",
);
const undo = iconButton("undo", "Undo", () => void step("undo"), {
  "aria-keyshortcuts": "Control+Z",
});
const redo = iconButton("redo", "Redo", () => void step("redo"), {
  "aria-keyshortcuts": "Control+Shift+Z",
});
const redraw = iconButton(
  "redraw",
  "Draw all that isn't locked anew",
  () => void edit({ edit: "redraw" }, "All that isn't locked is drawn anew."),
);
const longer = h(
  "button",
  {
    type: "button",
    class: "quiet",
    on: { click: () => void edit({ edit: "extend", seconds: LONGER }, `${LONGER} s longer.`) },
  },
  "Longer",
);
const harmony = h(
  "button",
  {
    type: "button",
    class: "quiet",
    "aria-haspopup": "dialog",
    on: { click: () => openHarmony(harmony, edited, (error) => sayError(says, error)) },
  },
  "Harmony",
);
const file = h(
  "button",
  {
    type: "button",
    class: "quiet",
    on: { click: () => void takesView.download(`/v1/plans/${state.plan?.id}/file`, says) },
  },
  "Save plan",
);
const tools = h(
  "div",
  { class: "toolbar", role: "group", "aria-label": "The plan" },
  undo,
  redo,
  redraw,
  longer,
  harmony,
  file,
);

const top = h("div");
const heat = h("div");
const word = h("input", {
  type: "text",
  "aria-label": "A word to read the plan by",
  placeholder: "+ a word",
  autocomplete: "off",
});
const words = h(
  "form",
  { class: "lane own-words", on: { submit: addWord } },
  h("div", { class: "label" }, h("div", { class: "field" }, word)),
);
const playhead = h("div", { class: "playhead", "aria-hidden": "true", hidden: true });
const board = h("div", { class: "board" });
const scroll = h(
  "div",
  { class: "scroll", role: "region", "aria-label": "Timeline", tabindex: 0 },
  board,
);
const empty = h("div", { class: "empty" });
const saysEmpty = place();
/** Where the eye is of whoever drops something on the plan. */
const nearest = () => (empty.hidden ? says : saysEmpty);

/** @param {HTMLElement} root */
export function mount(root) {
  const row = cards.mount(says);
  const lanes = takesView.mount(says);
  fill(board, top, row, heat, words, lanes, playhead);
  fill(root, h("div", { class: "score-head" }, title, legend, tools, says), empty, scroll);
  fill(
    empty,
    h("p", null, "Say what the song should be and plan it: you see it before you hear it."),
    saysEmpty,
    h(
      "div",
      { class: "row" },
      h(
        "button",
        { type: "button", on: { click: () => void choose() } },
        "Plan from a recording …",
      ),
      h(
        "button",
        { type: "button", on: { click: () => void openDocument(undefined, saysEmpty) } },
        "Open a song's .json …",
      ),
    ),
  );
  takesDrops(root, (things) => {
    const document = things[0].file?.name.endsWith(".json");
    void (document ? openDocument(things[0].file, nearest()) : planFrom(things[0], nearest()));
  });

  const draw = () => {
    const plan = shownPlan();
    const any = Boolean(plan) || takes().length > 0;
    if (any && empty.contains(document.activeElement)) root.focus();
    empty.hidden = any;
    scroll.hidden = !any;
    tools.hidden = words.hidden = row.hidden = top.hidden = heat.hidden = !plan;
    title.textContent = plan ? aboutPlan(plan) : any ? "Takes" : "";
    title.hidden = !any;
    board.style.setProperty("--columns", plan ? columns(plan) : "minmax(0, 1fr)");
    board.style.setProperty("--segments", String(plan ? plan.duration / plan.segment_seconds : 3));
    legend.hidden = true;
    if (!plan) {
      for (const part of [top, heat]) fill(part);
      cards.clear();
      return;
    }
    const found = outcomes(plan, state.songs.get(state.take ?? ""));
    legend.hidden = !found.length;
    const timed = plan.chords.length > 0 || plan.bars.length > 0;
    fill(top, timed ? chordLane(plan) : null, sectionLane(plan));
    cards.draw(plan, found);
    fill(
      heat,
      heatMap(plan, found, state.anchors ?? [], (anchor) => void remove(anchor)),
    );
    undo.disabled = !state.plan?.can_undo;
    redo.disabled = !state.plan?.can_redo;
    const can = (/** @type {string} */ edit) => modelOf(plan.model)?.edits.includes(edit);
    redraw.hidden = !can("redraw");
    longer.hidden = !can("extend");
    harmony.hidden = !can("chords") && !can("key");
  };
  on("plan", draw);
  on("take", draw);
  /** @type {unknown} */
  let heard = null;
  on("songs", () => {
    const now = state.songs.get(state.take ?? "")?.heard ?? takes().length > 0;
    if (now !== heard) draw(); // all else of a song is told in its lane
    heard = now;
  });
  let insight = false; // whether the playhead was seen a moment ago
  const move = () => {
    const duration = state.plan?.duration ?? state.songs.get(state.take ?? "")?.duration ?? 1;
    playhead.hidden = !player.sound;
    playhead.style.setProperty("--at", (player.position / duration).toFixed(5));
    if (!player.playing || scroll.scrollWidth <= scroll.clientWidth) return;
    const at = playhead.offsetLeft - scroll.scrollLeft;
    if (insight && at > scroll.clientWidth - EDGE) {
      scroll.scrollTo({ left: playhead.offsetLeft - BEFORE }); // as the page of a score is turned
    }
    insight = at > 0 && at <= scroll.clientWidth - EDGE;
  };
  player.addEventListener("move", move);
  player.addEventListener("change", move);
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey)) return;
    if (target.closest("input, textarea") || !state.plan) return;
    event.preventDefault();
    void step(event.shiftKey ? "redo" : "undo");
  });
  draw();
}

/** @param {Plan} plan */
function aboutPlan(plan) {
  const parts = [clock(plan.duration), counted(plan.segments.length, "segment")];
  if (plan.key) parts.push(plan.key);
  if (plan.bpm) parts.push(`${Math.round(plan.bpm)} beats a minute`);
  return parts.join(" · ");
}

/** @param {object} body @param {string} done */
async function edited(body, done) {
  await session.edit(body);
  say(says, done);
}

/** @param {object} body @param {string} done */
const edit = (body, done) => attempt(says, () => edited(body, done));

/** @param {"undo" | "redo"} way */
async function step(way) {
  const button = way === "undo" ? undo : redo;
  if (button.disabled) return;
  const focused = document.activeElement === button;
  await attempt(says, async () => {
    await session.step(way);
    say(says, way === "undo" ? "Undone." : "Done again.");
  });
  if (focused && button.disabled) (way === "undo" ? redo : undo).focus();
}

/** @param {Event} event */
async function addWord(event) {
  event.preventDefault();
  const text = word.value.trim();
  if (!text || !state.plan) return;
  const asked = text
    .split(",")
    .map((each) => each.trim())
    .filter(Boolean);
  const now = state.anchors ?? state.plan.anchors;
  try {
    await session.readBy([...new Set([...now, ...asked])]);
    word.value = "";
  } catch (error) {
    refuse(word, error);
  }
}

/** @param {string} anchor */
async function remove(anchor) {
  const left = (state.anchors ?? []).filter((each) => each !== anchor);
  await attempt(says, () => session.readBy(left.length ? left : null));
  word.focus();
}

async function choose() {
  const [recording] = await chooseFiles("audio/*");
  if (recording) await planFrom({ file: recording, title: recording.name }, nearest());
}
