/** The bar at the bottom: play, where it is, how loud. */
import { clock, fill, h, icon, iconButton } from "./dom.js";
import { eager, player } from "./listening.js";
import { menu } from "./takes.js";
import { on, remember, remembered, state, takes } from "./state.js";

/** @param {HTMLElement} root */
export function mount(root) {
  const play = h("button", {
    type: "button",
    class: "play primary",
    id: "play",
    on: { click: () => player.toggle() },
  });
  const time = h("span", { class: "clock", id: "clock" });
  const why = h("span", { class: "why" });
  const seek = h("input", {
    type: "range",
    class: "seek",
    min: 0,
    max: 1,
    step: 0.1,
    value: 0,
    "aria-label": "Position in the song",
  });
  const volume = h("input", {
    type: "range",
    class: "volume",
    min: 0,
    max: 1,
    step: 0.01,
    "aria-label": "Volume",
  });
  const meter = h("div", { class: "meter", id: "meter", "aria-hidden": "true" }, h("i"));
  const listen = h("input", { type: "checkbox", checked: eager.value });
  const save = iconButton(
    "save",
    "Save this take",
    () => {
      const song = state.songs.get(state.take ?? "");
      if (song) menu(save, song);
    },
    { "aria-haspopup": "menu" },
  );
  fill(
    root,
    play,
    h("span", null, time, why),
    seek,
    h(
      "div",
      { class: "row end" },
      meter,
      volume,
      h("label", { class: "tick", title: "Play a song while it is made" }, listen, "Listen along"),
      save,
    ),
  );

  const length = () => state.plan?.duration ?? state.songs.get(state.take ?? "")?.duration ?? 0;
  const move = () => {
    const position = player.position;
    seek.max = String(Math.max(1, length()));
    if (document.activeElement !== seek || player.playing) seek.value = String(position);
    const text = `${clock(position)} / ${clock(length())}`;
    why.textContent = player.blocked
      ? "The browser holds back sound: pause and play, or look for a loudspeaker."
      : player.waiting
        ? "waits for the next second"
        : "";
    if (time.textContent !== text) {
      time.textContent = text;
      seek.setAttribute("aria-valuetext", text.replace("/", "of"));
    }
    meter.style.setProperty("--level", Math.min(1, 2.5 * player.level()).toFixed(3));
  };
  const change = () => {
    const label = player.playing ? "Pause" : "Play";
    fill(play, icon(player.playing ? "pause" : "play"));
    play.setAttribute("aria-label", label);
    play.title = `${label} (space)`;
    play.setAttribute("aria-disabled", String(!player.sound)); // off, with the keyboard still on it
    root.classList.toggle("waiting", player.waiting);
    save.disabled = !state.take;
    seek.disabled = !player.sound;
    move();
  };

  seek.addEventListener("input", () => player.seek(Number(seek.value)));
  listen.addEventListener("change", () => (eager.value = listen.checked));
  volume.value = String(remembered("volume") ?? 1);
  player.setVolume(Number(volume.value));
  volume.addEventListener("input", () => {
    player.setVolume(Number(volume.value));
    remember("volume", Number(volume.value));
  });
  player.addEventListener("move", move);
  player.addEventListener("change", change);
  on("take", change);
  on("plan", change);
  change();
}

/** Keys of the whole page, where no field has them. @param {(id: string) => void} choose */
export function keys(choose) {
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.closest("input, textarea, select, .overlay")) return;
    if (event.key === " " && !target.closest("button, a")) {
      event.preventDefault();
      player.toggle();
    }
    const take = takes()[Number(event.key) - 1];
    if (/^[1-9]$/.test(event.key) && take) choose(take.id);
  });
}
