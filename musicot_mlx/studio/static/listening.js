/**
 * The player, and which song it plays: the chosen take, from its first second on while it is
 * made.
 */
import { ApiError } from "./api.js";
import { Player } from "./player.js";
import { listen } from "./sound.js";
import { isOpen, modelOf, on, remember, remembered, state, tell } from "./state.js";

/** @typedef {import("./sound.js").Sound} Sound */
/** @typedef {import("./types.js").Song} Song */

const KEPT = 8; // sounds in memory
const WHOLE = 0.9; // of the duration that was asked for: loops are of whole bars

export const player = new Player();

/** @typedef {{sound: Promise<Sound>, stop: AbortController, begun: Sound | null}} Entry */

/** @type {Map<string, Entry>} by song, the newest last */
const sounds = new Map();

/** @type {Set<string>} songs that were fetched once more because their end was missing */
const renewed = new Set();

/** @type {string | null} the song that is to play by itself once it can be heard */
let awaited = null;

/** Whether songs play while they are made. */
export const eager = {
  get value() {
    return remembered("eager") ?? true;
  },
  set value(value) {
    remember("eager", value);
  },
};

/** To be called while Render is pressed. @param {string} model */
export function expectSound(model) {
  const rate = modelOf(model)?.sample_rate;
  if (eager.value && rate) player.unlock(rate);
}

/**
 * Let this song play by itself as soon as it can be heard.
 * @param {string} song id
 */
export function awaitSound(song) {
  if (player.playing) player.pause();
  awaited = song;
  void follow();
}

/** Silence of a song that is made no more. @param {string} song id */
export function stopSound(song) {
  if (awaited === song) awaited = null;
  if (state.take === song) player.pause();
}

/** @param {string} song id */
export function forgetSound(song) {
  sounds.get(song)?.stop.abort();
  sounds.delete(song);
  if (state.take === song) player.use(null);
}

/** @param {string} song id @returns {Promise<Sound>} */
function soundOf(song) {
  const there = sounds.get(song);
  if (there) return there.sound;
  const stop = new AbortController();
  const sound = listen(song, stop.signal);
  /** @type {Entry} */
  const entry = { sound, stop, begun: null };
  sounds.set(song, entry);
  sound.then(
    (begun) => (entry.begun = begun),
    () => sounds.delete(song),
  );
  for (const old of [...sounds.keys()].slice(0, -KEPT)) forgetSound(old);
  return sound;
}

/** The player takes up the chosen song where it is, or begins with it if that was awaited. */
async function follow() {
  // an answer that is still waited for holds one of the few connections that a browser has
  for (const [id, entry] of sounds) if (!entry.begun && id !== state.take) forgetSound(id);
  const song = state.take ? state.songs.get(state.take) : undefined;
  if (!song || song.status === "failed") {
    player.use(null);
    return;
  }
  let sound;
  try {
    sound = await soundOf(song.id);
  } catch (error) {
    if (state.take === song.id) player.use(null);
    if (song.status === "done" && error instanceof ApiError) tell("silent", { id: song.id, error });
    return;
  }
  if (state.take !== song.id) return;
  player.use(sound);
  if (awaited !== song.id) return;
  awaited = null;
  const kept = state.songs.get(song.id)?.kept?.seconds ?? 0;
  player.seek(Math.max(0, kept - 2)); // shortly before what is new
  player.play();
}

on("take", () => void follow());
on("plan", ({ other }) => {
  if (!other) return;
  player.pause();
  player.seek(0);
});
on("songs", () => {
  for (const [id, { begun }] of sounds) {
    const { status, duration } = state.songs.get(id) ?? {};
    const short = begun?.done && begun.frames < (duration ?? 0) * begun.rate * WHOLE;
    const cut = short && status === "done" && !renewed.has(id); // the server was started anew
    if (cut) renewed.add(id);
    if (begun && (cut || status === "queued")) forgetSound(id);
  }
  const song = state.take ? state.songs.get(state.take) : undefined;
  if (song && awaited === song.id && !isOpen(song) && song.status !== "done") awaited = null;
  if (song && !sounds.has(song.id) && song.status !== "queued" && !player.sound) void follow();
});
