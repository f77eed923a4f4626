"""The pictures in the documents: the console's pages in a real Chromium, with fixed answers and a clock that stands.

`python -m tests.gateway.http.pictures [DIRECTORY]` takes them again, into `docs/pictures` if no directory is named.
"""

from __future__ import annotations

import base64
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from pydantic import BaseModel
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.http.console import Console
from tests.gateway.http.browser import chromium, complaints, fresh, look
from tests.gateway.http.picture_data import GROUP, NOW_MS, TOPIC, answers, for_ever

PICTURES: Final = Path(__file__).resolve().parents[3] / "docs" / "pictures"
BYTES_MAX: Final = 150_000
QUALITY: Final = 82
WITHIN_S: Final = 60.0
CLOCK: Final = f"""
const Real = Date;
globalThis.Date = class extends Real {{
  constructor(...parts) {{ parts.length ? super(...parts) : super({NOW_MS}); }}
  static now() {{ return {NOW_MS}; }}
}};
"""
DIFFERENCE: Final = """
const [width, height] = [64, 64], [urls, done] = arguments;
const load = (url) => new Promise((loaded) => {
  const image = new Image();
  image.onload = () => {
    const copy = Object.assign(document.createElement('canvas'), { width, height });
    const context = copy.getContext('2d', { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    loaded([image.naturalWidth, image.naturalHeight, context.getImageData(0, 0, width, height).data]);
  };
  image.src = url;
});
Promise.all(urls.map(load)).then(([one, other]) => {
  const isOfOneSize = one[0] === other[0] && one[1] === other[1];
  const sum = one[2].reduce((before, value, at) => before + Math.abs(value - other[2][at]), 0);
  done(isOfOneSize ? sum / one[2].length : 255);
});
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A page, how it is looked at, and what it shows when it is whole."""

    name: str
    page: str
    height: int
    whole: Callable[[Chrome], Any]
    width: int = 1280
    dark: bool = False

    @property
    def file(self) -> str:
        return f"{self.name}.webp"


def _rows(body: str, count: int) -> Callable[[Chrome], bool]:
    return lambda browser: len(browser.find_elements(By.CSS_SELECTOR, f"#{body} tr")) >= count


def _has_rates(browser: Chrome) -> bool:
    rate = browser.find_element(By.ID, "in-rate").text
    lines = browser.find_elements(By.CSS_SELECTOR, "#groups .trend path[d]")
    return rate.endswith("/s") and len(lines) == 5 and "4 active" in _described(browser)


def _described(browser: Chrome) -> str:
    return browser.find_element(By.ID, "map").get_attribute("aria-label") or ""


def _has_a_message_open(browser: Chrome) -> bool:
    opened = browser.find_elements(By.CSS_SELECTOR, "#messages button")
    if opened and not browser.find_element(By.ID, "one").is_displayed():
        opened[0].click()
    return bool(browser.find_element(By.ID, "one-value").text)


def _has_lags(browser: Chrome) -> bool:
    return "between" in browser.find_element(By.ID, "trend-note").text and _rows("partitions", 8)(browser)


ALL: Final = (
    Picture("overview", f"/#{TOPIC}", 1_000, _has_rates),
    Picture("topic-dark", f"/console/topic.html?topic={TOPIC}", 900, _rows("partitions", 16), dark=True),
    Picture("messages", f"/console/messages.html?topic={TOPIC}&partition=0", 1_000, _has_a_message_open),
    Picture("group", f"/console/group.html?group={GROUP}", 900, _has_lags),
    Picture("health", "/console/health.html", 900, _rows("warnings", 2)),
    Picture("phone", f"/#{TOPIC}", 844, _has_rates, width=390),
)


@contextlib.contextmanager
def served(**instead: BaseModel) -> Iterator[str]:
    """The address of a server of the console's real files, with the fixed answers; `instead` has others, by path."""
    console, told = Console(), answers() | {path: for_ever(model) for path, model in instead.items()}

    async def answer(request: Request) -> Response:
        found = told.get(request.path_params["path"])
        if found is None:
            return JSONResponse({"detail": "no picture needs this"}, 404)
        return Response(next(found), media_type="application/json")

    routes = [Route("/", console.index), Route("/console/{name}", console.file), Route("/api/v1/{path:path}", answer)]
    config = uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="pictures", daemon=True)
    thread.start()
    deadline = time.monotonic() + WITHIN_S
    while not server.started:
        assert thread.is_alive(), "the server has ended"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.01)
    try:
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(WITHIN_S)


def take(browser: Chrome, picture: Picture) -> bytes:
    """One picture, as WebP. Raises AssertionError if the page complains."""
    fresh(browser)
    look(browser, picture.width, picture.height, dark=picture.dark, phone=picture.width < 600)
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "UTC"})
    clock = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": CLOCK})
    try:
        with served() as address:
            browser.get(f"{address}{picture.page}")
            WebDriverWait(browser, WITHIN_S, 0.05).until(picture.whole, f"{picture.name} never was whole")
            assert browser.find_element(By.ID, "status-text").text == "Live"
            taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
            assert complaints(browser) == []
            browser.get("about:blank")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", clock)
        browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})
    return base64.b64decode(taken["data"])


def difference(browser: Chrome, one: bytes, other: bytes) -> float:
    """By how much two pictures differ on average, of 255, seen from afar, as 64 by 64 points. 255: not of one size."""
    browser.get("about:blank")
    urls = [f"data:image/webp;base64,{base64.b64encode(data).decode()}" for data in (one, other)]
    found: float = browser.execute_async_script(DIFFERENCE, urls)
    return found


def main(directory: Path = PICTURES) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for picture in ALL:
            data = take(browser, picture)
            (directory / picture.file).write_bytes(data)
            print(f"{directory / picture.file}: {len(data):,} bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
