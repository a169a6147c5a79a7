/** What was planned and made today, and before: each opens again with all that it was made by. */
import * as api from "./api.js";
import { clock, fill, h, iconButton, refill } from "./dom.js";
import { carry } from "./drag.js";
import { fillFromPlan } from "./desk.js";
import { attempt, place } from "./says.js";
import * as session from "./session.js";
import { on, state } from "./state.js";
import { menu, open } from "./takes.js";

/** @typedef {import("./types.js").Song} Song */

const PAGE = 50;

export function mount() {
  const says = place();
  const none = h("p", { class: "says" }, "Nothing was made today yet.");
  const songs = h("ul", { class: "finds", "aria-label": "Songs" });
  const plans = h("ul", { class: "finds", "aria-label": "Plans" });
  const older = h("button", { type: "button", class: "chip" }, "Earlier days");
  const element = h(
    "div",
    null,
    says,
    none,
    songs,
    older,
    h("h3", { class: "side-part" }, "Plans"),
    plans,
  );
  let since = midnight();

  /** @type {Map<string, ReturnType<typeof songRow>>} */
  const rows = new Map();
  const draw = () => {
    if (!element.isConnected) return;
    const there = [...state.songs.values()]
      .filter((song) => song.created >= since)
      .sort((a, b) => b.number - a.number);
    const shown = there.map(({ id }) => {
      const row = rows.get(id) ?? songRow(id);
      rows.set(id, row);
      row.update();
      return row.element;
    });
    refill(songs, shown);
    none.hidden = there.length > 0;
  };
  older.addEventListener(
    "click",
    () =>
      void attempt(says, async () => {
        const numbers = [...state.songs.values()].map((song) => song.number);
        const before = since === "" && numbers.length ? `&before=${Math.min(...numbers)}` : "";
        since = "";
        const more = await session.loadSongs(`limit=${PAGE}${before}`);
        older.hidden = more.length < PAGE;
        draw();
      }),
  );

  async function loadPlans() {
    const found = await attempt(says, () => api.plans());
    const at = [...plans.children].findIndex((row) => row.contains(document.activeElement));
    fill(
      plans,
      (found?.plans ?? []).map((plan) =>
        h(
          "li",
          { class: "find" },
          h(
            "button",
            {
              type: "button",
              class: "title link",
              dir: "auto",
              on: { click: () => void openPlan(plan.id) },
            },
            plan.prompt || "from a recording",
          ),
          h("span", { class: "about" }, `${hour(plan.updated)} · ${clock(plan.duration)}`),
        ),
      ),
    );
    if (at >= 0) plans.querySelectorAll("button")[at]?.focus();
  }

  /** @param {string} id */
  async function openPlan(id) {
    await attempt(says, async () => {
      await session.openPlan(id);
      if (state.plan) fillFromPlan(state.plan);
    });
  }

  on("songs", draw);
  on("take", draw);
  on("plan", ({ other }) => other && element.isConnected && void loadPlans());
  return {
    element,
    open() {
      void attempt(says, () =>
        session.loadSongs(`limit=100&since=${encodeURIComponent(midnight())}`),
      );
      void loadPlans();
      draw();
    },
  };
}

/**
 * A song of the list, which stays the same element as long as it is there: the keyboard may be on it.
 * @param {string} id
 */
function songRow(id) {
  const song = () => /** @type {Song} */ (state.songs.get(id));
  const says = place();
  const more = iconButton("more", "", () => menu(more, song(), says), { "aria-haspopup": "menu" });
  const title = h("button", {
    type: "button",
    class: "title link",
    dir: "auto",
    on: { click: () => void open(song(), says) },
  });
  const about = h("span", { class: "about" });
  const element = h(
    "li",
    {
      class: "find",
      draggable: "true",
      on: {
        dragstart: (/** @type {DragEvent} */ event) =>
          carry(event, { source: { song: id, start: 0 }, title: song().title }),
      },
    },
    title,
    about,
    h("span", { class: "acts" }, more),
    says,
  );
  return {
    element,
    update() {
      const { title: name, created, duration, seed, status } = song();
      title.textContent = name;
      title.title = `Open ${name}`;
      more.setAttribute("aria-label", `${name}: what can be done`);
      more.title = `${name}: what can be done`;
      const parts = [hour(created), clock(duration), `seed ${seed}`];
      about.textContent = [...parts, status === "done" ? null : status].filter(Boolean).join(" · ");
      if (id === state.take) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
    },
  };
}

/** When this day began here, as the server writes times. */
function midnight() {
  const day = new Date();
  day.setHours(0, 0, 0, 0);
  return day.toISOString();
}

/** @param {string} time as the server writes it */
function hour(time) {
  return new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}
