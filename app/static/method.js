// The method page: Eq. 5's crossing term at a prediction that is moved with sliders. The formulas of app/services/method.py,
// in closed form; a browser test holds one to the other.
(() => {
  const CLASSES = 10;
  const MODES = { "CCE-RM": { pm: 1, dm: 1 }, "CCE-DM": { pm: 0, dm: 5 } };

  function prediction(fy, share) {
    const rest = 1 - fy;
    return [fy, rest * share, ...Array(CLASSES - 2).fill((rest * (1 - share)) / (CLASSES - 2))];
  }

  // Minus the gradient with respect to each logit; w carries no gradient:
  // -d(w C)/dz_k = w ([k = y] - p_k), and with +(1 - w) H climbed, dH/dz_k = -p_k (ln p_k + H).
  function push(fy, share, { pm, dm }) {
    const p = prediction(fy, share), w = fy;
    const ln = (q) => (q > 0 ? Math.log(q) : 0);
    const C = -ln(fy), H = -p.reduce((sum, q) => sum + q * ln(q), 0);
    const descent = p.map((q, k) => pm * w * ((k === 0 ? 1 : 0) - q) - dm * (1 - w) * q * (ln(q) + H));
    return { p, w, C, H, promoting: pm * w * C, demoting: -dm * (1 - w) * H, descent };
  }

  const signed = (v, digits = 3) => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(digits);
  const plain = (v, digits = 3) => (v < 0 ? "−" : "") + Math.abs(v).toFixed(digits);

  // Ten bars; the arrow above each says where a step of training moves that class.
  function bars({ p, descent }) {
    const names = ["y", "wrong", ...Array(CLASSES - 2).fill("")];
    const floor = 150, tall = 104, wide = 30, step = 34, left = 10;
    const parts = p.map((q, k) => {
      const x = left + k * step, h = Math.max(1, tall * q), d = descent[k];
      const size = Math.min(26, 8 + 40 * Math.abs(d)), mid = x + wide / 2, top = floor - h - 6;
      const kind = k === 0 ? "true" : k === 1 ? "favoured" : "other";
      const arrow = Math.abs(d) < 0.0005 ? "" : d > 0
        ? `<path class="up" d="M${mid} ${top}V${top - size}m-5 6l5 -6l5 6"/>`
        : `<path class="down" d="M${mid} ${top - size}V${top}m-5 -6l5 6l5 -6"/>`;
      return `<rect class="${kind}" x="${x}" y="${floor - h}" width="${wide}" height="${h}" rx="2"/>${arrow}` +
        `<text x="${mid}" y="${floor + 16}">${names[k]}</text>`;
    });
    parts.push(`<text x="${left + 5.5 * step + wide}" y="${floor + 16}">the eight others</text>`);
    return parts.join("");
  }

  // The push on y over f_y, both modes, on a scale that never changes.
  function curves(fy, share, chosen) {
    const x = (v) => 44 + 296 * v, y = (v) => 18 + (0.8 - v) * 62, low = -1.5;
    const line = (mode) => Array.from({ length: 99 }, (_, i) => (i + 1) / 100)
      .map((v) => `${x(v).toFixed(1)} ${y(Math.max(low, push(v, share, MODES[mode]).descent[0])).toFixed(1)}`).join("L");
    const ticks = [0.5, 0, -0.5, -1, -1.5].map((v) =>
      `<line class="grid${v === 0 ? " zero" : ""}" x1="44" x2="340" y1="${y(v)}" y2="${y(v)}"/>` +
      `<text class="tick" x="38" y="${y(v) + 4}">${plain(v, 1)}</text>`).join("");
    const across = [0, 0.5, 1].map((v) => `<text x="${x(v)}" y="178">${v}</text>`).join("");
    const at = push(fy, share, MODES[chosen]).descent[0];
    return `${ticks}${across}<text x="192" y="192">f_y</text>` +
      `<text class="side" x="336" y="${y(0.62)}">raises f_y</text><text class="side" x="336" y="${y(-1.36)}">lowers f_y</text>` +
      Object.keys(MODES).map((m) => `<path class="curve ${m}${m === chosen ? " chosen" : ""}" d="M${line(m)}"/>`).join("") +
      `<circle class="here" cx="${x(fy)}" cy="${y(Math.max(low, at))}" r="6"/>`;
  }

  function mount(element) {
    const at = (name) => element.querySelector(`[data-part="${name}"]`);
    function draw() {
      const fy = Number(at("fy").value), share = Number(at("share").value);
      const mode = element.querySelector("input[name=method-mode]:checked").value;
      const lambda = MODES[mode], now = push(fy, share, lambda), d = now.descent[0];
      at("fy-value").textContent = fy.toFixed(2);
      at("share-value").textContent = `${Math.round(100 * share)} %`;
      at("w").style.width = `${100 * now.w}%`;
      at("w-words").textContent = `promoting, w = ${now.w.toFixed(2)}`;
      at("dw-words").textContent = `demoting, 1 − w = ${(1 - now.w).toFixed(2)}`;
      const numbers = { C: now.C, H: now.H, promoting: now.promoting, demoting: now.demoting,
        total: now.promoting + now.demoting };
      for (const [name, value] of Object.entries(numbers)) at(name).textContent = plain(value);
      at("pm").textContent = lambda.pm;
      at("dm").textContent = lambda.dm;
      at("descent").textContent = signed(d);
      const promoted = lambda.pm * fy * (1 - fy), demoted = d - promoted;
      const parts = lambda.pm ? `Promoting pushes it by ${signed(promoted)}, demoting by ${signed(demoted)}.`
        : demoted > 0 ? "Demoting takes from the wrong class, and the true class gains."
        : "Demoting takes from the true class too.";
      const moves = Math.abs(d) < 0.0005 ? "leaves f_y where it is" : d > 0 ? "raises f_y" : "lowers f_y";
      at("verdict").textContent = `A step of training ${moves}. ${parts}`;
      at("bars").innerHTML = bars(now);
      at("bars").setAttribute("aria-label", `Prediction: true class ${fy.toFixed(2)}, favoured wrong class ` +
        `${now.p[1].toFixed(2)}, each other ${now.p[2].toFixed(3)}. Push on the true class ${signed(d)}.`);
      at("curves").innerHTML = curves(fy, share, mode);
    }
    element.addEventListener("input", draw);
    draw();
  }
  window.cceMethod = { mount, push, MODES };
})();
