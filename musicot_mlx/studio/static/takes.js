/** Songs of the plan side by side: each a lane with its waveform, as it grows. */
import * as api from "./api.js";
import { clock, h, iconButton, refill } from "./dom.js";
import { carry } from "./drag.js";
import { awaitSound, expectSound, forgetSound, player, stopSound } from "./listening.js";
import { needPeaks, peaksOf } from "./live.js";
import { askWords, openMenu } from "./popup.js";
import { attempt, say, sayError } from "./says.js";
import * as session from "./session.js";
import { fillFrom } from "./desk.js";
import { isOpen, on, state, takes } from "./state.js";
import { work } from "./work.js";
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
      this.name.focus(); // the button goes
      void attempt(this.says, () => session.cancel([this.song]));
    });
    this.more = iconButton(
      "more",
      "This take: what can be done",
      () => menu(this.more, this.song),
      { "aria-haspopup": "menu" },
    );
    this.bar = h("progress", { max: 1, "aria-label": "Progress" });
    this.text = h("span", { class: "take-text", dir: "auto" });
    this.says = h("span", { class: "says", role: "status" });
    this.element = h(
      "li",
      { class: "lane take", data: { song: id }, draggable: "true" },
      h("div", { class: "label" }, this.name, this.stop, this.more),
      h(
        "div",
        { class: "wave" },
        this.waveform.element,
        h("div", { class: "take-about" }, this.bar, this.text, this.says),
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
  if (song.status === "cancelled")
    return song.made_seconds ? `cancelled at ${clock(song.made_seconds)}` : "cancelled";
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

/**
 * @param {import("./popup.js").Anchor} anchor
 * @param {Song} song
 * @param {HTMLElement} [where] it is told where there is no lane of the song
 */
export function menu(anchor, song, where = says) {
  const done = song.status === "done";
  const formats = state.studio?.export_formats ?? [];
  const path = `/v1/songs/${song.id}`;
  const spoken = () => lanes.get(song.id)?.says ?? where;
  const save = (/** @type {string} */ name) => () => void download(`${path}/${name}`, spoken());
  openMenu(anchor, song.title, [
    { label: "Listen", act: () => listenTo(song), disabled: song.status === "failed" },
    ...formats.map((format) => ({
      label: `Save as ${format.toUpperCase()}`,
      disabled: !done,
      act: save(`file?format=${format}`),
    })),
    ...song.stems.map((stem) => ({
      label: `Save its ${stem}`,
      act: save(`stems/${encodeURIComponent(stem)}`),
    })),
    { label: "Save its settings (.json)", disabled: !done, act: save("sidecar") },
    ...(song.plan ? [{ label: "Save its plan", act: save("plan") }] : []),
    "line",
    { label: "Copy, to put on a segment", disabled: !done, act: () => copy(song, spoken()) },
    { label: "Take over its words and options", act: () => fillFrom(song) },
    { label: "Name it …", act: () => rename(anchor, song, spoken()) },
    {
      label: "Make it again",
      disabled: isOpen(song) || done,
      act: () => void remake(song, spoken()),
    },
    "line",
    {
      label: "Delete",
      danger: true,
      act: () => void attempt(spoken(), () => session.deleteSong(song.id)),
    },
  ]);
}

/** @param {Song} song */
function listenTo(song) {
  expectSound(song.model);
  session.chooseTake(song.id);
  awaitSound(song.id);
}

/** @param {Song} song @param {HTMLElement} where */
function copy(song, where) {
  state.clipboard = { source: { song: song.id, start: 0 }, title: song.title };
  say(where, `Copied ${song.title}; press V on a segment to put it there.`);
}

/** @param {import("./popup.js").Anchor} anchor @param {Song} song @param {HTMLElement} where */
function rename(anchor, song, where) {
  askWords(
    anchor,
    "Name of the song",
    song.title,
    "",
    async (title) => session.takeSong(await api.nameSong(song.id, title)),
    (error) => sayError(where, error),
  );
}

/** @param {Song} song @param {HTMLElement} where */
async function remake(song, where) {
  expectSound(song.model);
  forgetSound(song.id);
  const asked = await attempt(where, async () => {
    await session.again(song.id);
    return true;
  });
  if (asked) awaitSound(song.id);
}

/**
 * A file of the server, into the browser's downloads.
 * @param {string} path
 * @param {HTMLElement} where it is told how it goes
 */
export async function download(path, where) {
  await attempt(where, async () => {
    const { blob, name } = await work(where, "Saving …", {}, () => api.file(path));
    const href = URL.createObjectURL(blob);
    const link = h("a", { href, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(href), 60_000); // when it was surely taken
    say(where, `Saved ${name}.`);
  });
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
    refill(list, elements);
    for (const lane of lanes.values()) lane.update();
    older.hidden = songs.length <= some.length && !all;
    older.textContent = all ? "Fewer takes" : `${songs.length - some.length} earlier`;
  };

  on("silent", ({ id, error }) => sayError(lanes.get(id)?.says ?? says, error));
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
