/**
 * The segments as cards: each takes words, files, finds and other segments, by dropping, by its
 * menu, and by keys while it has the focus.
 */
import { controlsOf, openControls } from "./controls.js";
import { clock, fill, h, iconButton } from "./dom.js";
import { carry, chooseFiles, sourceOf, takesDrops } from "./drag.js";
import { openMorph } from "./morph.js";
import { askWords, openMenu } from "./popup.js";
import { announce, place, say, sayError } from "./says.js";
import * as session from "./session.js";
import { modelOf, state } from "./state.js";
import { work } from "./work.js";

/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./types.js").Segment} Segment */
/** @typedef {import("./heard.js").Outcome} Outcome */
/** @typedef {import("./drag.js").Thing} Thing */

/** The segment that the keyboard is on. */
let current = 0;
/** What is told on the cards, by segment: it outlives their being drawn anew. */
/** @type {Map<number, HTMLElement>} */
const notes = new Map();
/** The plan that it is told of. */
let noted = "";
/** @type {HTMLElement} where edits speak */
let says;
/** @type {HTMLElement} */
let list;

/** @param {HTMLElement} where @returns {HTMLElement} */
export function mount(where) {
  says = where;
  list = h("ol", {
    class: "cards",
    "aria-label": "Segments",
    on: { keydown: keys, focusin: follow },
  });
  return h("div", { class: "lane" }, h("div", { class: "label" }, "segments"), list);
}

/** No plan, no cards. */
export function clear() {
  current = 0;
  notes.clear();
  fill(list);
}

/** @param {Plan} plan @param {Outcome[]} outcomes */
export function draw(plan, outcomes) {
  const focused = list.contains(document.activeElement);
  const part = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.part;
  current = Math.min(current, plan.segments.length - 1);
  const now = `${plan.id} ${plan.version}`;
  if (now !== noted) {
    // what was refused is of a plan that is no more; what is under way goes on
    for (const [at, note] of notes) if (!note.querySelector("progress")) notes.delete(at);
    noted = now;
  }
  fill(
    list,
    plan.segments.map((segment, at) => card(plan, segment, outcomes[at])),
  );
  roam();
  if (focused) focus(current, part);
}

/** Where something is told of a segment: on its card. @param {number} at @returns {HTMLElement} */
function noteAt(at) {
  const note = notes.get(at) ?? place();
  note.classList.add("note");
  notes.set(at, note);
  if (!note.isConnected) cardAt(at)?.append(note);
  return note;
}

/** @param {number} at @param {unknown} error */
function refuseAt(at, error) {
  sayError(noteAt(at), error);
  announce(noteAt(at).textContent ?? ""); // a card that is drawn anew is not read by itself
}

/** The Tab key stops at one card and what is in it; the arrows go from card to card. */
function roam() {
  for (const each of list.querySelectorAll(".card")) {
    const stop = Number(/** @type {HTMLElement} */ (each).dataset.segment) === current ? "0" : "-1";
    for (const part of [each, ...each.querySelectorAll("button, [role=button]")]) {
      part.setAttribute("tabindex", stop);
    }
  }
}

/** @param {Plan} plan @param {Segment} segment @param {Outcome | undefined} outcome */
function card(plan, segment, outcome) {
  const at = segment.index;
  const locked = segment.locked ? ", locked" : "";
  const span = `${clock(segment.start)} to ${clock(segment.end)}`;
  const controls = controlsOf(segment);
  const guest =
    segment.words !== null || segment.origin.kind === "audio" || segment.origin.kind === "morph";
  const box = h(
    "div",
    {
      class: "card",
      role: "group",
      draggable: "true",
      data: { segment: at },
      "aria-label": `Segment ${at + 1}, ${span}: ${segment.label}${locked}`,
      on: {
        dragstart: (/** @type {DragEvent} */ event) => carry(event, thingOf(plan, at)),
        contextmenu: (/** @type {Event} */ event) => {
          event.preventDefault();
          menu(at);
        },
      },
    },
    h(
      "div",
      { class: "card-head" },
      h("span", { class: "time" }, clock(segment.start)),
      segment.locked || can("lock")
        ? iconButton(segment.locked ? "lock" : "unlock", "Lock", () => lock(at), {
            "aria-pressed": String(segment.locked),
            class: "quiet lock",
            data: { part: "lock" },
          })
        : null,
      iconButton("more", `Segment ${at + 1}: what can be done`, () => menu(at), {
        "aria-haspopup": "menu",
        class: "quiet",
        data: { part: "menu" },
      }),
    ),
    // no <button>: in Firefox nothing can be dragged by one
    h(
      "div",
      {
        class: "words",
        role: "button",
        data: { part: "words" },
        title: `${segment.label}: press to write other words`,
        on: { click: () => editWords(at), keydown: pressed },
      },
      h("span", { dir: "auto" }, segment.label),
    ),
    controls ? h("p", { class: "controls" }, controls) : null,
    outcome
      ? h(
          "p",
          { class: "outcome", data: { verdict: outcome.same ? (outcome.verdict ?? "") : "old" } },
          verdictOf(outcome),
        )
      : null,
    notes.get(at),
  );
  box.classList.toggle("guest", guest);
  box.classList.toggle("locked", segment.locked);
  box.classList.toggle("changed", plan.preview && plan.changed.includes(at));
  takesDrops(box, (things) => void dropped(things[0], at));
  return h("li", null, box);
}

/** What the keyboard does to a button. @param {KeyboardEvent} event */
function pressed(event) {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  event.stopPropagation();
  /** @type {HTMLElement} */ (event.currentTarget).click();
}

/** @param {Outcome} outcome */
function verdictOf(outcome) {
  if (!outcome.same) return "changed since this take";
  if (outcome.cosine === null) return "nothing heard";
  const words = (outcome.verdict ?? "").replace(/^is /, "");
  return `heard: ${words}, ${outcome.cosine.toFixed(2)}`;
}

/** @param {string} edit */
const can = (edit) => Boolean(modelOf(state.plan?.model)?.edits.includes(edit));

/** @param {Plan} plan @param {number} at @returns {Thing} */
function thingOf(plan, at) {
  const title = `segment ${at + 1}, ${plan.segments[at].label}`;
  return { source: { plan: plan.id, segments: [at] }, title, segment: at };
}

/** @param {number} at @returns {HTMLElement} */
const cardAt = (at) =>
  /** @type {HTMLElement} */ (
    list.querySelectorAll(".card")[Math.min(at, list.childElementCount - 1)]
  );

/** @param {number} at @param {string} [part] of the card: one of its buttons */
function focus(at, part) {
  current = at;
  roam();
  const card = cardAt(at);
  const button = part && card?.querySelector(`[data-part=${part}]`);
  /** @type {HTMLElement | undefined} */ (button || card)?.focus();
}

/** @param {FocusEvent} event */
function follow(event) {
  const card = /** @type {HTMLElement} */ (event.target).closest(".card");
  if (!(card instanceof HTMLElement)) return;
  current = Number(card.dataset.segment);
  roam();
}

/**
 * @param {number} at
 * @param {object} body
 * @param {string} done what to say
 * @param {number} [next] where the keyboard goes
 */
async function edited(at, body, done, next = at) {
  cardAt(at)?.setAttribute("aria-busy", "true");
  const was = current;
  current = next;
  try {
    await session.edit(body);
    say(says, done);
  } catch (error) {
    current = was;
    throw error;
  } finally {
    cardAt(at)?.removeAttribute("aria-busy");
  }
}

/**
 * The same; what is refused is told on the card.
 * @param {number} at
 * @param {object} body
 * @param {string} done
 * @param {number} [next]
 */
const edit = (at, body, done, next) =>
  edited(at, body, done, next).catch((error) => refuseAt(at, error));

/** @param {number} at */
function lock(at) {
  const locked = state.plan?.segments[at].locked;
  return edit(
    at,
    { edit: locked ? "unlock" : "lock", segments: [at] },
    `Segment ${at + 1} is ${locked ? "free" : "locked"}.`,
  );
}

/** @param {number} at */
const redraw = (at) =>
  edit(at, { edit: "redraw", segments: [at] }, `Segment ${at + 1} is drawn anew.`);

/** @param {number} at */
const duplicate = (at) =>
  edit(
    at,
    { edit: "duplicate", segments: [at], times: 1 },
    `Segment ${at + 1} is there twice.`,
    at + 1,
  );

/** @param {number} at */
const remove = (at) =>
  edit(
    at,
    { edit: "delete", segments: [at] },
    `Segment ${at + 1} is gone; Undo brings it back.`,
    Math.max(0, at - 1),
  );

/** @param {number} at @param {number} by */
function move(at, by) {
  const order = (state.plan?.segments ?? []).map((_, index) => index);
  const to = at + by;
  if (to < 0 || to >= order.length) return undefined;
  [order[at], order[to]] = [order[to], order[at]];
  return edit(at, { edit: "arrange", order }, `Segment ${at + 1} is now segment ${to + 1}.`, to);
}

/** @param {number} at */
function copy(at) {
  if (!state.plan) return;
  state.clipboard = thingOf(state.plan, at);
  say(says, `Copied segment ${at + 1}; press V on another one to put it there.`);
}

/** @param {Thing | null} thing @param {number} at */
async function put(thing, at) {
  const { order } = state;
  try {
    if (!thing)
      throw new Error("Nothing was copied yet: press C on a segment, or copy a find or a song.");
    if (state.plan?.segments[at].locked)
      throw new Error(`Segment ${at + 1} is locked; unlock it first.`); // before a file is sent
    const source = await sourceOf(thing, noteAt(at));
    if (state.order !== order) {
      state.clipboard = { source, title: thing.title };
      return say(says, `The plan changed while ${thing.title} came: press V where it is to be.`);
    }
    const text = `Listening to ${thing.title} …`;
    const body = { edit: "replace", segments: [at], source };
    const done = `Segment ${at + 1} now follows ${thing.title}.`;
    await work(noteAt(at), text, { kind: "segment" }, () => edited(at, body, done));
  } catch (error) {
    if (state.order === order) refuseAt(at, error);
    else sayError(says, error);
  }
  return undefined;
}

/** @param {Thing} thing @param {number} at */
async function dropped(thing, at) {
  if (thing.segment === undefined || !can("morph")) return put(thing, at);
  if (thing.segment === at) return undefined;
  const copy = () => void put(thing, at);
  return openMorph(() => cardAt(at), at, thing, { edit: (...wish) => edited(at, ...wish), copy });
}

/** @param {number} at */
async function chooseFile(at) {
  const [file] = await chooseFiles("audio/*");
  if (file) await put({ file, title: file.name }, at);
}

/** @param {number} at */
function editWords(at) {
  const plan = state.plan;
  if (!plan) return;
  const words = plan.segments[at].words ?? "";
  askWords(
    () => cardAt(at),
    `Words of segment ${at + 1}`,
    words,
    plan.prompt ?? "",
    (text) =>
      edited(
        at,
        { edit: "replace", segments: [at], source: { words: text } },
        `Segment ${at + 1} is now “${text}”.`,
      ),
    (error) => refuseAt(at, error),
  );
}

/** @param {number} at */
function insert(at) {
  askWords(
    () => cardAt(at),
    `A new segment before segment ${at + 1}`,
    "",
    "what it should be",
    (text) =>
      edited(
        at,
        { edit: "insert", before: at, source: { words: text }, count: 1 },
        `“${text}” comes before what was segment ${at + 1}.`,
      ),
    (error) => refuseAt(at, error),
  );
}

/** @param {number} at */
function chords(at) {
  askWords(
    () => cardAt(at),
    `Chords of segment ${at + 1}`,
    "",
    "Am F C G, or numerals in the key",
    (text) =>
      edited(
        at,
        { edit: "chords", segments: [at], chords: text },
        `Segment ${at + 1} has the chords ${text}.`,
      ),
    (error) => refuseAt(at, error),
  );
}

/** @param {number} at */
function ownSettings(at) {
  const segment = state.plan?.segments[at];
  if (!segment) return;
  openControls(
    () => cardAt(at),
    segment,
    (controls) =>
      edited(at, { edit: "set", segments: [at], controls }, `Segment ${at + 1} is set.`),
    (error) => refuseAt(at, error),
  );
}

/** @param {number} at */
function morph(at) {
  return openMorph(() => cardAt(at), at, null, { edit: (...wish) => edited(at, ...wish) });
}

/** @param {number} at */
function menu(at) {
  const locked = Boolean(state.plan?.segments[at].locked);
  const last = (state.plan?.segments.length ?? 1) - 1;
  /**
   * Label, key, the edit that it needs, what it does, whether it can't be done now.
   * @type {[string, string, string, () => unknown, boolean?][]}
   */
  const items = [
    ["Other words …", "Enter", "replace", () => editWords(at), locked],
    [locked ? "Unlock" : "Lock", "L", "lock", () => lock(at)],
    ["Draw anew", "R", "redraw", () => redraw(at), locked],
    ["Morph …", "M", "morph", () => morph(at), locked],
    ["From an audio file …", "F", "replace", () => chooseFile(at), locked],
    ["Chords …", "H", "chords", () => chords(at)],
    ["Its own settings …", "S", "set", () => ownSettings(at)],
    ["Copy", "C", "replace", () => copy(at)],
    [
      state.clipboard ? `Paste ${state.clipboard.title}` : "Paste",
      "V",
      "replace",
      () => put(state.clipboard, at),
      locked || !state.clipboard,
    ],
    ["Duplicate", "D", "duplicate", () => duplicate(at)],
    ["Insert before …", "I", "insert", () => insert(at)],
    ["Earlier", "Alt ←", "arrange", () => move(at, -1), at === 0],
    ["Later", "Alt →", "arrange", () => move(at, 1), at === last],
    ["Delete", "Del", "delete", () => remove(at), locked || last === 0],
  ];
  openMenu(
    () => cardAt(at),
    `Segment ${at + 1}`,
    items
      .filter(([, , needs]) => can(needs))
      .map(([label, key, needs, act, disabled]) => ({
        label,
        key,
        disabled,
        danger: needs === "delete",
        act: () => void act(),
      })),
  );
}

/** @type {Record<string, [string, (at: number) => unknown]>} key -> edit it needs, what it does */
const KEYS = {
  Enter: ["replace", editWords],
  F2: ["replace", editWords],
  l: ["lock", lock],
  r: ["redraw", redraw],
  d: ["duplicate", duplicate],
  m: ["morph", morph],
  f: ["replace", chooseFile],
  h: ["chords", chords],
  s: ["set", ownSettings],
  c: ["replace", copy],
  v: ["replace", (at) => put(state.clipboard, at)],
  i: ["insert", insert],
  Delete: ["delete", remove],
  Backspace: ["delete", remove],
};

/** @param {KeyboardEvent} event */
function keys(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const card = target.closest(".card");
  if (!(card instanceof HTMLElement)) return;
  const at = Number(card.dataset.segment);
  const last = (state.plan?.segments.length ?? 1) - 1;
  const command = event.ctrlKey || event.metaKey;
  if (event.altKey && can("arrange") && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    event.preventDefault();
    void move(at, event.key === "ArrowLeft" ? -1 : 1);
    return;
  }
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
  if (to !== undefined && !command && !event.altKey) {
    event.preventDefault();
    focus(Math.min(last, Math.max(0, to)));
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const [needs, act] = KEYS[key] ?? [];
  if (!act || !can(needs ?? "") || event.altKey) return;
  if (command && key !== "c" && key !== "v") return;
  if (key === "Enter" && target !== card) return; // a button within has the key
  event.preventDefault();
  void act(at);
}
