/** Songs of the plan side by side: each a lane with its waveform, as it grows. */
import * as api from "./api.js";
import { clock, fill, h, iconButton } from "./dom.js";
import { carry } from "./drag.js";
import { awaitSound, expectSound, forgetSound, player, stopSound } from "./listening.js";
import { needPeaks, peaksOf } from "./live.js";
import { askWords, openMenu } from "./popup.js";
import { attempt, say, sayError } from "./says.js";
import * as session from "./session.js";
import { fillFrom } from "./desk.js";
import { isOpen, on, state, takes } from "./state.js";
import { Waveform } from "./waveform.js";

/** @typedef {import("./types.js").Song} Song */

const SHOWN = 4; // lanes; the rest is a press away

/** @type {Map<string, Lane>} */
const lanes = new Map();
let all = false;
/** @type {HTMLElement} */
let says;

export class Lane {
  /** @param {string} id of the song */
  constructor(id) {
    this.id = id;
    this.waveform = new Waveform({ duration: 1, onSeek: (seconds) => seek(id, seconds) });
    this.name = h("button", {
      type: "button",
      class: "take-name",
      on: { click: () => choose(id) },
    });
    this.stop = iconButton("close", "Cancel this take", () => {
      stopSound(id);
      void attempt(says, () => session.cancel([this.song]));
    });
    this.more = iconButton(
      "more",
      "This take: what can be done",
      () => menu(this.more, this.song),
      { "aria-haspopup": "menu" },
    );
    this.bar = h("progress", { max: 1, "aria-label": "Progress" });
    this.text = h("span", { class: "take-text" });
    this.element = h(
      "li",
      { class: "lane take", data: { song: id }, draggable: "true" },
      h("div", { class: "label" }, this.name, this.stop, this.more),
      h(
        "div",
        { class: "wave" },
        this.waveform.element,
        h("div", { class: "take-about" }, this.bar, this.text),
      ),
    );
    this.element.addEventListener("dragstart", (event) =>
      carry(event, { source: { song: id, start: 0 }, title: this.song.title }),
    );
  }

  get song() {
    return /** @type {Song} */ (state.songs.get(this.id));
  }

  update() {
    const song = this.song;
    const chosen = state.take === song.id;
    const name = `Seed ${song.seed}`;
    if (this.name.textContent !== name) this.name.textContent = name;
    this.name.title = `Listen to ${song.title}, seed ${song.seed}`;
    this.name.setAttribute("aria-pressed", String(chosen));
    this.element.classList.toggle("chosen", chosen);
    this.element.dataset.status = song.status;
    this.stop.hidden = !isOpen(song);
    this.bar.hidden = song.status !== "running";
    this.bar.value = song.progress?.fraction ?? 0;
    this.text.textContent = about(song);
    this.text.classList.toggle("alarm", song.status === "failed");
    this.waveform.duration = state.plan?.duration ?? song.duration;
    this.waveform.kept = song.kept?.seconds ?? 0;
    this.waveform.position = chosen ? player.position : 0;
    Object.assign(this.waveform, peaksOf(song.id));
    this.waveform.draw();
    void needPeaks(song);
  }
}

/** @param {Song} song @returns {string} */
function about(song) {
  if (song.status === "failed") return song.error ?? "It could not be made.";
  if (song.status === "queued")
    return song.position ? `waits, ${song.position} before it` : "begins";
  if (song.status === "cancelled") return `cancelled at ${clock(song.made_seconds)}`;
  const kept = song.kept;
  const saved = kept?.saved_seconds ? `, which saved ${kept.saved_seconds.toFixed(1)} s` : "";
  const parts = kept ? [`kept the first ${clock(kept.seconds)}${saved}`] : [];
  if (song.status === "running") {
    const { stage = "begins", fraction = 0, seconds_left: left } = song.progress ?? {};
    parts.push(`${stage}, ${Math.round(fraction * 100)} %`);
    if (left !== null && left !== undefined) parts.push(`${Math.ceil(left)} s left`);
    return parts.join(" · ");
  }
  if (song.render_seconds) parts.push(`made in ${song.render_seconds.toFixed(1)} s`);
  if (song.chosen) parts.push(`the best of ${song.chosen.scores.length}, seed ${song.chosen.kept}`);
  if (song.heard?.mean_cosine) parts.push(`like its plan: ${song.heard.mean_cosine.toFixed(2)}`);
  return [...parts, ...song.warnings].join(" · ");
}

/** @param {string} id */
function choose(id) {
  session.chooseTake(id);
}

/** @param {string} id @param {number} seconds */
function seek(id, seconds) {
  session.chooseTake(id);
  player.seek(seconds);
}

/** @param {HTMLElement} anchor @param {Song} song */
export function menu(anchor, song) {
  const done = song.status === "done";
  const formats = state.studio?.export_formats ?? [];
  const path = `/v1/songs/${song.id}`;
  openMenu(anchor, song.title, [
    { label: "Listen", act: () => listenTo(song), disabled: song.status === "failed" },
    ...formats.map((format) => ({
      label: `Save as ${format.toUpperCase()}`,
      disabled: !done,
      act: () => download(`${path}/file?format=${format}`),
    })),
    ...song.stems.map((stem) => ({
      label: `Save its ${stem}`,
      act: () => download(`${path}/stems/${encodeURIComponent(stem)}`),
    })),
    { label: "Save its settings (.json)", disabled: !done, act: () => download(`${path}/sidecar`) },
    ...(song.plan ? [{ label: "Save its plan", act: () => download(`${path}/plan`) }] : []),
    "line",
    { label: "Copy, to put on a segment", act: () => copy(song) },
    { label: "Take over its words and options", act: () => fillFrom(song) },
    { label: "Name it …", act: () => rename(anchor, song) },
    { label: "Make it again", disabled: isOpen(song) || done, act: () => void remake(song) },
    "line",
    {
      label: "Delete",
      danger: true,
      act: () => void attempt(says, () => session.deleteSong(song.id)),
    },
  ]);
}

/** @param {Song} song */
function listenTo(song) {
  session.chooseTake(song.id);
  awaitSound(song.id);
}

/** @param {Song} song */
function copy(song) {
  state.clipboard = { source: { song: song.id, start: 0 }, title: song.title };
  say(says, `Copied ${song.title}; press V on a segment to put it there.`);
}

/** @param {HTMLElement} anchor @param {Song} song */
function rename(anchor, song) {
  askWords(
    anchor,
    "Name of the song",
    song.title,
    "",
    (title) => void attempt(says, async () => session.takeSong(await api.nameSong(song.id, title))),
  );
}

/** @param {Song} song */
async function remake(song) {
  expectSound(song.model);
  forgetSound(song.id);
  await attempt(says, () => session.again(song.id));
  awaitSound(song.id);
}

/** A file of the server, into the browser's downloads. @param {string} href */
export function download(href) {
  const link = h("a", { href, download: "" });
  document.body.append(link);
  link.click();
  link.remove();
}

/** @param {HTMLElement} where @returns {HTMLElement} */
export function mount(where) {
  says = where;
  const list = h("ol", { class: "takes", "aria-label": "Takes" });
  const older = h("button", {
    type: "button",
    class: "chip older",
    on: {
      click: () => {
        all = !all;
        draw();
      },
    },
  });

  const draw = () => {
    const songs = takes();
    const some = all
      ? songs
      : songs.filter((song, at) => at < SHOWN || song.id === state.take || isOpen(song));
    for (const [id, lane] of lanes) {
      if (some.some((song) => song.id === id)) continue;
      lane.waveform.remove();
      lanes.delete(id);
    }
    const elements = some.map((song) => {
      const lane = lanes.get(song.id) ?? new Lane(song.id);
      lanes.set(song.id, lane);
      return lane.element;
    });
    const there = [...list.children];
    if (elements.length !== there.length || elements.some((element, at) => element !== there[at]))
      fill(list, elements);
    for (const lane of lanes.values()) lane.update();
    older.hidden = songs.length <= some.length && !all;
    older.textContent = all ? "Fewer takes" : `${songs.length - some.length} earlier`;
  };

  on("songs", draw);
  on("take", draw);
  on("plan", draw);
  on("progress", (/** @type {string} */ id) => lanes.get(id)?.update());
  player.addEventListener("move", () => {
    const lane = lanes.get(state.take ?? "");
    if (!lane) return;
    lane.waveform.position = player.position;
    lane.waveform.draw();
  });
  return h("div", null, list, older);
}

/** @param {Song} song @param {HTMLElement} where */
export async function open(song, where) {
  try {
    await session.openSong(song);
    fillFrom(song);
  } catch (error) {
    sayError(where, error);
  }
}
