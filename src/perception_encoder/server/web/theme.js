// Light or dark: the system's choice until the person makes one.

const dark = matchMedia("(prefers-color-scheme: dark)");

const isDark = () => {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : dark.matches;
};

/** Makes a button change the theme and remember it. */
export function startTheme(button) {
  const label = () => {
    button.setAttribute("aria-pressed", String(isDark()));
  };
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // not remembered; it holds for this visit
    }
    label();
  });
  dark.addEventListener("change", label);
  label();
}
