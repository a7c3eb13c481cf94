// Every figure can be saved: as SVG, as PNG, and its numbers as CSV.
(() => {
  const studio = window.cceStudio;
  if (!studio || studio.offerToSave) return;

  function download(address, name) {
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.click();
  }

  const nameOf = (node) => node.closest(".block[id]")?.id || "figure";

  const cell = (value) => {
    const text = String(value ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  // A line for each point of each trace; Plotly keeps long columns as typed arrays, or as {bdata} of its own.
  function csv(data) {
    const rows = [["trace", "x", "y", "z", "label"]];
    for (const [i, trace] of data.entries()) {
      const name = trace.name ?? `trace ${i + 1}`;
      const list = (values) => (values?.length === undefined ? null : [...values]);
      const [x, y, z, labels] = [trace.x, trace.y, trace.z, trace.customdata ?? trace.text].map(list);
      if (z?.[0]?.length !== undefined)
        z.forEach((line, row) => [...line].forEach((value, column) =>
          rows.push([name, at(x, row, column, column), at(y, row, column, row), value, ""])));
      else
        for (let k = 0; k < Math.max(x?.length ?? 0, y?.length ?? 0); k++)
          rows.push([name, x?.[k], y?.[k], z?.[k], labels?.[k]]);
    }
    return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }
  // An axis of a surface is a list, or a table of its own.
  const at = (axis, row, column, place) => (axis?.[row]?.length !== undefined ? axis[row][column] : axis?.[place] ?? place);

  async function save(node, Plotly, kind) {
    const name = nameOf(node);
    if (kind === "csv") {
      const address = URL.createObjectURL(new Blob([csv(node.data)], { type: "text/csv" }));
      download(address, `${name}.csv`);
      setTimeout(() => URL.revokeObjectURL(address), 10000);
      return;
    }
    const ground = getComputedStyle(document.body).getPropertyValue("--body-background-fill").trim() || "white";
    const figure = { data: node.data, layout: { ...node.layout, paper_bgcolor: ground } };
    const size = { width: node.offsetWidth, height: node.offsetHeight, scale: kind === "png" ? 2 : 1 };
    download(await Plotly.toImage(figure, { format: kind, ...size }), `${name}.${kind}`);
  }

  function offerToSave(node, Plotly) {
    const around = node.parentElement;
    if (!around || around.querySelector(":scope > .studio-save")) return;
    const bar = document.createElement("p");
    bar.className = "studio-save";
    for (const kind of ["svg", "png", "csv"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = kind.toUpperCase();
      button.setAttribute("aria-label", `Save as ${kind.toUpperCase()}: ${nameOf(node)}`);
      button.addEventListener("click", () => save(node, Plotly, kind).catch((error) => console.error(error)));
      bar.append(button);
    }
    around.style.position = "relative";
    around.append(bar);
  }

  Object.assign(studio, { offerToSave });
})();
