"use strict";
// Draws the figures that the page holds as JSON, each into its place.
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  figures.forEach(function (figure, index) {
    const place = document.getElementById("figure-" + index);
    Plotly.newPlot(place, figure.data, figure.layout, {
      responsive: true,
      displaylogo: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { scale: 2, filename: place.closest("section").id },
    });
  });
})();
