/**
 * A waveform on a canvas: what there is of the song, what of it was played, and room for the
 * rest.
 */
import { h } from "./dom.js";

const BAR = 3; // CSS pixels from one bar to the next
const GAP = 1;
const WIDEST = 16000; // pixels of a canvas that all browsers draw

export class Waveform {
  /**
   * @param {object} options
   * @param {number} options.duration seconds that the whole width stands for
   * @param {(seconds: number) => void} options.onSeek a press on it
   */
  constructor({ duration, onSeek }) {
    this.duration = duration;
    this.position = 0;
    /** Seconds that were kept from an earlier song. */
    this.kept = 0;
    /** @type {number[]} the loudest of each stretch, 0 to 255 */
    this.peaks = [];
    this.perSecond = 20;
    this.element = h("canvas", { class: "waveform", "aria-hidden": "true" });
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      onSeek((event.offsetX / this.element.clientWidth) * this.duration);
    });
    this.#watch = new ResizeObserver(() => this.draw());
    this.#watch.observe(this.element);
  }

  #watch;
  #frame = 0;

  /** Draw before the next frame, however often it is asked for. */
  draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#paint();
    });
  }

  remove() {
    this.#watch.disconnect();
    cancelAnimationFrame(this.#frame);
  }

  #paint() {
    const { clientWidth: width, clientHeight: height } = this.element;
    const context = this.element.getContext("2d");
    if (!context || !width || !height) return;
    const scale = Math.min(devicePixelRatio || 1, WIDEST / width);
    if (this.element.width !== Math.round(width * scale)) {
      this.element.width = Math.round(width * scale);
    }
    if (this.element.height !== Math.round(height * scale)) {
      this.element.height = Math.round(height * scale);
    }
    const style = getComputedStyle(this.element);
    const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    const [played, ahead, empty, kept] = ["--played", "--ahead", "--empty", "--kept"].map(colour);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const bars = Math.floor(width / BAR);
    for (let bar = 0; bar < bars; bar += 1) {
      const from = (bar / bars) * this.duration;
      const level = this.#loudest(from, ((bar + 1) / bars) * this.duration);
      const tall = level === null ? 1 : Math.max(1.5, Math.sqrt(level) * (height - 4));
      if (level === null) context.fillStyle = empty;
      else if (from < this.position) context.fillStyle = played;
      else context.fillStyle = from < this.kept ? kept : ahead;
      context.beginPath();
      context.roundRect(bar * BAR, (height - tall) / 2, BAR - GAP, tall, 1);
      context.fill();
    }
  }

  /**
   * The loudest between two times, 0 to 1; null where nothing is made yet.
   * @param {number} from @param {number} to
   */
  #loudest(from, to) {
    const first = Math.floor(from * this.perSecond);
    const last = Math.max(first + 1, Math.floor(to * this.perSecond));
    const there = this.peaks.slice(first, last);
    return there.length ? Math.max(...there) / 255 : null;
  }
}
