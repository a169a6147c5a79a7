/** The audio of a song as it arrives: 16-bit samples, interleaved. */
import * as api from "./api.js";

export class Sound {
  /** @param {number} rate Hz @param {number} channels */
  constructor(rate, channels) {
    this.rate = rate;
    this.channels = channels;
    /** Frames that there are so far. */
    this.frames = 0;
    /** Whether no more will come. */
    this.done = false;
    this.#samples = new Int16Array(rate * channels * 8); // grows by doubling
  }

  #samples;

  /** @param {Int16Array} samples interleaved, whole frames */
  push(samples) {
    const begin = this.frames * this.channels;
    const end = begin + samples.length;
    if (end > this.#samples.length) {
      const grown = new Int16Array(Math.max(end, 2 * this.#samples.length));
      grown.set(this.#samples.subarray(0, begin));
      this.#samples = grown;
    }
    this.#samples.set(samples, begin);
    this.frames = end / this.channels;
  }

  /**
   * Frames as floats, as many as the buffer is long.
   * @param {AudioBuffer} buffer @param {number} start frame
   */
  read(buffer, start) {
    for (let channel = 0; channel < this.channels; channel += 1) {
      const out = buffer.getChannelData(channel);
      let from = start * this.channels + channel;
      for (let i = 0; i < out.length; i += 1, from += this.channels) {
        out[i] = this.#samples[from] / 32768;
      }
    }
  }
}

/**
 * The sound of a song, which goes on growing after it is returned, as long as the song is made.
 * @param {string} song id
 * @param {AbortSignal} signal
 * @returns {Promise<Sound>}
 */
export async function listen(song, signal) {
  const { rate, channels, reader } = await api.pcm(song, signal);
  const sound = new Sound(rate, channels);
  void pump(sound, reader);
  return sound;
}

/** @param {Sound} sound @param {ReadableStreamDefaultReader<Uint8Array>} reader */
async function pump(sound, reader) {
  const width = 2 * sound.channels;
  let left = new Uint8Array(0); // bytes of a frame that isn't whole yet
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const bytes = new Uint8Array(left.length + value.length);
      bytes.set(left);
      bytes.set(value, left.length);
      const whole = bytes.length - (bytes.length % width);
      left = bytes.slice(whole);
      sound.push(new Int16Array(bytes.buffer, 0, whole / 2)); // little-endian, as all browsers are
    }
  } catch {
    // cancelled, or the server went: what there is can be heard
  }
  sound.done = true;
}
