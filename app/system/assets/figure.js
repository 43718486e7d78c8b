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
  const draw = () => {
    const figure = JSON.parse(document.getElementById("figure").textContent);
    const options = {
      responsive: true,
      displaylogo: false,
      scrollZoom: true,
      // The library offers to upload the chart to its maker's cloud: alerts stay here.
      showSendToCloud: false,
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      toImageButtonOptions: { format: "png", scale: 2, filename: document.title },
    };
    chart.replaceChildren();
    Plotly.newPlot(chart, figure.data, figure.layout, options).catch((error) => message(String(error)));
  };

  const library = document.createElement("script");
  library.src = new URL(chart.dataset.library, source);
  library.addEventListener("load", draw);
  library.addEventListener("error", () => message("The chart library could not be loaded."));
  document.head.append(library);
})();
