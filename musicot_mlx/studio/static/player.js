/**
 * Plays a Sound while it is still growing: pieces of it are scheduled a little ahead on the clock
 * of the audio context, so that they join to the sample. Another sound may take over in the middle:
 * A/B at the same position.
 */

/** @typedef {import("./sound.js").Sound} Sound */

const AHEAD = 2.5; // seconds; a tab in the background gets a timer once a second
const PIECE = 0.5; // seconds
const TICK = 60; // milliseconds
const SOFT = 0.012; // seconds of a fade where sound is cut, against clicks
const START = 0.06; // seconds between the call and the first sample
const HELD = 1500; // milliseconds after which sound that doesn't come is missed

/**
 * Events: "change" when it starts, stops, waits or ends; "move" about 16 times a second while it
 * plays.
 */
export class Player extends EventTarget {
  /** @type {Sound | null} */
  sound = null;
  /** Whether the listener wants sound, though it may have to wait for it. */
  playing = false;
  volume = 1;

  /** @type {AudioContext | null} */
  #context = null;
  /** @type {AnalyserNode | null} */
  #analyser = null;
  /** @type {GainNode | null} of all that is scheduled since the last cut */
  #bus = null;
  /** @type {AudioBufferSourceNode[]} */
  #sources = [];
  /** The frame that is scheduled next, and the context's time at which it sounds. */
  #next = 0;
  #when = 0;
  #timer = 0;
  #waiting = false;
  /** When it began, in milliseconds: a browser may take sound and never play it. */
  #began = 0;

  /** Seconds into the song, of what is heard now. */
  get position() {
    if (!this.sound) return 0;
    if (!this.playing || !this.#context) return this.#next / this.sound.rate;
    const ahead = Math.max(0, this.#when - this.#context.currentTime);
    return Math.max(0, this.#next / this.sound.rate - ahead);
  }

  /** Whether it stands still because the next second isn't made yet. */
  get waiting() {
    return this.playing && this.#waiting;
  }

  /** Whether the browser holds sound back: it wants a press first, or has nothing to play on. */
  get blocked() {
    return (
      this.playing && this.#context?.state !== "running" && performance.now() > this.#began + HELD
    );
  }

  /**
   * Take this sound up, where the last one is.
   * @param {Sound | null} sound
   */
  use(sound) {
    if (sound === this.sound) return;
    const position = this.position;
    this.#cut();
    this.sound = sound;
    if (!sound) this.playing = false;
    this.#place(position);
    if (this.playing) this.#begin();
    this.#say("change");
    this.#say("move");
  }

  play() {
    if (!this.sound) return;
    if (this.sound.done && this.#next >= this.sound.frames) this.#next = 0;
    this.playing = true;
    this.#begin();
    this.#say("change");
  }

  pause() {
    const position = this.position;
    this.playing = false;
    this.#cut();
    this.#place(position);
    this.#say("change");
    this.#say("move");
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  /** @param {number} seconds */
  seek(seconds) {
    this.#cut();
    this.#place(seconds);
    if (this.playing) this.#begin();
    this.#say("move");
  }

  /** @param {number} volume 0 to 1 */
  setVolume(volume) {
    this.volume = volume;
    if (this.#bus && this.#context) {
      this.#bus.gain.setTargetAtTime(volume, this.#context.currentTime, SOFT);
    }
  }

  /** How loud it is this moment: RMS, 0 to 1. */
  level() {
    if (!this.#analyser || !this.playing) return 0;
    const samples = new Float32Array(this.#analyser.fftSize);
    this.#analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
  }

  /** @param {number} seconds */
  #place(seconds) {
    const sound = this.sound;
    if (!sound) {
      this.#next = 0;
      return;
    }
    const frame = Math.max(0, Math.round(seconds * sound.rate));
    this.#next = sound.done ? Math.min(frame, sound.frames) : frame; // what isn't made yet will be
  }

  /**
   * Make the browser ready to play at this rate: to be called while a button is pressed, since some
   * browsers let sound begin only then.
   * @param {number} rate Hz
   * @returns {AudioContext}
   */
  unlock(rate) {
    if (this.#context?.sampleRate !== rate) {
      void this.#context?.close();
      this.#context = new AudioContext({ sampleRate: rate, latencyHint: "playback" });
      this.#analyser = this.#context.createAnalyser();
      this.#analyser.connect(this.#context.destination);
      this.#bus = null;
    }
    void this.#context.resume();
    return this.#context;
  }

  #begin() {
    const context = this.unlock(/** @type {Sound} */ (this.sound).rate);
    if (!this.#bus) {
      this.#bus = context.createGain();
      this.#bus.gain.value = this.volume;
      this.#bus.connect(/** @type {AnalyserNode} */ (this.#analyser));
    }
    this.#when = context.currentTime + START;
    this.#began = performance.now();
    clearInterval(this.#timer);
    this.#timer = window.setInterval(() => this.#tick(), TICK);
    this.#tick();
  }

  #tick() {
    const sound = this.sound;
    const context = this.#context;
    if (!sound || !context || !this.playing) return;
    while (this.#when < context.currentTime + AHEAD && this.#next < sound.frames) {
      this.#schedule(sound, context);
    }
    const dry = this.#when <= context.currentTime && this.#next >= sound.frames;
    if (dry && sound.done) {
      this.#cut();
      this.playing = false;
      this.#say("change");
    } else if (dry !== this.#waiting) {
      this.#waiting = dry;
      this.#say("change");
    }
    this.#say("move");
  }

  /** @param {Sound} sound @param {AudioContext} context */
  #schedule(sound, context) {
    const frames = Math.min(Math.round(PIECE * sound.rate), sound.frames - this.#next);
    const buffer = context.createBuffer(sound.channels, frames, sound.rate);
    sound.read(buffer, this.#next);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(/** @type {GainNode} */ (this.#bus));
    if (this.#when < context.currentTime) this.#when = context.currentTime + START; // ran dry
    source.start(this.#when);
    source.addEventListener("ended", () => {
      this.#sources = this.#sources.filter((other) => other !== source);
    });
    this.#sources.push(source);
    this.#when += frames / sound.rate;
    this.#next += frames;
  }

  /** Silence at once: what was scheduled fades within SOFT. */
  #cut() {
    clearInterval(this.#timer);
    this.#waiting = false;
    if (!this.#context || !this.#bus) return;
    const now = this.#context.currentTime;
    this.#bus.gain.setTargetAtTime(0, now, SOFT / 4);
    for (const source of this.#sources) source.stop(now + SOFT);
    this.#sources = [];
    this.#bus = null; // the next sound has a bus of its own
  }

  /** @param {"change" | "move"} what */
  #say(what) {
    this.dispatchEvent(new Event(what));
  }
}
