"""A person who has only a keyboard."""

from __future__ import annotations

from playwright.sync_api import Page

_MOST_TABS = 200
# What a screen reader would call the element that has the focus.
_NAME = """() => {
  const one = document.activeElement;
  const label = one.labels && one.labels.length ? one.labels[0].textContent : one.textContent;
  return (one.getAttribute("aria-label") || label || "").trim().replace(/\\s+/g, " ");
}"""
_IS_SHOWN = """() => {
  const style = getComputedStyle(document.activeElement);
  return style.outlineStyle !== "none" || style.boxShadow !== "none";
}"""


class Keyboard:
    """Tabs, types and presses Enter; it never points."""

    def __init__(self, page: Page) -> None:
        """Uses a page."""
        self.page = page

    def go_to(self, name: str) -> None:
        """Tabs until what has this name has the focus, and the focus can be seen."""
        met = []
        for _ in range(_MOST_TABS):
            self.page.keyboard.press("Tab")
            met.append(self.page.evaluate(_NAME))
            if met[-1] == name:
                assert self.page.evaluate(_IS_SHOWN), f"nothing shows the focus on {name}"
                return
        raise AssertionError(f"Tab never comes to {name!r}, but to {sorted(set(met))}")

    def write(self, name: str, text: str) -> None:
        """Types into a field."""
        self.go_to(name)
        self.page.keyboard.press("ControlOrMeta+A")
        self.page.keyboard.type(text)

    def press(self, name: str) -> None:
        """Presses a button or follows a link, and waits for the page behind it."""
        self.go_to(name)
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")
