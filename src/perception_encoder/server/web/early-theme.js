// Sets the chosen theme before the first paint; a module would run too late.
(() => {
  try {
    const theme = localStorage.getItem("theme");
    if (theme) document.documentElement.dataset.theme = theme;
  } catch {
    // storage is switched off: the system's theme it is
  }
})();
