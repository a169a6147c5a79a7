/** Songs found by how they sound: by words, by a recording, by one another. */
import * as api from "./api.js";
import { clock, counted, fill, h, icon, iconButton } from "./dom.js";
import { carry, sourceOf, takesDrops } from "./drag.js";
import { player } from "./listening.js";
import { openMenu } from "./popup.js";
import { attempt, clearFault, place, refuse, say, sayError } from "./says.js";
import * as session from "./session.js";
import { state } from "./state.js";
import { work } from "./work.js";

/** @typedef {import("./types.js").Find} Find */
/** @typedef {import("./drag.js").Thing} Thing */

const LIMIT = 20;

export function mount() {
  const says = place();
  const words = h("input", {
    type: "search",
    "aria-label": "Find songs by how they sound",
    placeholder: "dark slow strings",
    autocomplete: "off",
  });
  const list = h("ul", { class: "finds", "aria-label": "Found" });
  const like = h(
    "button",
    {
      type: "button",
      class: "chip",
      on: { click: () => state.clipboard && void findLike(state.clipboard) },
    },
    "Like what was copied",
  );
  const box = h(
    "form",
    { role: "search", on: { submit } },
    h(
      "div",
      { class: "with-button" },
      words,
      h(
        "button",
        { type: "submit", class: "quiet", "aria-label": "Search", title: "Search" },
        icon("search"),
      ),
    ),
  );
  const element = h("div", null, box, says, list);
  takesDrops(element, (things) => void findLike(things[0]));

  let searches = 0; // what was asked for before comes too late
  /**
   * @param {() => Promise<{found: Find[]}>} ask
   * @param {string} what
   * @param {HTMLElement} [field] that it was asked in
   */
  async function find(ask, what, field) {
    const mine = (searches += 1);
    let answer;
    clearFault(words);
    try {
      answer = await work(says, "Searching …", { kind: "search" }, ask);
    } catch (error) {
      if (mine !== searches) return;
      if (field) refuse(field, error);
      else sayError(says, error);
      return;
    }
    if (mine !== searches) return;
    say(
      says,
      answer.found.length
        ? `${counted(answer.found.length, "find")} for ${what}.`
        : `Nothing sounds like ${what}.`,
    );
    fill(
      list,
      answer.found.map((each) => row(each)),
    );
  }

  /** @param {Event} event */
  function submit(event) {
    event.preventDefault();
    const text = words.value.trim();
    if (text) void find(() => api.search({ words: text, limit: LIMIT }), `“${text}”`, words);
  }

  /** @param {Thing} thing */
  async function findLike(thing) {
    const like = await attempt(says, () => sourceOf(thing, says));
    if (like) await find(() => api.search({ like, limit: LIMIT }), thing.title);
  }

  /** @param {Find} found */
  function row(found) {
    const { title, start } = found;
    /** @type {Thing} */
    const thing = { source: { library: found.id, start }, title };
    const more = iconButton("more", `${title}: what can be done`, () => menu(more, found, thing), {
      "aria-haspopup": "menu",
    });
    const hear = iconButton("play", `Hear ${title}`, () => preview(found, hear, says));
    const about = [
      `${clock(start)} of ${clock(found.duration)}`,
      found.key,
      found.tempo ? `${Math.round(found.tempo)} BPM` : null,
      found.prompt,
    ];
    return h(
      "li",
      {
        class: "find",
        draggable: "true",
        on: { dragstart: (/** @type {DragEvent} */ event) => carry(event, thing) },
      },
      h("span", { class: "title", title, dir: "auto" }, title),
      h("span", { class: "about" }, about.filter(Boolean).join(" · ")),
      h("span", { class: "acts" }, hear, more),
    );
  }

  /** @param {HTMLElement} anchor @param {Find} found @param {Thing} thing */
  function menu(anchor, found, thing) {
    const { title } = found;
    const put = async (/** @type {number} */ at) => {
      const body = { edit: "replace", segments: [at], source: thing.source };
      const edit = () => session.edit(body);
      const text = `Listening to ${title} …`;
      const done = await attempt(says, () => work(says, text, { kind: "segment" }, edit));
      if (done) say(says, `Segment ${at + 1} now follows ${title}.`);
    };
    openMenu(anchor, title, [
      {
        label: "Copy",
        act: () => {
          state.clipboard = thing;
          say(says, `Copied ${title}; press V on a segment to put it there.`);
        },
      },
      { label: "More like this", act: () => void find(() => api.similar(found.id), title) },
      "line",
      ...(state.plan?.segments ?? []).map((segment) => ({
        label: `Put on segment ${segment.index + 1}`,
        disabled: segment.locked,
        act: () => void put(segment.index),
      })),
    ]);
  }

  return {
    element,
    /** @param {boolean} focus */
    open(focus) {
      if (focus) words.focus();
      if (like.isConnected !== Boolean(state.clipboard))
        state.clipboard ? box.after(like) : like.remove();
      if (list.childElementCount) return;
      void api.libraryStats().then(
        (stats) => {
          if (!says.textContent)
            say(
              says,
              stats.songs
                ? `${counted(stats.songs, "song")}; those made here are added by themselves.`
                : "Songs that are made here can be found here; for others: musicot library add.",
            );
        },
        (error) => say(says, error.message),
      );
    },
  };
}

/** @type {HTMLAudioElement | null} */
let heard = null;

/**
 * The ten seconds that were found.
 * @param {Find} found @param {HTMLElement} button @param {HTMLElement} where
 */
function preview(found, button, where) {
  const same = heard && button.getAttribute("aria-pressed") === "true";
  heard?.pause();
  for (const other of document.querySelectorAll(".find [aria-pressed]"))
    other.removeAttribute("aria-pressed");
  heard = null;
  if (same) return;
  if (player.playing) player.pause();
  const { start } = found;
  const end = start + found.seconds;
  heard = new Audio(`/v1/library/${found.id}/audio#t=${start},${end}`);
  button.setAttribute("aria-pressed", "true");
  heard.addEventListener("pause", () => button.removeAttribute("aria-pressed"));
  void heard.play().catch((error) => {
    button.removeAttribute("aria-pressed");
    if (error.name !== "AbortError") sayError(where, "Its file is gone, or can't be played here.");
  });
}
