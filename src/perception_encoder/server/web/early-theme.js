// Sets the chosen theme before anything is drawn; a module would come too late and flash.
(() => {
  try {
    const theme = localStorage.getItem("theme");
    if (theme) document.documentElement.dataset.theme = theme;
  } catch {
    // storage is switched off: the system's theme it is
  }
})();
