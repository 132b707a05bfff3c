"""Pages opened in a real browser: chromium, headless, driven by Playwright."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Visit:
    """A page that is open, and what it did that it should not; its sections are opened, unless ``is_folded``."""

    def __init__(
        self,
        browser: Browser,
        path: Path,
        size: tuple[int, int] = SIZES["desktop"],
        *,
        is_folded: bool = False,
        **how: Any,
    ) -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **how)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.said: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(path.as_uri())
        self.own = path.as_uri()
        if not is_folded:
            self.page.evaluate("for (const fold of document.querySelectorAll('details.section')) fold.open = true")

    def check(self) -> None:
        assert self.said == []
        assert [url for url in self.requested if not url.startswith("data:")] == [self.own]
        self.context.close()
