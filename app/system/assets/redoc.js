// Starts Redoc with the settings that the page carries as JSON. Fonts are the system's: nothing is fetched.
(() => {
  "use strict";
  const { url } = JSON.parse(document.getElementById("settings").textContent);
  const text = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
  const code = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
  const options = {
    hideDownloadButton: false,
    expandResponses: "200,201",
    scrollYOffset: 52,
    theme: {
      colors: { primary: { main: "#1f6fd6" } },
      typography: { fontFamily: text, headings: { fontFamily: text }, code: { fontFamily: code } },
      rightPanel: { backgroundColor: "#12161f" },
      sidebar: { backgroundColor: "#f6f8fa" },
    },
  };
  Redoc.init(url, options, document.getElementById("docs"));
})();
