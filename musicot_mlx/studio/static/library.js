/** Songs found by how they sound: by words, by a recording, by one another. */
import * as api from "./api.js";
import { clock, counted, fill, h, icon, iconButton } from "./dom.js";
import { carry, sourceOf, takesDrops } from "./drag.js";
import { player } from "./listening.js";
import { openMenu } from "./popup.js";
import { attempt, place, say } from "./says.js";
import * as session from "./session.js";
import { state } from "./state.js";

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

  /** @param {() => Promise<{found: Find[]}>} ask @param {string} what */
  async function find(ask, what) {
    say(says, "Searching …");
    const answer = await attempt(says, ask);
    if (!answer) return;
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
    if (text) void find(() => api.search({ words: text, limit: LIMIT }), `“${text}”`);
  }

  /** @param {Thing} thing */
  const findLike = (thing) =>
    find(async () => api.search({ like: await sourceOf(thing), limit: LIMIT }), thing.title);

  /** @param {Find} found */
  function row(found) {
    const { title, start } = found;
    /** @type {Thing} */
    const thing = { source: { library: found.id, start }, title };
    const more = iconButton("more", `${title}: what can be done`, () => menu(more, found, thing), {
      "aria-haspopup": "menu",
    });
    const hear = iconButton("play", `Hear ${title}`, () => preview(found, hear));
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
      h("span", { class: "title", title }, title),
      h("span", { class: "about" }, about.filter(Boolean).join(" · ")),
      h("span", { class: "acts" }, hear, more),
    );
  }

  /** @param {HTMLElement} anchor @param {Find} found @param {Thing} thing */
  function menu(anchor, found, thing) {
    const put = (/** @type {number} */ at) => async () => {
      const source = await sourceOf(thing);
      const done = await attempt(says, () =>
        session.edit({ edit: "replace", segments: [at], source }),
      );
      if (done) say(says, `Segment ${at + 1} now follows ${thing.title}.`);
    };
    openMenu(anchor, found.title, [
      {
        label: "Copy",
        act: () => {
          state.clipboard = thing;
          say(says, `Copied ${thing.title}; press V on a segment to put it there.`);
        },
      },
      { label: "More like this", act: () => void find(() => api.similar(found.id), found.title) },
      "line",
      ...(state.plan?.segments ?? []).map((segment) => ({
        label: `Put on segment ${segment.index + 1}`,
        disabled: segment.locked,
        act: () => void put(segment.index)(),
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
              stats.songs === undefined
                ? ""
                : `${counted(stats.songs, "song")}; those made here are added by themselves.`,
            );
        },
        (error) => say(says, error.message),
      );
    },
  };
}

/** @type {HTMLAudioElement | null} */
let heard = null;

/** The ten seconds that were found. @param {Find} found @param {HTMLElement} button */
function preview(found, button) {
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
  void heard.play().catch(() => button.removeAttribute("aria-pressed"));
}
