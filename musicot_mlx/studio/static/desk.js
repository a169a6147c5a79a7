/** What to make: the words, the options of the model at hand, and the two buttons. */
import { fill, h, iconButton } from "./dom.js";
import { chooseFiles, sourceOf, takesDrops } from "./drag.js";
import { inField, optionField } from "./fields.js";
import { fileField } from "./files.js";
import { awaitSound, eager, expectSound, stopSound } from "./listening.js";
import { attempt, place, refuse, say, sayError } from "./says.js";
import * as session from "./session.js";
import { isOpen, modelOf, on, plans, remember, remembered, state, takes } from "./state.js";
import { work } from "./work.js";

/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./types.js").Model} Model */
/** @typedef {import("./types.js").Adapter} Adapter */
/** @typedef {import("./fields.js").OptionField} OptionField */
/** @typedef {import("./drag.js").Thing} Thing */

/**
 * @typedef {object} Request what a form can be filled with
 * @property {string} model
 * @property {string | null} prompt
 * @property {number} [seed]
 * @property {Record<string, unknown>} options
 * @property {Adapter[]} adapters
 */

/** Options that stand in the first row where the model has them; all others are a press away. */
const FIRST = ["duration", "key", "bpm"];
const EXAMPLES = [
  "mellow lo-fi hip hop with electric piano",
  "bossa nova, soft guitar",
  "dark synth pop in D minor, 110 BPM",
];
const MOST_TAKES = 8;
const LARGEST_SEED = 1e5; // of those that the dice draw

const says = place();
const examples = h("div", { class: "row", hidden: true });
const prompt = h("textarea", {
  class: "prompt",
  id: "prompt",
  rows: 1,
  "aria-label": "What the music should be",
  placeholder: "What should it be?",
  dir: "auto",
  autocomplete: "off",
  spellcheck: "false",
});
const models = h("select", { name: "model" });
const seed = h("input", { id: "seed", type: "number", name: "seed", min: 0, step: 1, value: "0" });
const count = h("input", {
  type: "number",
  name: "takes",
  min: 1,
  max: MOST_TAKES,
  step: 1,
  value: "1",
});
const first = h("div", { class: "first" });
const more = h("div", { class: "more-options", id: "more-options", hidden: true });
const moreButton = h(
  "button",
  { type: "button", class: "quiet", "aria-expanded": "false", "aria-controls": "more-options" },
  "Options",
);
const planButton = h("button", { type: "button", id: "plan" }, "Plan");
const renderButton = h("button", { type: "button", id: "render", class: "primary" }, "Render");
const cancelButton = h("button", { type: "button", id: "cancel", hidden: true }, "Cancel");

/** @type {OptionField[]} */
let fields = [];
/** @type {ReturnType<typeof adapterField>[]} */
let adapters = [];
/** What the plan that is shown was asked for, to notice that the form asks for another. */
let asked = "";
/** @type {Promise<unknown>} the plan that is being made */
let planned = Promise.resolve();

/** The model that the form asks. */
const model = () => /** @type {Model} */ (modelOf(models.value));

/** @param {HTMLElement} root */
export function mount(root) {
  fill(root, inField(prompt), examples, first, says, more);
  fill(
    models,
    (state.studio?.models ?? []).map((each) => h("option", { value: each.name }, each.name)),
  );
  fill(
    examples,
    EXAMPLES.map((text) =>
      h("button", { type: "button", class: "chip", on: { click: () => example(text) } }, text),
    ),
  );
  models.value = state.studio?.default ?? "";
  build();

  models.addEventListener("change", () => {
    const before = request();
    build();
    fillForm({ ...before, model: models.value, adapters: [] });
    changed();
  });
  for (const field of [prompt, seed, count]) field.addEventListener("input", changed);
  prompt.addEventListener("input", grow);
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) void render();
    else void makePlan();
  });
  moreButton.addEventListener("click", () => openMore(Boolean(more.hidden)));
  planButton.addEventListener("click", () => void makePlan());
  renderButton.addEventListener("click", () => void render());
  cancelButton.addEventListener("click", () => void cancel());
  takesDrops(root, (things) => void borrow(things));
  on("songs", draw);
  on("plan", draw);
  restore();
  draw();
}

/** @param {string} text */
function example(text) {
  prompt.value = text;
  prompt.focus(); // the button goes
  grow();
  changed();
  void makePlan();
}

/** Fields of the model that is chosen. */
function build() {
  const { options, adapters: known } = model();
  fields = options.map((option) =>
    option.kind === "file" ? fileField(option, changed) : optionField(option, changed),
  );
  const named = FIRST.flatMap((name) => fields.filter((field) => field.option.name === name));
  const rest = fields.filter((field) => !named.includes(field));
  const one = (state.studio?.models.length ?? 0) < 2;
  fill(
    first,
    h("div", { class: "field wide", hidden: one }, h("label", null, "Model", models)),
    named.map((field) => field.element),
    h(
      "div",
      { class: "field seed" },
      h("label", { for: seed.id }, "Seed"),
      h("span", { class: "with-button" }, seed, iconButton("dice", "Draw a seed", dice)),
    ),
    h(
      "div",
      { class: "field", title: "Songs of one plan, each by a seed of its own" },
      h("label", null, "Takes", count),
    ),
    h("div", { class: "row actions" }, moreButton, cancelButton, planButton, renderButton),
  );
  adapters = known.map(adapterField);
  const group = (
    /** @type {string} */ title,
    /** @type {(Node | null)[]} */ nodes,
    kind = "fields",
  ) =>
    nodes.length
      ? h("section", null, h("h3", null, title), h("div", { class: kind }, nodes))
      : null;
  const is = (/** @type {(field: OptionField) => boolean} */ test) =>
    rest.filter(test).map((field) => field.element);
  const file = (/** @type {OptionField} */ field) => field.option.kind === "file";
  fill(
    more,
    group("From recordings", is(file), "drops"),
    group(
      "Of the plan",
      is((field) => field.option.planning && !file(field)),
    ),
    group(
      plans(model()) ? "Of the sound" : "Options",
      is((field) => !field.option.planning && !file(field)),
    ),
    group(
      "Adapters",
      adapters.map((each) => each.element),
    ),
  );
  planButton.hidden = !plans(model());
}

/** @param {{name: string}} adapter */
function adapterField({ name }) {
  const box = h("input", { type: "checkbox", on: { change: () => changed() } });
  const weight = h("input", {
    type: "number",
    min: 0,
    max: 2,
    step: 0.05,
    value: "1",
    "aria-label": `Weight of ${name}`,
    on: { input: () => changed() },
  });
  return {
    name,
    element: h("span", { class: "row" }, h("label", { class: "tick" }, box, name), weight),
    get: () => (box.checked ? Number(weight.value) : null),
    set: (/** @type {number | null} */ value) => {
      box.checked = value !== null;
      weight.value = String(value ?? 1);
    },
  };
}

function dice() {
  seed.value = String(Math.floor(Math.random() * LARGEST_SEED));
  changed();
}

/** @param {boolean} open */
function openMore(open) {
  more.hidden = !open;
  moreButton.setAttribute("aria-expanded", String(open));
}

/** Where the browser doesn't size a field by its text. */
function grow() {
  if (CSS.supports("field-sizing", "content")) return;
  const { style } = prompt;
  style.setProperty("height", "auto");
  const border = prompt.offsetHeight - prompt.clientHeight;
  style.setProperty("height", `${prompt.scrollHeight + border}px`);
  const all = prompt.clientHeight >= prompt.scrollHeight;
  style.setProperty("overflow", all ? "hidden" : "auto"); // Firefox shows a bar for nothing
}

/** @param {(field: OptionField) => boolean} which */
function options(which) {
  return Object.fromEntries(
    fields
      .filter(which)
      .map((field) => [field.option.name, field.get()])
      .filter(([, value]) => value !== undefined),
  );
}

/** All that the form says. @returns {Request} */
function request() {
  return {
    model: models.value,
    prompt: prompt.value.trim() || null,
    seed: Number(seed.value) || 0,
    options: options(() => true),
    adapters: adapters.flatMap((each) => {
      const weight = each.get();
      return weight === null ? [] : [{ name: each.name, weight }];
    }),
  };
}

/** The part of it that a plan is made by. */
function planRequest() {
  return { ...request(), options: options((field) => field.option.planning) };
}

/** The same as text, without the seed: songs of other seeds may be of one plan. */
const planKey = () => JSON.stringify({ ...planRequest(), seed: 0 });

/** Whether the form asks for another plan than the one that is shown. */
export const outdated = () => Boolean(state.plan) && planKey() !== asked;

/** @param {Request} wish */
function fillForm(wish) {
  if (modelOf(wish.model) && models.value !== wish.model) {
    models.value = wish.model;
    build();
  }
  prompt.value = wish.prompt ?? "";
  if (wish.seed !== undefined) seed.value = String(wish.seed);
  for (const field of fields) field.set(wish.options[field.option.name]);
  for (const each of adapters) {
    each.set(wish.adapters.find((adapter) => adapter.name === each.name)?.weight ?? null);
  }
  grow();
}

/** Make the form say what a plan or a song was made by. @param {Request} wish */
export function fillFrom(wish) {
  fillForm(wish);
  asked = planKey();
  changed();
}

/**
 * The form as a plan was asked for, with the sound's own options as they are.
 * @param {Plan} plan
 */
export function fillFromPlan(plan) {
  const sound = models.value === plan.model ? options((field) => !field.option.planning) : {};
  fillFrom({ ...plan, options: { ...sound, ...plan.options } });
}

/** An empty page. */
export function clear() {
  fillForm({ model: models.value, prompt: null, seed: 0, options: {}, adapters: [] });
  asked = "";
  changed();
  prompt.focus();
}

/** A draft outlives a reload, whether it was planned or not. */
function changed() {
  remember("draft", { ...request(), takes: count.value, asked, plan: state.plan?.id ?? null });
  draw();
}

function restore() {
  const draft = remembered("draft");
  if (!draft || !modelOf(draft.model)) return;
  fillForm(draft);
  count.value = draft.takes ?? "1";
  asked = draft.asked ?? "";
}

/** Whether the draft in this browser was written beside this plan. @param {string} plan id */
export const drafted = (plan) => remembered("draft")?.plan === plan;

function draw() {
  const running = takes().some(isOpen);
  if (!running && document.activeElement === cancelButton) renderButton.focus();
  cancelButton.hidden = !running;
  examples.hidden = Boolean(prompt.value || state.plan);
  planButton.classList.toggle("primary", !state.plan && plans(model()));
  renderButton.classList.toggle("primary", Boolean(state.plan) || !plans(model()));
}

/** @returns {Promise<Plan | null>} */
export async function makePlan() {
  if (isBusy(planButton) || !whole(seed)) return null;
  if (
    !prompt.value.trim() &&
    !fields.some((field) => field.option.planning && field.option.kind === "file" && field.get())
  ) {
    refuse(prompt, "Say what the music should be, or drop a recording it borrows from.");
    return null;
  }
  const body = planRequest();
  const key = planKey();
  const began = performance.now();
  const plan = busy(planButton, async () => {
    const made = await planning(says, "Planning …", "plan", () => session.makePlan(body));
    asked = key;
    changed();
    const took = `Planned in ${((performance.now() - began) / 1000).toFixed(1)} s.`;
    say(says, [took, ...(made.warnings ?? [])].join(" "));
    return made;
  });
  planned = plan;
  return plan;
}

/**
 * Work that grows with the length of the song; where the model is not in memory yet, loading it is
 * part of it, and no measure of what comes later.
 * @template T
 * @param {HTMLElement} where @param {string} text @param {string} what @param {() => Promise<T>} act
 */
async function planning(where, text, what, act) {
  const { name, loaded, options: known } = model();
  const usual = known.find((option) => option.name === "duration")?.default;
  const units = Number(options(() => true).duration ?? usual) || 1;
  const kind = loaded ? `${what} ${name}` : undefined;
  const begins = loaded ? text : `Loading ${name} …`;
  const done = await work(where, begins, { kind, units }, act);
  model().loaded = true;
  return done;
}

/**
 * A plan of what a recording holds.
 * @param {Thing} thing @param {HTMLElement} [where] the eye is
 */
export async function planFrom(thing, where = says) {
  if (isBusy(planButton)) return;
  await busy(
    planButton,
    async () => {
      const from = await sourceOf(thing, where);
      const body = { model: models.value, from_audio: from, seed: Number(seed.value) || 0 };
      const text = `Listening to ${thing.title} …`;
      fillFromPlan(await planning(where, text, "hear", () => session.makePlan(body)));
      say(says, `This is what ${thing.title} holds, second by second.`);
    },
    where,
  );
}

export async function render() {
  if (isBusy(renderButton) || !whole(seed) || !whole(count)) return;
  expectSound(models.value);
  await busy(renderButton, async () => {
    const begin = Number(seed.value);
    const seeds = Array.from({ length: Number(count.value) }, (_, at) => begin + at);
    const wish = plans(model()) ? await wishOfPlan() : wishWithoutPlan();
    if (!wish) return;
    const songs = await session.render({ ...wish, seeds });
    if (eager.value) awaitSound(songs[0].id);
    say(says, "");
  });
}

/**
 * Whether a field of the form holds a whole number within its bounds; else it says what it takes.
 * @param {HTMLInputElement} field
 */
function whole(field) {
  const { min, max, validity, value } = field;
  if (value && validity.valid) return true;
  refuse(field, `A whole number from ${min} ${max ? `to ${max}` : "on"} is needed here.`);
  return false;
}

/**
 * The plan that is shown, made anew where the form asks for another; null where it can't be made.
 */
async function wishOfPlan() {
  await planned;
  const there = await session.settled();
  const plan = there && !outdated() ? there : await makePlan();
  return (
    plan && {
      plan: plan.id,
      version: plan.version,
      options: options((field) => !field.option.planning),
    }
  );
}

/** For models that make songs of words alone. */
function wishWithoutPlan() {
  session.showPlan(null);
  const { seed: _, ...wish } = request();
  return wish;
}

export async function cancel() {
  const open = takes().filter(isOpen);
  for (const song of open) stopSound(song.id);
  say(says, "Cancelled.");
  await attempt(says, () => session.cancel(open));
}

/** Recordings dropped on the desk: the first option that takes files. @param {Thing[]} things */
async function borrow(things) {
  const document = things.find((thing) => thing.file?.name.endsWith(".json"));
  if (document?.file) return openDocument(document.file);
  const field = fields.find((each) => each.option.kind === "file");
  if (!field) return sayError(says, "This model takes no recordings.");
  openMore(true);
  return /** @type {any} */ (field).take(things);
}

/**
 * All of a song or plan again, from the file beside it.
 * @param {File} [file] asked for where none is given
 * @param {HTMLElement} [where] the eye is
 */
export async function openDocument(file, where = says) {
  const chosen = file ?? (await chooseFiles(".json,application/json"))[0];
  if (!chosen) return;
  await attempt(where, async () => {
    let content;
    try {
      content = JSON.parse(await chosen.text());
    } catch {
      throw new Error(`${chosen.name} is not JSON; open the .json of a song, or a plan.`);
    }
    if (!content || typeof content !== "object" || Array.isArray(content))
      throw new Error(`${chosen.name} is neither a plan nor the settings beside a song.`);
    const lost = await session.openSidecar(content, fillFrom);
    const without = lost.length ? ` What isn't here was left out: ${lost.join(", ")}.` : "";
    say(where.closest("[hidden]") ? says : where, `Opened ${chosen.name}.${without}`);
  });
}

/** @param {HTMLElement} button */
const isBusy = (button) => button.getAttribute("aria-disabled") === "true";

/**
 * A button that is off while it acts, with the keyboard still on it. What is refused is told at its
 * field, or where the eye is.
 * @template T
 * @param {HTMLButtonElement} button
 * @param {() => Promise<T>} act
 * @param {HTMLElement} [where]
 * @returns {Promise<T | null>}
 */
async function busy(button, act, where = says) {
  button.setAttribute("aria-disabled", "true");
  try {
    return await act();
  } catch (error) {
    if (!refuseField(error)) sayError(where, error);
    return null;
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

/** Tell at its field what is refused, where it is about one. @param {unknown} error */
function refuseField(error) {
  const { param } = /** @type {{param?: string | null}} */ (error);
  const [name] = (param ?? "").replace(/^options\./, "").split(".");
  const field = fields.find((each) => each.option.name === name);
  const own = { prompt, model: models, seed, seeds: seed }[name];
  if (!field && (!own || own.closest("[hidden]"))) return false;
  say(says, "");
  if (field && more.contains(field.element)) openMore(true);
  if (field) field.refuse(error);
  else refuse(/** @type {HTMLElement} */ (own), error);
  return true;
}
