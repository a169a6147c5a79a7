/** The page, put together: what the server has is loaded, and each part is mounted in its place. */
import * as api from "./api.js";
import * as desk from "./desk.js";
import { byId, clock, fill, h, iconButton } from "./dom.js";
import { keysButton } from "./keys.js";
import { follow } from "./live.js";
import { announce, sayError } from "./says.js";
import * as score from "./score.js";
import * as session from "./session.js";
import * as side from "./side.js";
import { isOpen, on, remember, remembered, state } from "./state.js";
import * as transport from "./transport.js";

const ANEW = "#new";
const THEMES = /** @type {const} */ (["auto", "light", "dark"]);

async function begin() {
  const queue = byId("queue");
  try {
    state.studio = await api.models();
  } catch (error) {
    sayError(queue, error);
    return;
  }
  state.anchors = remembered("anchors");
  desk.mount(byId("desk"));
  score.mount(byId("score"));
  transport.mount(byId("transport"));
  transport.keys(session.chooseTake);
  const panels = h("span", { class: "row" });
  const anew = iconButton("plus", "New song", startAnew);
  const open = () => void desk.openDocument();
  const opening = iconButton("open", "Open a song's .json, or a plan", open);
  anew.append(h("span", { class: "tool-name" }, "New"));
  opening.append(h("span", { class: "tool-name" }, "Open"));
  fill(byId("tools"), anew, opening, panels, keysButton(), themeButton());
  side.mount(byId("side"), panels);
  // what is dropped beside its place must not replace the page
  for (const name of ["dragover", "drop"])
    addEventListener(name, (event) => event.preventDefault());
  on("songs", () => showQueue(queue, true));
  on("progress", () => showQueue(queue, true));
  await resume();
  follow((connected) => showQueue(queue, connected));
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

/** The plan that was open, else the newest one; none at an address that ends in #new. */
async function resume() {
  const named =
    location.hash === ANEW ? "" : (/^#(p_[\w-]+)$/.exec(location.hash)?.[1] ?? remembered("plan"));
  const newest = async () => (await api.plans(1)).plans[0]?.id;
  const [plan] = await Promise.all([
    (named === null ? newest() : Promise.resolve(named))
      .then((id) => (id ? api.plan(id, state.anchors) : null))
      .catch(() => null), // deleted, or of a model that is gone: the page begins empty
    session.loadSongs("limit=100").catch(() => undefined),
  ]);
  if (!plan) return;
  const drafted = desk.drafted(plan.id);
  session.showPlan(plan);
  if (!drafted) desk.fillFromPlan(plan);
}

function startAnew() {
  state.group = null;
  session.showPlan(null);
  history.replaceState(null, "", ANEW);
  remember("plan", "");
  desk.clear();
}

/**
 * What is being made, wherever it was asked for.
 * @param {HTMLElement} where
 * @param {boolean} connected
 */
function showQueue(where, connected) {
  if (!connected) {
    const lost = "The studio's server does not answer; trying again …";
    if (!where.dataset.kind) announce(lost);
    sayError(where, lost);
    return;
  }
  delete where.dataset.kind;
  const open = [...state.songs.values()].filter(isOpen);
  const running = open.find((song) => song.status === "running");
  const left = running?.progress?.seconds_left;
  const waiting = open.length - (running ? 1 : 0);
  const parts = running ? [`Making “${running.title}”`] : [];
  if (left !== null && left !== undefined) parts.push(`${clock(Math.ceil(left))} left`);
  if (waiting) parts.push(`${waiting} waiting`);
  const text = parts.join(" · ");
  if (where.textContent !== text) where.textContent = text;
}

function themeButton() {
  const root = document.documentElement;
  const button = iconButton("theme", "", () => {
    const next =
      THEMES[(THEMES.indexOf(/** @type {any} */ (root.dataset.theme)) + 1) % THEMES.length];
    root.dataset.theme = next;
    remember("theme", next);
    name();
  });
  const name = () => {
    const theme = root.dataset.theme === "auto" ? "as the system has it" : root.dataset.theme;
    button.title = `Theme: ${theme}`;
    button.setAttribute("aria-label", button.title);
    dispatchEvent(new Event("resize"));
  };
  name();
  return button;
}

void begin();
