// Draws the figure that the page carries as JSON. A file of its own, so that the page needs no inline script.
// The page may name it at two addresses: the first copy that arrives does the work, with the library beside it.
(() => {
  "use strict";
  const source = document.currentScript.src;
  const chart = document.getElementById("chart");
  if (chart.dataset.begun) return;
  chart.dataset.begun = "yes";

  const message = (text) => {
    const line = document.createElement("p");
    line.textContent = text;
    chart.replaceChildren(line);
  };

  // Below this width a legend beside the plot would leave no plot: all legends then stand above it as one.
  const NARROW = 640;
  const EDGE = 28;
  const pen = document.createElement("canvas").getContext("2d");
  const reader = new DOMParser();

  // A label of several words on as many lines as it takes; its tags stay where they are.
  const wrap = (text, font, width) => {
    const reads = (part) => reader.parseFromString(part, "text/html").body.textContent;
    pen.font = font;
    let line = "";
    return text.split(/ +(?![^<]*>)/).reduce((done, word) => {
      const longer = line ? `${line} ${word}` : word;
      const fits = !line || pen.measureText(reads(longer)).width <= width;
      line = fits ? longer : word;
      return done + (done ? (fits ? " " : "<br>") : "") + word;
    }, "");
  };

  // What of the layout depends on the page's width.
  const suited = (layout, width) => {
    const { title, legend, font } = layout;
    const room = width - 2 * EDGE;
    const changes = { legend };
    if (width < NARROW) {
      changes.legend = {
        ...legend,
        ...{ orientation: "h", xref: "paper", x: 0, xanchor: "left", y: 1.01, yanchor: "bottom", maxheight: 0.2 },
      };
    }
    changes["title.text"] = wrap(title.text, `bold ${title.font.size}px ${font.family}`, room);
    if (title.subtitle) {
      const { text, font: small } = title.subtitle;
      changes["title.subtitle.text"] = wrap(text, `${small.size}px ${font.family}`, room);
    }
    return changes;
  };

  const tallest = (selector, side) =>
    Math.max(0, ...[...chart.querySelectorAll(selector)].map((part) => part.getBoundingClientRect()[side]));

  const fit = async ({ data, layout }) => {
    await Plotly.Plots.resize(chart);
    const narrow = chart.clientWidth < NARROW;
    const keys = data.flatMap((trace, index) => (trace.legend === "legend2" ? [index] : []));
    const traces = keys.length ? { legend: narrow ? "legend" : "legend2" } : {};
    await Plotly.update(chart, traces, suited(layout, chart.clientWidth), keys);
    // The plot begins below the heading and the legend above it, however many lines they have.
    const heading = tallest(".gtitle, .gtitle-subtitle", "bottom");
    const above = [narrow || layout.legend.orientation === "h" ? ".legend .bg" : "", ".legend2 .bg"];
    const legend = tallest(above.filter(Boolean).join(), "height");
    await Plotly.relayout(chart, { "margin.t": Math.max(layout.margin.t, heading + legend + 20) });
  };

  const draw = () => {
    const figure = JSON.parse(document.getElementById("figure").textContent);
    const options = {
      displaylogo: false,
      scrollZoom: true,
      // The library offers to upload the chart to its maker's cloud: alerts stay here.
      showSendToCloud: false,
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      toImageButtonOptions: { format: "png", scale: 2, filename: document.title },
    };
    chart.replaceChildren();
    let last = Promise.resolve();
    const next = (step) => {
      last = last.then(step).catch((error) => message(String(error)));
    };
    // A copy: the library writes into what it is given.
    next(() => Plotly.newPlot(chart, structuredClone(figure.data), structuredClone(figure.layout), options));
    next(() => fit(figure));
    let resized;
    window.addEventListener("resize", () => {
      clearTimeout(resized);
      resized = setTimeout(() => next(() => fit(figure)), 80);
    });
  };

  const library = document.createElement("script");
  library.src = new URL(chart.dataset.library, source);
  library.addEventListener("load", draw);
  library.addEventListener("error", () => message("The chart library could not be loaded."));
  document.head.append(library);
})();
