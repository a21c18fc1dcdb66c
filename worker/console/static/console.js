// Live updates can be paused, the colour scheme chosen, and texts copied. Every page works without this file.
"use strict";
(() => {
  const THEMES = ["auto", "light", "dark"];
  const stored = (key, fallback) => {
    try { return localStorage.getItem(key) ?? fallback; } catch { return fallback; }
  };
  const store = (key, value) => {
    try { localStorage.setItem(key, value); } catch { /* The browser keeps nothing: it lasts for this page. */ }
  };

  // Before the page is drawn, so that it does not flash.
  let theme = stored("stockhook.theme", "auto");
  const showTheme = () => {
    document.documentElement.dataset.theme = theme;
    for (const button of document.querySelectorAll("[data-theme-switch]")) {
      button.hidden = false;
      button.textContent = `Theme: ${theme}`;
    }
  };
  showTheme();

  let paused = stored("stockhook.paused", "no") === "yes";
  let connection = null;

  const showState = (text) => {
    const state = document.querySelector("[data-live-state]");
    if (state) {
      state.textContent = text;
      state.classList.toggle("is-live", text === "Live");
    }
    const button = document.querySelector("[data-live-switch]");
    if (button) {
      button.hidden = false;
      button.textContent = paused ? "Resume updates" : "Pause updates";
      button.setAttribute("aria-pressed", String(paused));
    }
  };

  const switchLive = () => {
    const region = document.querySelector("[data-live]");
    paused = !paused;
    store("stockhook.paused", paused ? "yes" : "no");
    if (paused) {
      connection?.reader?.cancel();
      showState("Paused");
    } else {
      showState("Connecting");
      htmx.ajax("GET", region.getAttribute("hx-sse:connect"), {source: region});
    }
  };

  // The clipboard's API is missing over plain HTTP; the selection works everywhere.
  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    let isCopied = false;
    try {
      await navigator.clipboard.writeText(source.textContent);
      isCopied = true;
    } catch {
      getSelection().selectAllChildren(source);
      isCopied = document.execCommand("copy");
    }
    button.textContent = isCopied ? "Copied" : "Selected: press Ctrl-C";
  };
  const showCopyButtons = () => {
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.hidden = false;
      button.addEventListener("click", () => copy(button));
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    showTheme();
    showCopyButtons();
    document.querySelector("[data-theme-switch]")?.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      store("stockhook.theme", theme);
      showTheme();
    });
    if (!document.querySelector("[data-live]")) return;
    showState(paused ? "Paused" : "Connecting");
    document.querySelector("[data-live-switch]").addEventListener("click", switchLive);
  });

  // The stream ends while updates are paused: the server does nothing for this page then.
  document.addEventListener("htmx:sse:before:connection", (event) => {
    if (paused) event.preventDefault();
  });
  document.addEventListener("htmx:sse:after:connection", (event) => {
    connection = event.detail.connection;
    showState("Live");
  });
  document.addEventListener("htmx:sse:error", (event) => {
    const isSignedOut = event.detail.status === 401;
    showState(isSignedOut ? "Signed out: load the page again" : "No connection: the numbers are old");
  });
  for (const name of ["htmx:error", "htmx:response:error"]) {
    document.addEventListener(name, () => {
      if (!paused) showState("No connection: load the page again");
    });
  }
  document.addEventListener("htmx:sse:close", () => {
    if (!paused) showState("No connection: load the page again");
  });
})();
