/**
 * What happens on the server while the page is open: songs that are made, other tabs, the
 * library.
 */
import * as api from "./api.js";
import { announce } from "./says.js";
import { forgetSong, hearAgain, loadSongs, refreshPlan, takeSong } from "./session.js";
import { isOpen, state, tell } from "./state.js";

/** @typedef {import("./types.js").Song} Song */

/** @type {Map<string, number[]>} the loudest of each stretch of a song, 0 to 255 */
const peaks = new Map();
/** @type {Map<string, number>} stretches a second */
const paces = new Map();
/** @type {Set<string>} */
const asked = new Set();

/** @param {string} song id @returns {{peaks: number[], perSecond: number}} */
export const peaksOf = (song) => ({
  peaks: peaks.get(song) ?? [],
  perSecond: paces.get(song) ?? 20,
});

/** Fetch the peaks of a song unless they are here. @param {Song} song */
export async function needPeaks(song) {
  if (asked.has(song.id) || song.status === "queued") return;
  asked.add(song.id);
  const found = await api.peaks(song.id).catch(() => null);
  if (!found) return;
  const later = (peaks.get(song.id) ?? []).slice(found.peaks.length);
  peaks.set(song.id, [...found.peaks, ...later]);
  paces.set(song.id, found.per_second);
  tell("progress", song.id);
}

/** @param {string} song id */
export function forgetPeaks(song) {
  peaks.delete(song);
  asked.delete(song);
}

/**
 * Follow the server's events while the page is seen. One that is hidden holds no connection, of
 * which a browser has six for all its tabs; seen again it fetches what it missed.
 * @param {(connected: boolean) => void} connection
 */
export function follow(connection) {
  /** @type {EventSource | null} */
  let events = null;
  const look = () => {
    if (document.hidden) {
      events?.close();
      events = null;
    } else {
      events ??= connect(connection);
    }
  };
  document.addEventListener("visibilitychange", look);
  look();
}

/** The songs as the server has them; those that it has no more are forgotten. */
async function reload() {
  asked.clear();
  const songs = await loadSongs("limit=100");
  const oldest = Math.min(...songs.map((song) => song.number));
  const there = new Set(songs.map((song) => song.id));
  for (const { id, number } of [...state.songs.values()]) {
    if (!there.has(id) && (number >= oldest || !songs.length)) forgetSong(id);
  }
}

/** @param {(connected: boolean) => void} connection @returns {EventSource} */
function connect(connection) {
  const events = new EventSource("/v1/events");
  /** @param {string} name @param {(data: any) => void} act */
  const hear = (name, act) =>
    events.addEventListener(name, (event) =>
      act(JSON.parse(/** @type {MessageEvent} */ (event).data)),
    );

  events.addEventListener("open", () => connection(true));
  events.addEventListener("error", () => connection(false));
  hear("reset", () => {
    void reload().catch(() => connection(false));
    void refreshPlan();
  });
  hear("song", (song) => {
    const before = state.songs.get(song.id);
    if (song.status === "queued" && before?.status !== "queued") forgetPeaks(song.id);
    takeSong(song);
    if (state.take === song.id) void hearAgain();
    if (before && isOpen(before) && !isOpen(song))
      announce(`${song.title}, seed ${song.seed}: ${song.error ?? song.status}`);
  });
  hear("progress", ({ song: id, ...progress }) => {
    const song = state.songs.get(id);
    if (song?.status !== "running") return; // it was cancelled here a moment ago
    song.progress = progress;
    song.made_seconds = progress.made_seconds;
    tell("progress", id);
  });
  hear("audio", ({ song: id, from, per_second: pace, peaks: more }) => {
    const there = peaks.get(id) ?? [];
    const at = Math.round(from * pace);
    while (there.length < at) there.push(0); // what was missed is asked for (needPeaks)
    there.splice(at, more.length, ...more);
    peaks.set(id, there);
    paces.set(id, pace);
    tell("progress", id);
  });
  hear("heard", ({ song: id, heard }) => {
    const song = state.songs.get(id);
    if (song) takeSong({ ...song, heard });
    if (state.take === id) void hearAgain();
  });
  hear("deleted", ({ song }) => forgetSong(song));
  hear("plan", ({ plan: id, version }) => {
    if (state.plan?.id === id && state.plan?.version !== version) void refreshPlan();
  });
  return events;
}
