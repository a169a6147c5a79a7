/**
 * Where recordings are dropped that a song borrows from or goes on from: an option of kind
 * "file".
 */
import * as api from "./api.js";
import { fill, h, iconButton } from "./dom.js";
import { chooseFiles, sourceOf, takesDrops } from "./drag.js";
import { labelOf } from "./fields.js";
import { attempt, place, say, sayError } from "./says.js";
import { state } from "./state.js";

/** @typedef {import("./types.js").Source} Source */
/** @typedef {import("./types.js").Option} Option */
/** @typedef {import("./drag.js").Thing} Thing */

/**
 * @param {Option} option
 * @param {() => void} changed
 * @returns {import("./fields.js").OptionField & {take: (things: Thing[]) => Promise<void>}}
 */
export function fileField(option, changed) {
  /** @type {{source: Source, title: string}[]} */
  let files = [];
  const list = h("span", { class: "row" });
  const says = place();
  const label = labelOf(option);
  const choose = h("button", { type: "button", class: "chip" }, "Choose a file");
  choose.addEventListener("click", async () => {
    const chosen = await chooseFiles("audio/*", option.several);
    if (chosen.length) await take(chosen.map((file) => ({ file, title: file.name })));
  });
  const paste = h("button", { type: "button", class: "chip" }, "Paste what was copied");
  paste.addEventListener("click", () => {
    if (state.clipboard) void take([state.clipboard]);
    else say(says, "Nothing was copied yet: copy a song or a find in its menu.");
  });
  const element = h(
    "div",
    { class: "dropzone", role: "group", "aria-label": label, title: option.help },
    h("span", null, label, ": drop audio here"),
    choose,
    paste,
    list,
    says,
  );

  const draw = () => {
    fill(
      list,
      files.map((file, at) =>
        h(
          "span",
          { class: "tag" },
          file.title,
          iconButton("close", `Leave out ${file.title}`, () => {
            files.splice(at, 1);
            draw();
            choose.focus();
            changed();
          }),
        ),
      ),
    );
  };

  /** @param {Thing[]} things */
  async function take(things) {
    await attempt(says, async () => {
      for (const thing of option.several ? things : things.slice(0, 1)) {
        const { start: _, ...source } = await sourceOf(thing, says);
        if (source.plan || source.words)
          throw new Error("This takes audio: a song or a recording.");
        files = option.several
          ? [...files, { source, title: thing.title }]
          : [{ source, title: thing.title }];
        draw(); // at once: what comes after it may be refused
        changed();
      }
      say(says, "");
    });
  }

  takesDrops(element, (things) => void take(things));
  return {
    option,
    element,
    take,
    refuse: (error) => {
      sayError(says, error);
      choose.focus();
    },
    get: () => {
      const sources = files.map((file) => file.source);
      return sources.length ? (option.several ? sources : sources[0]) : undefined;
    },
    set: (value) => {
      const sources = /** @type {Source[]} */ (value ? [value].flat() : []);
      files = sources.map((source) => ({ source, title: titleOf(source) }));
      draw();
      if (files.some((file) => file.source.upload)) void named();
    },
  };

  /** Uploads by the names of their files. */
  async function named() {
    const known = await api.uploads().catch(() => ({ uploads: [] }));
    for (const file of files) {
      file.title = known.uploads.find((each) => each.id === file.source.upload)?.name ?? file.title;
    }
    draw();
  }
}

/** @param {Source} source @returns {string} */
function titleOf(source) {
  if (source.song) return state.songs.get(source.song)?.title ?? "a song";
  return source.library ? "a find" : "a recording";
}
