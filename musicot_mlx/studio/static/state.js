/**
 * What the page knows, and who wants to be told when it changes. The server holds all that
 * counts.
 */

/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./types.js").Song} Song */
/** @typedef {import("./types.js").Model} Model */
/** @typedef {import("./types.js").Studio} Studio */
/** @typedef {import("./drag.js").Thing} Thing */

/** @typedef {"plan" | "songs" | "progress" | "take" | "silent"} Topic */

export const state = {
  /** @type {Studio | null} */
  studio: null,
  /** @type {Plan | null} as it stands on the server */
  plan: null,
  /** @type {Plan | null} what an edit would make of it, while a slider moves */
  preview: null,
  /** @type {Map<string, Song>} */
  songs: new Map(),
  /** @type {string | null} the song that is heard and held against the plan */
  take: null,
  /** @type {string | null} songs made together where no plan holds them together */
  group: null,
  /** @type {Set<string>} songs that were opened beside the plan though it is not theirs any more */
  guests: new Set(),
  /** Goes up when segments may be others, or elsewhere: what was meant for one may miss it. */
  order: 0,
  /** @type {string[] | null} words of one's own that the heat map is read by */
  anchors: null,
  /** @type {Thing | null} what was copied, to be put on a segment */
  clipboard: null,
};

/** @type {Map<Topic, Set<(detail?: any) => void>>} */
const listeners = new Map();

/** @param {Topic} topic @param {(detail?: any) => void} listener */
export function on(topic, listener) {
  const there = listeners.get(topic) ?? new Set();
  listeners.set(topic, there.add(listener));
}

/** @param {Topic} topic @param {unknown} [detail] */
export function tell(topic, detail) {
  for (const listener of listeners.get(topic) ?? []) listener(detail);
}

/** The plan that is drawn. */
export const shownPlan = () => state.preview ?? state.plan;

/** @param {string | null | undefined} name @returns {Model | undefined} */
export const modelOf = (name) => state.studio?.models.find((model) => model.name === name);

/** @param {Model | undefined} model @returns {boolean} */
export const plans = (model) => Boolean(model?.capabilities.includes("plan"));

/**
 * The songs side by side: those of the plan, or those that were made together. What was asked for
 * last comes first, its seeds in order.
 */
export function takes() {
  /** @type {Map<string, number>} */
  const begun = new Map();
  for (const { group, number } of state.songs.values()) {
    begun.set(group, Math.min(number, begun.get(group) ?? number));
  }
  const rank = (/** @type {Song} */ song) => begun.get(song.group) ?? 0;
  const all = [...state.songs.values()].sort((a, b) => rank(b) - rank(a) || a.number - b.number);
  const ours = (/** @type {Song} */ song) =>
    state.plan ? song.plan?.id === state.plan.id : song.group === state.group;
  return all.filter((song) => ours(song) || state.guests.has(song.id));
}

/** @param {Song} song @returns {boolean} */
export const isOpen = (song) => song.status === "queued" || song.status === "running";

/**
 * What is remembered in this browser alone: taste and drafts.
 * @param {string} key
 * @returns {any}
 */
export function remembered(key) {
  try {
    return JSON.parse(localStorage.getItem(`studio.${key}`) ?? "null");
  } catch {
    return null;
  }
}

/** @param {string} key @param {unknown} value */
export function remember(key, value) {
  try {
    localStorage.setItem(`studio.${key}`, JSON.stringify(value));
  } catch {
    // storage is shut or full: nothing that the server has is lost
  }
}
