// Figures of several 3D scenes share one camera: dragging one turns all.
(() => {
  const studio = window.cceStudio;
  if (!studio || studio.mountScenes) return;

  function shareCamera(node, Plotly) {
    if (node.dataset.shared) return;
    node.dataset.shared = "yes";
    const scenes = () => Object.keys(node._fullLayout).filter((name) => /^scene\d*$/.test(name));
    const moved = (change) => Object.keys(change ?? {}).find((key) => /^scene\d*\.camera$/.test(key));
    // While one is dragged the others only look the same way: a relayout would put the dragged one back.
    function follow(change) {
      const key = moved(change);
      if (!key) return;
      for (const name of scenes()) {
        const layout = node._fullLayout[name];
        if (!key.startsWith(`${name}.`)) layout._scene?.setViewport({ ...layout, camera: change[key] });
      }
    }
    // When it is let go, the camera becomes that of all, where the next drawing finds it.
    let settling = false;
    async function settle(change) {
      const key = moved(change);
      if (!key || settling) return;
      settling = true;
      const all = Object.fromEntries(scenes().map((name) => [`${name}.camera`, structuredClone(change[key])]));
      try { await Plotly.relayout(node, all); } finally { settling = false; }
    }
    node.on("plotly_relayouting", follow);
    node.on("plotly_relayout", settle);
  }

  studio.mountScenes = (element, props, watch) =>
    studio.mountFigure(element, props, watch, (node, value, Plotly) => shareCamera(node, Plotly));
})();
