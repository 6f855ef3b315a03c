// Draws every element `.brain` when it comes into view, and frees it when it has left: browsers draw few scenes at once.
// `data-scene` names the element that holds what it shows; `#cortex` holds the surface that all of them share.
(() => {
  "use strict";
  const VIEWS = {
    left: { x: -1.35, y: 0, z: 0.2 },
    right: { x: 1.35, y: 0, z: 0.2 },
    above: { x: 0, y: -0.01, z: 1.5 },
    front: { x: 0, y: 1.5, z: 0.2 },
  };

  const isNarrow = (element) => element.clientWidth < 600;

  // On a phone the scene is higher than wide: from further away, the whole brain is in it.
  function eyeOf(element, name) {
    const distance = isNarrow(element) ? 1.35 : 1;
    return Object.fromEntries(Object.entries(VIEWS[name]).map(([axis, value]) => [axis, value * distance]));
  }

  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  function unpacked(text, Type) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return Array.from(new Type(bytes.buffer));
  }

  let surfaces = null;
  function cortex() {
    if (surfaces) return surfaces;
    const packed = read("cortex");
    surfaces = Object.values(packed.hemispheres).map((side) => {
      const mm = unpacked(side.vertices, Int16Array).map((value) => value * packed.unit_mm);
      const corners = unpacked(side.faces, Uint16Array);
      const every = (list, first) => list.filter((_, place) => place % 3 === first);
      return {
        type: "mesh3d", hoverinfo: "skip", color: "#9a9a9a", opacity: 0.14, flatshading: false,
        x: every(mm, 0), y: every(mm, 1), z: every(mm, 2),
        i: every(corners, 0), j: every(corners, 1), k: every(corners, 2),
      };
    });
    return surfaces;
  }

  function colourBar(scene, ink, narrow) {
    const title = { text: scene.unit, side: narrow ? "top" : "right", font: { color: ink, size: 12 } };
    return { title, thickness: 14, len: 0.7, tickfont: { color: ink, size: 12 }, x: narrow ? 0.84 : 0.93, outlinewidth: 0 };
  }

  const column = (scene, axis) => scene.xyz.map((point) => point[axis]);

  function points(scene, bar, ink) {
    const coloured = {
      color: scene.values, colorscale: scene.colours, cmin: scene.low, cmax: scene.high, showscale: true, colorbar: bar,
    };
    const plain = { color: ink };
    const marker = { size: scene.sizes, opacity: 1, line: { width: 0.5, color: "#555555" } };
    return {
      type: "scatter3d", mode: "markers", hoverinfo: "text", hovertext: scene.labels, showlegend: false,
      x: column(scene, 0), y: column(scene, 1), z: column(scene, 2),
      marker: Object.assign(marker, scene.edges.length ? plain : coloured),
    };
  }

  function lines(scene, bar) {
    const path = { x: [], y: [], z: [] }, values = [];
    for (const [first, second, value] of scene.edges) {
      for (const end of [first, second]) {
        ["x", "y", "z"].forEach((axis, place) => path[axis].push(scene.xyz[end][place]));
        values.push(value);
      }
      for (const axis of ["x", "y", "z"]) path[axis].push(null);
      values.push(value);
    }
    const line = {
      width: 5, color: values, colorscale: scene.colours, cmin: scene.low, cmax: scene.high, showscale: true, colorbar: bar,
    };
    return Object.assign({ type: "scatter3d", mode: "lines", hoverinfo: "skip", showlegend: false, line }, path);
  }

  function draw(element) {
    const scene = read(element.dataset.scene);
    const ink = getComputedStyle(element).color, narrow = isNarrow(element);
    const bar = colourBar(scene, ink, narrow);
    const traces = [...cortex(), points(scene, bar, ink), ...(scene.edges.length ? [lines(scene, bar)] : [])];
    const hidden = { visible: false, showspikes: false };
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false,
      hoverlabel: { bgcolor: "#222222", font: { color: "#ffffff" } },
      scene: {
        xaxis: hidden, yaxis: hidden, zaxis: hidden, aspectmode: "data", dragmode: "orbit",
        domain: { x: [0, narrow ? 0.82 : 0.92], y: [0, 1] },
        camera: { eye: element.eye || eyeOf(element, "left"), up: { x: 0, y: 0, z: 1 } },
      },
    };
    Plotly.newPlot(element, traces, layout, { displayModeBar: false, responsive: true, scrollZoom: false });
    element.dataset.drawn = "yes";
  }

  function free(element) {
    if (element.dataset.drawn !== "yes") return;
    element.eye = element.layout && element.layout.scene.camera && element.layout.scene.camera.eye;
    Plotly.purge(element);
    element.dataset.drawn = "no";
  }

  function turn(element, name) {
    if (element.dataset.drawn === "yes") Plotly.relayout(element, { "scene.camera.eye": eyeOf(element, name) });
  }

  function say(element, error) {
    element.textContent = `This browser cannot draw the rotatable brain (${error.message}); the map stands beside it.`;
  }

  function attempt(element) {
    try { draw(element); } catch (error) { say(element, error); }
  }

  const watcher = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) free(target);
      else if (target.dataset.drawn !== "yes") attempt(target);
    }
  }, { rootMargin: "100px" });
  document.querySelectorAll(".brain").forEach((element) => watcher.observe(element));

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-view]");
    if (button) turn(document.getElementById(button.dataset.brain), button.dataset.view);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.querySelectorAll('.brain[data-drawn="yes"]').forEach((element) => { free(element); attempt(element); });
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
})();
