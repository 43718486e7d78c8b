// Starts Swagger UI with the settings that the page carries as JSON.
(() => {
  "use strict";
  const { oauth2RedirectPath, ...settings } = JSON.parse(document.getElementById("settings").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  follow();
  dark.addEventListener("change", follow);
  window.ui = SwaggerUIBundle({
    ...settings,
    dom_id: "#docs",
    layout: "BaseLayout",
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
    oauth2RedirectUrl: window.location.origin + oauth2RedirectPath,
  });
})();
