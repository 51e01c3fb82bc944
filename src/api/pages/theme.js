// Dark or light: as the system says, unless the button said otherwise. Loaded before the page is painted.
"use strict";

(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  /** Storage is refused in some private windows; the pages then work without memory. */
  const stored = () => {
    try {
      return localStorage.getItem("sandboxd.theme");
    } catch {
      return null;
    }
  };
  const current = () => root.dataset.theme ?? (system.matches ? "dark" : "light");

  if (["dark", "light"].includes(stored())) root.dataset.theme = stored();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const say = () => button.setAttribute("aria-pressed", String(current() === "dark"));
    button.addEventListener("click", () => {
      const wanted = current() === "dark" ? "light" : "dark";
      // What the system says anyway needs no memory, and follows the system from then on.
      const same = wanted === (system.matches ? "dark" : "light");
      if (same) delete root.dataset.theme;
      else root.dataset.theme = wanted;
      try {
        if (same) localStorage.removeItem("sandboxd.theme");
        else localStorage.setItem("sandboxd.theme", wanted);
      } catch {
        // Without memory the choice lasts as long as the page.
      }
      say();
    });
    system.addEventListener("change", say);
    say();
  });
})();
