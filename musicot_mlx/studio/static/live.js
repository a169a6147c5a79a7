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
  const here = peaks.get(song.id) ?? [];
  peaks.set(song.id, found.peaks.length > here.length ? found.peaks : here);
  paces.set(song.id, found.per_second);
  tell("progress", song.id);
}

/** @param {string} song id */
export function forgetPeaks(song) {
  peaks.delete(song);
  asked.delete(song);
}

/**
 * Follow the server's events for as long as the page is open.
 * @param {(connected: boolean) => void} connection
 */
export function follow(connection) {
  const events = new EventSource("/v1/events");
  /** @param {string} name @param {(data: any) => void} act */
  const hear = (name, act) =>
    events.addEventListener(name, (event) =>
      act(JSON.parse(/** @type {MessageEvent} */ (event).data)),
    );

  events.addEventListener("open", () => connection(true));
  events.addEventListener("error", () => connection(false));
  hear("reset", () => {
    asked.clear();
    void loadSongs("limit=100").catch(() => connection(false));
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
    there.splice(Math.round(from * pace), more.length, ...more);
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
}
