/** The server, call by call. What it refuses is an ApiError whose message is one sentence. */
import { GivenUp } from "./work.js";

/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./types.js").Song} Song */
/** @typedef {import("./types.js").Find} Find */
/** @typedef {import("./types.js").Upload} Upload */
/** @typedef {import("./types.js").Studio} Studio */
/** @typedef {import("./types.js").Heard} Heard */

export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status 0: no answer
   * @param {string | null} [param] the field of the request that it is about
   */
  constructor(message, status, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

const GONE = "The studio's server does not answer; is it still running?";

/**
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body] JSON, or a file as it is
 * @param {Record<string, string>} [headers]
 * @returns {Promise<Response>}
 */
async function ask(method, path, body, headers = {}) {
  /** @type {RequestInit} */
  const request = { method, headers: { ...headers } };
  if (body instanceof Blob) request.body = body;
  else if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers = { ...headers, "Content-Type": "application/json" };
  }
  let answer;
  try {
    answer = await fetch(path, request);
  } catch {
    throw new ApiError(GONE, 0);
  }
  if (answer.ok) return answer;
  throw refusal(answer.status, await answer.json().catch(() => null));
}

/** @param {number} status @param {any} said */
function refusal(status, said) {
  const message = said?.error?.message ?? `The server answered ${status}.`;
  return new ApiError(message, status, said?.error?.param);
}

/**
 * @template T
 * @param {Promise<Response>} answer
 * @returns {Promise<T>}
 */
async function json(answer) {
  return (await answer).json();
}

/**
 * The words that the heat map is read by, as part of an address.
 * @param {string[] | null} anchors
 */
function reading(anchors) {
  return anchors?.length ? `anchors=${encodeURIComponent(anchors.join(","))}` : "";
}

/** @param {string} path @param {string} query */
const asked = (path, query) => (query ? `${path}?${query}` : path);

/** @returns {Promise<Studio>} */
export const models = () => json(ask("GET", "/v1/models"));

/** @param {object} body @param {string[] | null} anchors @returns {Promise<Plan>} */
export const makePlan = (body, anchors) =>
  json(ask("POST", asked("/v1/plans", reading(anchors)), body));

/** @param {string} id @param {string[] | null} anchors @returns {Promise<Plan>} */
export const plan = (id, anchors) => json(ask("GET", asked(`/v1/plans/${id}`, reading(anchors))));

/**
 * @returns {Promise<{plans: import("./types.js").PlanLine[]}>}
 */
export const plans = (limit = 30) => json(ask("GET", `/v1/plans?limit=${limit}`));

/**
 * @param {string} id
 * @param {object} body
 * @param {string[] | null} anchors
 * @returns {Promise<Plan>}
 */
export const edit = (id, body, anchors) =>
  json(ask("POST", asked(`/v1/plans/${id}/edits`, reading(anchors)), body));

/**
 * @param {string} id
 * @param {"undo" | "redo"} way
 * @param {string[] | null} anchors
 * @returns {Promise<Plan>}
 */
export const step = (id, way, anchors) =>
  json(ask("POST", asked(`/v1/plans/${id}/${way}`, reading(anchors))));

/** What no other request has; browsers make UUIDs only for pages that came over TLS. */
const once = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

/** @param {object} body @returns {Promise<{group: string, songs: Song[]}>} */
export const render = (body) => json(ask("POST", "/v1/songs", body, { "Idempotency-Key": once() }));

/** @param {string} query @returns {Promise<{songs: Song[], queue: string[]}>} */
export const songs = (query) => json(ask("GET", `/v1/songs?${query}`));

/** @param {string} id @param {string[] | null} [anchors] @returns {Promise<Song>} */
export const song = (id, anchors = null) =>
  json(ask("GET", asked(`/v1/songs/${id}`, reading(anchors))));

/** @param {string} id @param {"cancel" | "again"} what @returns {Promise<Song>} */
export const tellSong = (id, what) => json(ask("POST", `/v1/songs/${id}/${what}`));

/** @param {string} id @param {string} title @returns {Promise<Song>} */
export const nameSong = (id, title) => json(ask("PATCH", `/v1/songs/${id}`, { title }));

/** @param {string} id */
export const deleteSong = (id) => ask("DELETE", `/v1/songs/${id}`);

/** @param {string} id @returns {Promise<{per_second: number, peaks: number[]}>} */
export const peaks = (id) => json(ask("GET", `/v1/songs/${id}/peaks`));

/** 16-bit samples as they are made. @param {string} id @param {AbortSignal} signal */
export async function pcm(id, signal) {
  const answer = await fetch(`/v1/songs/${id}/audio?format=pcm`, { signal });
  if (!answer.ok) throw refusal(answer.status, await answer.json().catch(() => null));
  if (!answer.body) throw new ApiError("This song can't be heard.", answer.status);
  return {
    rate: Number(answer.headers.get("X-Sample-Rate")),
    channels: Number(answer.headers.get("X-Channels")),
    reader: answer.body.getReader(),
  };
}

/**
 * By XMLHttpRequest: fetch doesn't tell how much of a body was sent.
 * @param {File} file
 * @param {(fraction: number) => void} sent
 * @param {AbortSignal} signal
 * @returns {Promise<Upload>}
 */
export function upload(file, sent, signal) {
  const request = new XMLHttpRequest();
  request.open("POST", `/v1/uploads?name=${encodeURIComponent(file.name)}`);
  request.responseType = "json";
  signal.addEventListener("abort", () => request.abort());
  return new Promise((resolve, reject) => {
    const on = (/** @type {string} */ name, /** @type {() => void} */ act) =>
      request.addEventListener(name, act);
    on("load", () => {
      const { status, response } = request;
      if (status < 300) resolve(response);
      else reject(refusal(status, response));
    });
    on("error", () => reject(new ApiError(GONE, 0)));
    on("abort", () => reject(new GivenUp(`${file.name} was left out.`)));
    request.upload.addEventListener("progress", ({ loaded, total }) => sent(loaded / total));
    request.send(file);
  });
}

/**
 * A file of the server, and what it is to be called. It is fetched, not followed as a link: what is
 * refused can be told, and what is made for it takes its time.
 * @param {string} path
 * @returns {Promise<{blob: Blob, name: string}>}
 */
export async function file(path) {
  const answer = await ask("GET", path);
  const named = /filename\*=utf-8''([^;]+)/i.exec(answer.headers.get("Content-Disposition") ?? "");
  return { blob: await answer.blob(), name: decodeURIComponent(named?.[1] ?? "song") };
}

/** @returns {Promise<{uploads: Upload[]}>} */
export const uploads = () => json(ask("GET", "/v1/uploads"));

/** @param {unknown} sidecar @returns {Promise<any>} */
export const openSidecar = (sidecar) => json(ask("POST", "/v1/sidecars", sidecar));

/** @param {object} body @returns {Promise<{found: Find[]}>} */
export const search = (body) => json(ask("POST", "/v1/library/search", body));

/** @param {string} id @returns {Promise<{found: Find[]}>} */
export const similar = (id) => json(ask("GET", `/v1/library/${id}/similar?limit=20`));

/** @returns {Promise<{songs?: number}>} */
export const libraryStats = () => json(ask("GET", "/v1/library/stats"));
