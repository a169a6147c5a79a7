/**
 * A field for each option of a model, as its record describes it; no option is known by name
 * here.
 */
import { h } from "./dom.js";
import { refuse } from "./says.js";

/** @typedef {import("./types.js").Option} Option */

/**
 * @typedef {object} OptionField
 * @property {Option} option
 * @property {HTMLElement} element
 * @property {() => unknown} get undefined: left out
 * @property {(value: unknown) => void} set undefined or null: left out
 * @property {(error: unknown) => void} refuse tell what is wrong with it, there
 */

const TONICS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];

/**
 * What people may pick from, where the option itself takes any text.
 * @type {Record<string, string[]>}
 */
const SUGGESTED = { key: TONICS.flatMap((tonic) => [`${tonic} major`, `${tonic} minor`]) };

let ids = 0;

/** @param {Option} option @returns {string} */
export function labelOf(option) {
  const words = option.label.charAt(0).toUpperCase() + option.label.slice(1);
  if (words.toLowerCase() === option.unit.toLowerCase()) return option.unit;
  return option.unit ? `${words} (${option.unit})` : words;
}

/** @param {Option} option @returns {string} */
function emptyText(option) {
  if (option.default === null || option.default === undefined) return "auto";
  return option.default === false ? "off" : String(option.default);
}

/** @param {Option} option @param {() => void} changed @returns {OptionField} */
export function optionField(option, changed) {
  const field =
    option.kind === "boolean"
      ? tick(option)
      : option.choices.length
        ? choice(option)
        : entry(option);
  field.element.title = option.help;
  field.element.addEventListener("input", changed);
  return field;
}

/** A label and its field, with room for what is wrong with it. @param {...HTMLElement} parts */
export const inField = (...parts) => h("div", { class: "field" }, ...parts);

/** @param {Option} option @returns {OptionField} */
function tick(option) {
  const box = h("input", { type: "checkbox", name: option.name, checked: option.default === true });
  return {
    option,
    element: inField(h("label", { class: "tick" }, box, labelOf(option))),
    refuse: (error) => refuse(box, error),
    get: () => (box.checked === (option.default === true) ? undefined : box.checked),
    set: (value) => (box.checked = (value ?? option.default) === true),
  };
}

/** @param {Option} option @returns {OptionField} */
function choice(option) {
  const select = h(
    "select",
    { name: option.name },
    h("option", { value: "" }, emptyText(option)),
    option.choices.map((each) => h("option", { value: each }, each.replaceAll("_", " "))),
  );
  return {
    option,
    element: inField(h("label", null, labelOf(option), select)),
    refuse: (error) => refuse(select, error),
    get: () => select.value || undefined,
    set: (value) => (select.value = String(value ?? "")),
  };
}

/** @param {Option} option @returns {OptionField} */
function entry(option) {
  const number = option.kind === "number" || option.kind === "integer";
  const typed = number && !option.several && !option.can_be_off;
  const suggested = SUGGESTED[option.name];
  const list =
    suggested &&
    h(
      "datalist",
      { id: `list-${(ids += 1)}` },
      suggested.map((value) => h("option", { value })),
    );
  const input = h("input", {
    type: typed ? "number" : "text",
    name: option.name,
    min: typed ? option.low : null,
    max: typed ? option.high : null,
    step: typed ? (option.kind === "integer" ? 1 : "any") : null,
    inputmode: number ? "decimal" : null,
    placeholder: emptyText(option),
    autocomplete: "off",
    list: list?.id,
  });
  return {
    option,
    element: inField(h("label", null, labelOf(option), input, list)),
    refuse: (error) => refuse(input, error),
    get: () => read(option, input.validity.badInput ? "?" : input.value.trim()),
    set: (value) => (input.value = written(value)),
  };
}

/** @param {Option} option @param {string} text @returns {unknown} */
function read(option, text) {
  if (!text) return undefined;
  if (option.kind === "text") return text;
  if (option.can_be_off && text.toLowerCase() === "off") return false;
  const numbers = option.several ? text.split(/[\s,;]+/).map(Number) : [Number(text)];
  if (numbers.some(Number.isNaN)) return text; // the server says what it should be
  return option.several ? numbers : numbers[0];
}

/** @param {unknown} value @returns {string} */
function written(value) {
  if (value === undefined || value === null) return "";
  if (value === false) return "off";
  return Array.isArray(value) ? value.join(", ") : String(value);
}
