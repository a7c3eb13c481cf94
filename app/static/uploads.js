(() => {
  // A file over the upload limit is told here, in the Studio's words, before any of it is sent.
  const { mostBytes, tooLarge } = document.currentScript.dataset;
  function refuse(event, files, place) {
    const over = [...(files ?? [])].some((file) => file.size > Number(mostBytes));
    const block = place.closest(".studio-upload") ?? place;
    block.parentElement?.querySelectorAll(":scope > .studio-too-large").forEach((said) => said.remove());
    if (!over) return false;
    event.preventDefault();
    event.stopImmediatePropagation();
    const said = document.createElement("p");
    said.className = "studio-problem studio-too-large";
    said.setAttribute("role", "alert");
    block.after(said);
    said.textContent = tooLarge;
    return true;
  }
  window.addEventListener("change", (event) => {
    const input = event.target;
    if (input.type === "file" && refuse(event, input.files, input)) input.value = ""; // ready for another one
  }, true);
  window.addEventListener("drop", (event) => {
    const place = event.target.closest?.(".studio-upload");
    if (place) refuse(event, event.dataTransfer?.files, place);
  }, true);
})();
