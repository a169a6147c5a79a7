// Runs before the page is painted, so that a chosen theme never flashes in the other one.
// "auto" follows the system; the switch in the header goes round.
(() => {
  const root = document.documentElement;
  let theme = "auto";
  try {
    theme = JSON.parse(localStorage.getItem("studio.theme") ?? "null") ?? theme;
  } catch {
    // storage is shut: the system's theme it is
  }
  root.dataset.theme = theme;
})();
