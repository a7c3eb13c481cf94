// The detection board: a threshold to drag over the histograms, and every rate that follows from it.
(() => {
  const studio = window.cceStudio;
  if (!studio || studio.mountBoard) return;
  const percent = (part, of) => (of ? `${((100 * part) / of).toFixed(1)} %` : "–");
  const say = (node, text) => { if (node && node.textContent !== text) node.textContent = text; };

  // Which of the three columns the picture above is in: its rates are framed.
  let focused = "nothing";
  studio.focusRate = (kind) => {
    focused = kind;
    for (const board of document.querySelectorAll(".studio-board")) board.dataset.focus = kind;
  };

  studio.mountBoard = (element, props, watch) => {
    const find = (name) => element.querySelector(name);
    find(".studio-board").dataset.focus = focused;
    const handle = find(".studio-threshold"), reset = find(".threshold-reset");
    let plot = null, key = null, threshold = 0, placed = false;

    const rates = (sample) => {
      let flagged = 0, missed = 0;
      sample.values.forEach((value, i) => {
        if (value > threshold) flagged += 1;
        else if (sample.right[i] === "0") missed += 1;
      });
      const n = sample.values.length;
      return { flagged: percent(flagged, n), missed: percent(missed, n) };
    };

    function place() {
      const layout = plot?._fullLayout;
      if (!layout?.xaxis) return;
      const x = layout.xaxis, last = layout.yaxis3 ?? layout.yaxis;
      const [low, high] = x.range;
      handle.hidden = threshold < low || threshold > high;
      handle.style.left = `${x._offset + x.d2p(threshold)}px`;
      handle.style.top = `${layout.yaxis._offset}px`;
      handle.style.height = `${last._offset + last._length - layout.yaxis._offset}px`;
    }

    function show() {
      const value = props.value;
      if (!value?.samples) return;
      const own = Math.abs(threshold - value.threshold) < 1e-9;
      const words = own ? (value.own ? "the model's own threshold" : "5 % of these clean pictures flagged") : "dragged here";
      say(find(".threshold-words"), `Flagged above ${threshold.toFixed(3)} nats: ${words}.`);
      reset.disabled = own;
      const top = plot?._fullLayout?.xaxis?.range?.[1] ?? 1;
      handle.setAttribute("aria-valuemin", "0");
      handle.setAttribute("aria-valuemax", top.toFixed(3));
      handle.setAttribute("aria-valuenow", threshold.toFixed(3));
      handle.setAttribute("aria-valuetext", `${threshold.toFixed(3)} nats`);
      const known = new Map(value.samples.map((sample) => [sample.name, rates(sample)]));
      for (const row of element.querySelectorAll("[data-sample]")) {
        const found = known.get(row.dataset.sample);
        for (const cell of row.querySelectorAll("[data-rate]")) say(cell, found?.[cell.dataset.rate] ?? "–");
      }
      place();
    }

    function fill() {
      const value = props.value;
      if (!value?.samples) return;
      find(".studio-board-cards").innerHTML = value.cards;
      find(".studio-board-table").innerHTML = value.table;
      if (value.key !== key) { key = value.key; threshold = value.threshold; }
      show();
    }

    function move(value) {
      const top = plot?._fullLayout?.xaxis?.range?.[1] ?? 1;
      threshold = Math.min(top, Math.max(0, value));
      show();
    }

    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.focus();
      handle.setPointerCapture(event.pointerId);
    });
    handle.addEventListener("pointermove", (event) => {
      if (!plot || !handle.hasPointerCapture(event.pointerId)) return;
      const x = plot._fullLayout.xaxis;
      move(x.p2d(event.clientX - plot.getBoundingClientRect().left - x._offset));
    });
    handle.addEventListener("keydown", (event) => {
      const step = (plot?._fullLayout?.xaxis?.range?.[1] ?? 1) / (event.shiftKey ? 20 : 200);
      const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step };
      if (event.key in moves) move(threshold + moves[event.key]);
      else if (event.key === "Home") move(0);
      else if (event.key === "End") move(Infinity);
      else return;
      event.preventDefault();
    });
    reset.addEventListener("click", () => move(props.value.threshold));

    watch("value", fill);
    studio.mountFigure(element, props, watch, (node) => {
      plot = node;
      if (!placed) { placed = true; node.on("plotly_afterplot", place); node.on("plotly_relayout", place); }
      fill();
    });
    fill();
  };
})();
