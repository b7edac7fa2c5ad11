"use strict";
// Draws the figures that the page holds as JSON, each into its place.
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { scale: 2 },
  };
  figures.forEach(function (figure, index) {
    Plotly.newPlot("figure-" + index, figure.data, figure.layout, config);
  });
})();
