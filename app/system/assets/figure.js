// Draws the figure that the page carries as JSON. A file of its own, so that the page needs no inline script.
(() => {
  "use strict";
  const chart = document.getElementById("chart");
  const message = (text) => {
    const line = document.createElement("p");
    line.textContent = text;
    chart.replaceChildren(line);
  };
  if (typeof Plotly === "undefined") {
    message("The chart library could not be loaded: is the service that made this page still reachable?");
    return;
  }
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
})();
