/**
 * What is dragged from place to place: segments, songs, finds of the library, files. Each of them
 * can be copied and pasted by keys and menus, too.
 */
import * as api from "./api.js";
import { state } from "./state.js";
import { work } from "./work.js";

/** @typedef {import("./types.js").Source} Source */

/**
 * @typedef {object} Thing
 * @property {Source} [source] what it is to the server
 * @property {File} [file] what isn't there yet
 * @property {string} title
 * @property {number} [segment] of the plan that is shown
 */

const TYPE = "application/x-musicot";

/** @param {DragEvent} event @param {Thing} thing */
export function carry(event, thing) {
  event.dataTransfer?.setData(TYPE, JSON.stringify(thing));
  event.dataTransfer?.setData("text/plain", thing.title);
  if (event.dataTransfer) event.dataTransfer.effectAllowed = "copyMove";
}

/** @param {DragEvent} event @returns {Thing[]} */
function carried(event) {
  const data = event.dataTransfer;
  const thing = data?.getData(TYPE);
  if (thing) return [JSON.parse(thing)];
  return [...(data?.files ?? [])].map((file) => ({ file, title: file.name }));
}

/** @param {DragEvent} event */
const holds = (event) =>
  [...(event.dataTransfer?.types ?? [])].some((type) => type === TYPE || type === "Files");

/**
 * Let an element take what is dropped on it; it shows so while something is over it.
 * @param {HTMLElement} element
 * @param {(things: Thing[]) => void} drop
 */
export function takesDrops(element, drop) {
  const leave = () => element.classList.remove("over");
  element.addEventListener("dragover", (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    event.stopPropagation();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", (event) => {
    if (!element.contains(/** @type {Node | null} */ (event.relatedTarget))) leave();
  });
  element.addEventListener("drop", (event) => {
    leave();
    if (!holds(event)) return;
    event.preventDefault();
    event.stopPropagation();
    const things = carried(event);
    if (things.length) drop(things);
  });
}

/**
 * The thing as the server knows it; a file is sent first, which is told and can be given up.
 * @param {Thing} thing
 * @param {HTMLElement} where
 * @returns {Promise<Source>}
 */
export async function sourceOf(thing, where) {
  if (thing.source) return thing.source;
  const file = /** @type {File} */ (thing.file);
  const most = state.studio?.max_upload_bytes ?? Infinity;
  if (file.size > most) {
    throw new Error(
      `${file.name} is larger than the ${Number((most / 2 ** 20).toFixed(1))} MB that are taken.`,
    );
  }
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error(`${file.name} can't be read; is it a folder, or gone?`);
  }
  const given = new AbortController();
  const cancel = () => given.abort();
  const { signal } = given;
  /** @type {Promise<import("./types.js").Upload>} */
  let answer;
  await work(where, `Sending ${file.name} …`, { cancel }, (part) => {
    return new Promise((sent, failed) => {
      const told = (/** @type {number} */ share) => (share < 1 ? part(share) : sent(null));
      answer = api.upload(file, told, signal);
      answer.then(sent, failed);
    });
  });
  const read = { cancel, kind: "read", units: file.size };
  const { id } = await work(where, `Reading ${file.name} …`, read, () => answer);
  return { upload: id };
}

/**
 * A file, asked for: the keyboard's way to drop one.
 * @param {string} accept
 * @param {boolean} [several]
 * @returns {Promise<File[]>} none where it was given up
 */
export function chooseFiles(accept, several = false) {
  const input = document.createElement("input");
  Object.assign(input, { type: "file", accept, multiple: several, hidden: true });
  document.body.append(input); // Safari forgets one that is nowhere
  return new Promise((resolve) => {
    const done = () => {
      input.remove();
      resolve([...(input.files ?? [])]);
    };
    input.addEventListener("change", done);
    input.addEventListener("cancel", done);
    input.click();
  });
}
