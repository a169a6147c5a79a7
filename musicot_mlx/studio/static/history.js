/** What was planned and made today, and before: each opens again with all that it was made by. */
import * as api from "./api.js";
import { clock, fill, h, iconButton } from "./dom.js";
import { carry } from "./drag.js";
import { fillFromPlan } from "./desk.js";
import { attempt, place, say } from "./says.js";
import * as session from "./session.js";
import { on, state } from "./state.js";
import { menu, open } from "./takes.js";

/** @typedef {import("./types.js").Song} Song */

const PAGE = 50;

export function mount() {
  const says = place();
  const songs = h("ul", { class: "finds", "aria-label": "Songs" });
  const plans = h("ul", { class: "finds", "aria-label": "Plans" });
  const older = h("button", { type: "button", class: "chip" }, "Earlier days");
  const element = h(
    "div",
    null,
    says,
    songs,
    older,
    h("h3", { class: "side-part" }, "Plans"),
    plans,
  );
  let since = midnight();

  const draw = () => {
    if (!element.isConnected) return;
    const there = [...state.songs.values()]
      .filter((song) => song.created >= since)
      .sort((a, b) => b.number - a.number);
    fill(songs, there.map(row));
    say(says, there.length ? "" : "Nothing was made today yet.");
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

  /** @param {Song} song */
  function row(song) {
    const more = iconButton("more", `${song.title}: what can be done`, () => menu(more, song), {
      "aria-haspopup": "menu",
    });
    const time = hour(song.created);
    const about = [
      time,
      clock(song.duration),
      `seed ${song.seed}`,
      song.status === "done" ? null : song.status,
    ];
    return h(
      "li",
      {
        class: "find",
        draggable: "true",
        "aria-current": song.id === state.take ? "true" : null,
        on: {
          dragstart: (/** @type {DragEvent} */ event) =>
            carry(event, { source: { song: song.id, start: 0 }, title: song.title }),
        },
      },
      h(
        "button",
        {
          type: "button",
          class: "title link",
          title: `Open ${song.title}`,
          on: { click: () => void open(song, says) },
        },
        song.title,
      ),
      h("span", { class: "about" }, about.filter(Boolean).join(" · ")),
      h("span", { class: "acts" }, more),
    );
  }

  async function loadPlans() {
    const found = await attempt(says, () => api.plans());
    fill(
      plans,
      (found?.plans ?? []).map((plan) =>
        h(
          "li",
          { class: "find" },
          h(
            "button",
            { type: "button", class: "title link", on: { click: () => void openPlan(plan.id) } },
            plan.prompt || "from a recording",
          ),
          h("span", { class: "about" }, `${hour(plan.updated)} · ${clock(plan.duration)}`),
        ),
      ),
    );
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
