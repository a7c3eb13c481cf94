// The Attack tab's own script: the step slider, which replays an attack without asking the server, and its link.
(() => {
  const studio = window.cceStudio;
  if (!studio || studio.mountReplay) return;

  function unpack(text) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }

  // One picture of height x width x channels bytes as the address of a PNG; grey pictures have one channel.
  function picture(bytes, height, width, channels, change = (byte) => byte) {
    const canvas = document.createElement("canvas");
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      for (let c = 0; c < 3; c++) {
        const at = i * channels + Math.min(c, channels - 1);
        image.data[4 * i + c] = change(bytes[at], at);
      }
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas.toDataURL("image/png");
  }

  function mountReplay(element, props, watch) {
    const slider = element.querySelector("input[type=range]"), play = element.querySelector("button");
    const said = element.querySelector("output"), factor = element.querySelector("select");
    const panel = (id) => document.getElementById(id);
    let value = null, benign = null, frames = null, timer = null;

    function stop() {
      clearInterval(timer); timer = null;
      play.classList.remove("playing"); play.setAttribute("aria-label", "Play the attack");
    }

    function magnification() { return factor.value === "auto" ? value.magnification : Number(factor.value); }

    function showPictures(place) {
      const [count, height, width, channels] = value.shape, size = height * width * channels;
      const frame = frames.subarray(place * size, (place + 1) * size), by = magnification();
      const after = document.querySelector("#pictures img.after");
      const between = document.querySelector("#pictures img.between");
      if (!after || !between) return;
      if (place < count - 1 || after.dataset.moved) {
        after.src = picture(frame, height, width, channels);
        after.dataset.moved = "1";
      }
      after.alt = value.stops[place].alt;
      const caption = document.querySelector("#pictures .after-caption");
      if (caption) caption.innerHTML = value.stops[place].caption;
      const change = (byte, at) => 127.5 + by * (byte - benign[at]);
      between.src = picture(frame, height, width, channels, change);
      between.alt = `the perturbation magnified ${by} times`;
      document.querySelector("#pictures .between-factor").textContent = by;
      if (place === count - 1) {
        const link = document.querySelector("#download a.perturbation");
        if (link) {
          link.href = between.src;
          link.download = link.dataset.name.replace("FACTOR", by);
          link.textContent = `Perturbation × ${by} (PNG)`;
        }
      }
    }

    async function showPlots(place) {
      const Plotly = await studio.loadPlotly();
      if (Number(slider.value) !== place) return; // the slider has gone on
      for (const [id, [restyle, relayout, traces]] of Object.entries(value.stops[place].plots)) {
        const node = document.querySelector(`#${id} .studio-figure`);
        if (node?.data) Plotly.update(node, restyle, relayout, traces ?? undefined);
      }
    }

    function show(place) {
      const stop = value.stops[place];
      said.textContent = stop.name;
      slider.setAttribute("aria-valuetext", stop.name);
      showPictures(place);
      for (const [id, index] of Object.entries(stop.html)) {
        const target = document.querySelector(`#${id} .studio-swap`);
        if (target) target.innerHTML = value.panels[id][index];
      }
      showPlots(place).catch((error) => console.error(error));
    }

    // The panels of this attack may be drawn after its slider.
    async function panelsOf(key) {
      for (let i = 0; i < 100; i++) {
        if (document.querySelector(`#pictures [data-key="${key}"]`)) return true;
        await new Promise((go) => setTimeout(go, 30));
        if (value?.key !== key) return false;
      }
      return false;
    }

    async function take() {
      const given = props.value;
      stop();
      value = given?.stops ? given : null;
      typedThen = value?.typed ?? null;
      mark();
      for (const part of [slider, play, factor]) part.disabled = !value || (part !== factor && value.stops.length < 2);
      if (!value) { slider.max = 1; slider.value = 1; said.textContent = "Press Attack, then look at each step."; return; }
      benign = unpack(value.benign); frames = unpack(value.frames);
      const last = value.stops.length - 1;
      slider.max = Math.max(1, last); slider.value = last || 1;
      slider.setAttribute("aria-valuetext", value.stops[last].name);
      said.textContent = value.stops[last].name;
      if (value.link) history.replaceState(history.state, "", ours(value.link));
      if (await panelsOf(value.key)) showPictures(last);
      const chart = document.querySelector("#trajectory .studio-figure");
      if (chart?.on && !chart.dataset.heard) {
        chart.dataset.heard = "1";
        chart.on("plotly_click", (event) => { if (value) { stop(); go(event.points[0].x); } });
      }
    }

    function go(place) { slider.value = place; show(place); }

    stepShown = (by) => {
      if (!value) return false;
      stop();
      go(Math.min(Math.max(Number(slider.value) + by, 0), value.stops.length - 1));
      return true;
    };
    playShown = async () => {
      const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      if (value && !still && !timer && await panelsOf(value.key)) play.click();
    };

    // A figure that was drawn anew, late or in other colours, shows the result: it follows the slider again.
    document.addEventListener("studio-drawn", (event) => {
      const place = Number(slider.value), last = value?.stops.length - 1;
      if (place < last && event.target.closest("#probabilities, #entropy, #trajectory")) showPlots(place);
    });
    slider.addEventListener("input", () => { stop(); if (value) show(Number(slider.value)); });
    factor.addEventListener("change", () => { if (value) showPictures(Math.min(Number(slider.value), value.stops.length - 1)); });
    play.addEventListener("click", () => {
      if (!value) return;
      if (timer) return stop();
      const last = value.stops.length - 1;
      if (Number(slider.value) >= last) go(0);
      play.classList.add("playing"); play.setAttribute("aria-label", "Pause");
      timer = setInterval(() => {
        const next = Number(slider.value) + 1;
        if (next > last) return stop();
        go(next);
        if (next === last) stop();
      }, Math.max(60, Math.min(250, 5000 / last)));
    });
    watch("value", take);
    take();
  }

  // A link of ours in this page's address: what else the address says (the theme) stays.
  function ours(link) {
    const address = new URL(window.location.href);
    for (const key of ["model", "image", "label", "attack", "norm", "epsilon", "step", "steps", "target", "objective",
      "restarts", "toward", "seed", "beside", "show", "story"]) address.searchParams.delete(key);
    const rest = address.searchParams.toString();
    return `${address.origin}${address.pathname}${link}${rest ? `&${rest}` : ""}${address.hash}`;
  }

  // Show the link, and copy it where the browser lets us.
  async function copyLink() {
    const said = document.getElementById("link");
    let field = null;
    for (let i = 0; i < 40 && !(field = said?.querySelector("input:not([data-shown])")); i++)
      await new Promise((go) => setTimeout(go, 25));
    if (!field) return;
    const address = ours(field.value);
    field.dataset.shown = "1";
    field.value = address;
    let copied = false;
    try { await navigator.clipboard.writeText(address); copied = true; } catch { /* no leave, or no secure page */ }
    if (!copied) {
      field.focus(); field.select();
      try { copied = document.execCommand("copy"); } catch { copied = false; }
    }
    said.querySelector("span").textContent = copied ? "Copied." : "Copy it from here.";
  }

  // After a link or a story: the server says in #link-note whether its attack is to be run, or its result played.
  async function goOn() {
    for (let i = 0; i < 60; i++) {
      const note = document.querySelector("#link-note [data-then]");
      if (note) {
        if (note.dataset.then === "attack") press("attack-go");
        if (note.dataset.then === "play") { showAnswer(); await playShown?.(); }
        return;
      }
      await new Promise((go) => setTimeout(go, 50));
    }
  }

  function press(id) {
    const button = document.getElementById(id);
    (button?.matches("button") ? button : button?.querySelector("button"))?.click();
  }

  // What an attack came to is in sight when it is done, wherever the page was scrolled to.
  function showAnswer() {
    requestAnimationFrame(() => {
      const answer = document.querySelector(".studio-answer"), first = document.querySelector(".studio-first");
      if (!answer?.offsetParent || !first) return;
      const top = answer.getBoundingClientRect().top, bottom = first.getBoundingClientRect().bottom;
      const floor = window.innerHeight - (window.innerWidth < 800 ? 60 : 0); // a phone's bar with the button
      if (top < 0 || bottom > floor) answer.scrollIntoView({ block: "start" });
    });
  }

  // A picture of the strip was pressed: a button out of sight tells the server, which asks here for its place.
  let pastChosen = 0;
  const chosenPast = () => pastChosen;
  document.addEventListener("click", (event) => {
    const one = event.target.closest?.("#history [data-past]");
    if (!one) return;
    pastChosen = Number(one.dataset.past);
    press("history-go");
  });

  // The settings in the controls, and those that the result on screen was made with.
  let typedNow = null, typedThen = null;
  function moved(typed) { typedNow = typed; mark(); }
  function mark() {
    // null: a control that the attack of the result does not read
    const differs = (then, place) => then !== null && String(then) !== String(typedNow[place] ?? "");
    const stale = Boolean(typedNow && typedThen?.some(differs));
    const line = document.querySelector("#stale p");
    if (line) line.hidden = !stale;
    document.getElementById("attack-results")?.classList.toggle("stale", stale);
  }

  // The arrow keys step through the replay, unless something that has the focus takes them.
  let stepShown = null, playShown = null;
  const TAKES_ARROWS = "input, select, textarea, dialog, [role=tab], [role=combobox], [role=listbox], .thumbnail-item, .studio-scroll";
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.target.closest?.(TAKES_ARROWS) || !document.getElementById("replay")?.offsetParent) return;
    if (stepShown?.(by)) event.preventDefault();
  });

  Object.assign(studio, { mountReplay, copyLink, goOn, showAnswer, moved, chosenPast });
})();
