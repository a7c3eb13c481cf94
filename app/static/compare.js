// Before and after as one picture: a wipe across it, and both large.
(() => {
  document.addEventListener("input", (event) => {
    const wipe = event.target.closest?.(".studio-wipe");
    if (wipe) wipe.style.setProperty("--wipe", `${event.target.value}%`);
  });

  function enlarge(wipe) {
    const dialog = document.createElement("dialog"), copy = wipe.cloneNode(true), close = document.createElement("button");
    dialog.className = "studio-zoom";
    dialog.setAttribute("aria-label", "Before and after");
    const slider = copy.querySelector("input");
    slider.value = 50;
    copy.style.setProperty("--wipe", "50%");
    close.type = "button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    const words = document.createElement("p");
    words.textContent = "Before on the left of the line, after on its right. Drag it, or use the arrow keys.";
    dialog.append(copy, words, close);
    dialog.addEventListener("close", () => dialog.remove());
    document.querySelector(".gradio-container").append(dialog); // where the page's colours are
    dialog.showModal();
    slider.focus();
  }

  document.addEventListener("click", (event) => {
    const wipe = event.target.closest?.("button.zoom")?.closest("figure")?.querySelector(".studio-wipe");
    if (wipe) enlarge(wipe);
  });
})();
