// The page's own script, in its head. Everything hangs on one global, window.cceStudio.
(() => {
  if (window.cceStudio) return;
  const base = document.querySelector("base")?.href ?? "./";
  const version = document.currentScript?.dataset.plotly ?? "";
  let plotly = null;
  function loadPlotly() {
    // Gradio's own copy overwrites window.Plotly when a gr.Plot mounts: keep ours, give back theirs.
    plotly ??= new Promise((resolve, reject) => {
      const before = window.Plotly;
      const script = document.createElement("script");
      script.src = new URL(`studio/plotly.min.js?v=${version}`, base).href;
      script.onload = () => {
        const ours = window.Plotly;
        if (before) window.Plotly = before;
        resolve(ours);
      };
      script.onerror = () => { plotly = null; reject(new Error("plotly.min.js could not be loaded")); };
      document.head.appendChild(script);
    });
    return plotly;
  }

  // The page's own colours, light or dark, on every axis and 3D scene of the figure.
  function themed(given, before) {
    const css = getComputedStyle(document.body);
    const text = css.getPropertyValue("--body-text-color").trim();
    const grid = css.getPropertyValue("--border-color-primary").trim();
    const clear = "rgba(0,0,0,0)";
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid };
    const layout = { ...given, autosize: true, uirevision: given.uirevision ?? "keep",
      paper_bgcolor: clear, plot_bgcolor: clear, font: { ...given.font, color: text } };
    for (const name of new Set(["xaxis", "yaxis", ...Object.keys(given)])) {
      if (/^[xy]axis\d*$/.test(name)) layout[name] = { ...axis, ...given[name] };
      if (/^scene\d*$/.test(name)) {
        layout[name] = { ...given[name] };
        // uirevision keeps 2D zoom, but loses a dragged 3D camera (plotly.js in plotly 7.1): carry it over.
        const camera = before?.uirevision === layout.uirevision && before?.[name]?.camera;
        if (camera) layout[name].camera = camera;
        for (const side of ["xaxis", "yaxis", "zaxis"])
          layout[name][side] = { ...axis, backgroundcolor: clear, ...given[name][side] };
      }
    }
    return layout;
  }

  // Plotly makes the kinds of traces that the first page needs as it is loaded, all others here, when one is drawn.
  const AT_ONCE = new Set(["bar", "heatmap", "scatter"]);
  function complete(Plotly, data) {
    if (!Plotly.registerRest || data.every((trace) => AT_ONCE.has(trace.type ?? "scatter"))) return;
    Plotly.registerRest();
    delete Plotly.registerRest;
  }

  // What is out of sight is drawn when the browser has nothing else to do: what is in sight comes first.
  function itsTurn(node) {
    const { top, bottom } = node.getBoundingClientRect();
    if (!window.requestIdleCallback || (top < window.innerHeight && bottom > 0)) return null;
    return new Promise((go) => requestIdleCallback(go, { timeout: 1500 }));
  }

  // `drawn(node, value, Plotly)` is called after each drawing.
  function mountFigure(element, props, watch, drawn) {
    const node = element.querySelector(".studio-figure");
    let Plotly = null, queued = Promise.resolve(), onPhone = null;
    const narrow = () => node.offsetWidth > 0 && node.offsetWidth < 640;
    async function draw() {
      const value = props.value;
      if (!value || !value.data) return;
      Plotly ??= await loadPlotly();
      if (!node.data) await itsTurn(node);
      if (!node.isConnected) return;
      node.setAttribute("aria-label", value.description || "Figure");
      onPhone = narrow();
      complete(Plotly, value.data);
      const layout = themed((onPhone && value.narrow) || value.layout || {}, node.layout);
      if (value.narrow) node.style.height = `${layout.height}px`;
      await Plotly.react(node, structuredClone(value.data), layout,
        { responsive: false, displaylogo: false, displayModeBar: false, showSendToCloud: false });
      window.cceStudio.offerToSave?.(node, Plotly);
      drawn?.(node, value, Plotly);
      node.dispatchEvent(new CustomEvent("studio-drawn", { bubbles: true }));
    }
    const redraw = () => { queued = queued.then(draw).catch((error) => console.error(error)); };
    watch("value", redraw);
    // Size: a tab that was hidden at load has no width yet.
    new ResizeObserver(() => {
      if (!Plotly || node.offsetWidth === 0 || !node.data) return;
      if (props.value?.narrow && narrow() !== onPhone) redraw();
      else Plotly.Plots.resize(node);
    }).observe(node);
    new MutationObserver(redraw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    redraw();
  }

  // A picked picture reaches the server in several messages. What acts on it waits until all have been answered.
  let held = 0, waiting = [];
  function hold() { held += 1; }
  function release() {
    held = Math.max(0, held - 1);
    if (held === 0) waiting.splice(0).forEach((go) => go());
  }
  async function settled() {
    await new Promise((go) => setTimeout(go, 30)); // a click of just now has not been told to `hold` yet
    if (held > 0) await new Promise((go) => { waiting.push(go); setTimeout(go, 20000); });
  }
  // Two quick picks may reach the server in either order: it is told which one was the last.
  let picks = 0;
  const numbered = (...given) => [...given.slice(0, -1), ++picks];
  // A list tells of a choice twice, and once more whenever the focus leaves it. What hangs on a choice hangs on a
  // button out of sight instead, which is pressed once for every other value.
  const values = new Map();
  function focused(list, value) { values.set(list, value); }
  function picked(list) { values.delete(list); }
  function chose(list, value) {
    if (values.get(list) === value) return;
    values.set(list, value);
    hold(); // until those who listen to the button have had time to do so themselves
    setTimeout(release, 600);
    document.querySelector(`#${list}`)?.click();
  }
  // A slider tells of every step on its way. What hangs on it hangs on a button, pressed where it comes to rest.
  const moving = new Map();
  function slid(button) {
    if (moving.has(button)) clearTimeout(moving.get(button));
    else hold();
    moving.set(button, setTimeout(() => {
      moving.delete(button);
      document.querySelector(`#${button}`)?.click();
      setTimeout(release, 600);
    }, 250));
  }
  // A table that was unfolded stays so when its panel is filled anew.
  const unfolded = new Set();
  function placeOf(details) {
    const panel = details.parentElement?.closest("[id]");
    return panel && `${panel.id} ${[...panel.querySelectorAll("details")].indexOf(details)}`;
  }
  document.addEventListener("toggle", (event) => {
    const place = event.target.matches?.("details") && event.target.isConnected && placeOf(event.target);
    if (place) event.target.open ? unfolded.add(place) : unfolded.delete(place);
  }, true);
  new MutationObserver((changes) => {
    if (!unfolded.size) return;
    for (const change of changes) for (const node of change.addedNodes) {
      if (!(node instanceof HTMLElement)) continue;
      const found = node.matches("details") ? [node] : node.querySelectorAll("details");
      for (const details of found) if (unfolded.has(placeOf(details))) details.open = true;
    }
  }).observe(document.documentElement, { childList: true, subtree: true });

  // A button that started work could not be used meanwhile, which takes the focus off it: it comes back.
  let lastFocused = "";
  document.addEventListener("focusin", (event) => { lastFocused = event.target.closest("[id]")?.id ?? ""; });
  function refocus(...buttons) {
    const nowhere = !document.activeElement || document.activeElement === document.body;
    if (nowhere && buttons.includes(lastFocused)) setTimeout(() => document.getElementById(buttons[0])?.focus({ preventScroll: true }), 60);
  }

  // Gradio calls the pictures of a gallery "Thumbnail 1 of 20": they are called what they show.
  function nameThumbnails(root) {
    for (const button of root.querySelectorAll(".thumbnail-item")) {
      const caption = button.querySelector(".caption-label")?.textContent.trim();
      const place = button.getAttribute("aria-label")?.match(/\d+ of \d+$/)?.[0];
      if (caption && place && !button.getAttribute("aria-label").startsWith(caption))
        button.setAttribute("aria-label", `${caption}, ${place}`);
    }
  }
  let naming = 0;
  new MutationObserver(() => {
    cancelAnimationFrame(naming);
    naming = requestAnimationFrame(() => nameThumbnails(document));
  }).observe(document.documentElement, { childList: true, subtree: true });

  // The work on what is in sight has failed, and a message says why: nothing goes on saying that it is under way.
  function giveUp() {
    const words = "It could not be worked out.";
    for (const node of document.querySelectorAll(".studio-waiting")) if (node.offsetParent) node.textContent = words;
    for (const node of document.querySelectorAll(".studio-figure")) if (node.offsetParent) node.dataset.waiting = words;
  }

  window.cceStudio = { mountFigure, loadPlotly, hold, release, settled, held: () => held, giveUp,
    focused, picked, chose, numbered, slid, refocus };
  loadPlotly().catch(() => {}); // while the rest of the page loads; the first figure tries again
})();
