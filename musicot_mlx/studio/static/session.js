/** What can be done: each call asks the server, and the page hears of what became of it. */
import * as api from "./api.js";
import { isOpen, modelOf, plans, remember, state, takes, tell } from "./state.js";

/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./types.js").Song} Song */

/** Counts the previews that were asked for. */
let wanted = 0;
/** Edits after which each segment is where it was. */
const IN_PLACE = "replace morph redraw lock unlock chords key transpose set extend".split(" ");

/** @param {Plan | null} plan */
export function showPlan(plan) {
  const other = plan?.id !== state.plan?.id;
  const newer = plan?.version !== state.plan?.version;
  if (other || (newer && !IN_PLACE.includes(plan?.edit?.edit ?? ""))) state.order += 1;
  state.plan = plan;
  state.preview = null;
  wanted += 1; // what a slider asked for before comes too late
  if (other) state.guests.clear();
  if (plan) {
    history.replaceState(null, "", `#${plan.id}`);
    remember("plan", plan.id);
  }
  tell("plan", { other });
  if (other) chooseTake(takes()[0]?.id ?? null);
}

/** @param {string | null} id */
export function chooseTake(id) {
  if (id === state.take) return;
  state.take = id;
  tell("take");
  void hearAgain();
}

/** The chosen take by the words of one's own, unless it is so already. */
export async function hearAgain() {
  const song = state.songs.get(state.take ?? "");
  const known = song?.heard?.anchors;
  if (!song || !known || !state.anchors || state.anchors.every((word) => known.includes(word)))
    return;
  const found = await api.song(song.id, state.anchors).catch(() => null);
  if (found) takeSong(found);
}

/** @param {object} body @returns {Promise<Plan>} */
export async function makePlan(body) {
  const plan = await api.makePlan(body, state.anchors);
  showPlan(plan);
  return plan;
}

/** @param {string} id */
export async function openPlan(id) {
  await inTurn(async () => showPlan(await api.plan(id, state.anchors)));
  await loadSongs("limit=100");
}

/** @type {Promise<unknown>} what is asked of the plan, one after another */
let turns = Promise.resolve();

/**
 * In turn, so that no answer is shown after a later one.
 * @template T
 * @param {() => Promise<T>} ask
 * @returns {Promise<T>}
 */
function inTurn(ask) {
  const done = turns.then(ask);
  turns = done.catch(() => undefined);
  return done;
}

/** The plan as the server has it now, where another tab or a restart may have changed it. */
export const refreshPlan = () => inTurn(refreshed);

async function refreshed() {
  if (!state.plan) return;
  const plan = await api.plan(state.plan.id, state.anchors).catch(() => null);
  if (plan && plan.id === state.plan?.id && plan.version !== state.plan.version) showPlan(plan);
}

/**
 * An edit of the plan as it is seen: where another tab has changed it, it is shown as it is now.
 * @param {Plan} plan @param {object} body
 */
const ofVersion = ({ id, version }, body) =>
  api.edit(id, { ...body, version }, state.anchors).catch(async (error) => {
    if (error.status !== 409) throw error;
    await refreshed();
    throw new Error("The plan was changed elsewhere meanwhile; look at it, and try again.");
  });

/**
 * A change of the plan, after those that are under way.
 * @param {(plan: Plan) => Promise<Plan>} ask
 * @returns {Promise<Plan>}
 */
const change = (ask) =>
  inTurn(async () => {
    const plan = await ask(/** @type {Plan} */ (state.plan));
    if (state.plan?.id === plan.id) showPlan(plan);
    return plan;
  });

/** The plan, once what was asked of it is done. @returns {Promise<Plan | null>} */
export async function settled() {
  await turns;
  return state.plan;
}

/** @param {object} body @returns {Promise<Plan>} */
export const edit = (body) => change((plan) => ofVersion(plan, body));

/** @param {"undo" | "redo"} way @returns {Promise<Plan>} */
export const step = (way) => change((plan) => api.step(plan.id, way, state.anchors));

/**
 * Show what an edit would make of the plan; only the last one asked for is shown.
 * @param {object | null} body null: the plan as it is
 */
export async function preview(body) {
  const mine = (wanted += 1);
  const plan = /** @type {Plan} */ (state.plan);
  const would = body && (await api.edit(plan.id, { ...body, preview: true }, state.anchors));
  if (mine !== wanted) return;
  state.preview = would;
  tell("plan", { other: false });
}

/** @param {string[] | null} anchors */
export async function readBy(anchors) {
  const before = state.anchors;
  state.anchors = anchors;
  try {
    if (state.plan) await change(({ id }) => api.plan(id, anchors));
  } catch (error) {
    state.anchors = before;
    throw error;
  }
  remember("anchors", anchors);
  void hearAgain();
}

/**
 * Queue songs, and listen to the first of them.
 * @param {object} body
 * @returns {Promise<Song[]>}
 */
export async function render(body) {
  const { group, songs } = await api.render(body);
  state.group = group;
  for (const song of songs) meet(song);
  tell("songs");
  chooseTake(songs[0].id);
  return songs;
}

/** Give up what is queued or made of the songs side by side. @param {Song[]} songs */
export async function cancel(songs = takes().filter(isOpen)) {
  for (const song of songs) takeSong({ ...song, status: "cancelled", progress: null });
  const refused = (/** @type {unknown} */ error) => {
    if (/** @type {api.ApiError} */ (error).status !== 409) throw error; // 409: it was done already
  };
  // the last ones first, so that none of them begins in between
  for (const song of [...songs].reverse()) {
    takeSong(
      await api.tellSong(song.id, "cancel").catch((error) => {
        refused(error);
        return api.song(song.id);
      }),
    );
  }
}

/** @param {string} id */
export async function again(id) {
  takeSong(await api.tellSong(id, "again"));
  chooseTake(id);
}

/** How far a song has come, so that an answer doesn't undo what an event told before it. */
const STEPS = { queued: 0, running: 1, done: 2, failed: 2, cancelled: 2 };

/** @param {Song} song out of an answer */
function meet(song) {
  const known = state.songs.get(song.id);
  if (known && STEPS[song.status] < STEPS[known.status]) return;
  state.songs.set(song.id, { ...song, heard: known?.heard ?? song.heard });
}

/** @param {Song} song */
export function takeSong(song) {
  const { heard } = state.songs.get(song.id) ?? {};
  state.songs.set(song.id, { ...song, heard: song.heard ?? heard ?? null });
  tell("songs");
}

/** @param {string} id */
export async function deleteSong(id) {
  await api.deleteSong(id);
  forgetSong(id);
}

/** @param {string} id */
export function forgetSong(id) {
  state.songs.delete(id);
  if (state.take === id) chooseTake(takes()[0]?.id ?? null);
  tell("songs");
}

/** @param {string} query @returns {Promise<Song[]>} */
export async function loadSongs(query) {
  const { songs } = await api.songs(query);
  for (const song of songs) meet(song);
  tell("songs");
  if (!state.take) chooseTake(takes()[0]?.id ?? null);
  return songs;
}

/** The song with its plan, as it was when the song was made. @param {Song} song */
export async function openSong(song) {
  if (plans(modelOf(song.model)) && song.plan) {
    const now = await api.plan(song.plan.id, state.anchors).catch(() => null);
    if (now?.version === song.plan.version) showPlan(now);
    else await makePlan({ song: song.id });
  } else {
    showPlan(null);
  }
  state.group = song.group;
  state.guests.add(song.id);
  state.songs.set(song.id, song);
  tell("songs");
  chooseTake(song.id);
}

/**
 * What the file beside a song, or a plan, holds.
 * @param {unknown} content
 * @param {(wish: any) => void} fillForm
 * @returns {Promise<string[]>} what could not be had again
 */
export async function openSidecar(content, fillForm) {
  const found = await api.openSidecar(content);
  showPlan(found.plan);
  fillForm(found);
  return found.left_out;
}
