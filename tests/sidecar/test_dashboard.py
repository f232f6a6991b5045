"""The dashboard as a person uses it, in a real browser: it loads, sees a backend die, and drains one by its button."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.servers import Server, free_port, start
from tests.sidecar.running import Process, one_pool, written

T = TypeVar("T")

NOTHING = "\N{EN DASH}"
TOKEN = "a-token-that-is-long-enough"
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}

pytestmark = [
    pytest.mark.skipif(
        shutil.which("chromium") is None or shutil.which("chromedriver") is None,
        reason="needs chromium and chromedriver",
    ),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "window-size=1280,1200",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def all_servers() -> Iterator[list[Server]]:
    servers = [start("uvicorn") for _ in range(3)]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def one_sidecar(all_servers: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    path = written(
        tmp_path_factory.mktemp("dashboard") / "sidecar.yaml",
        listeners=[f"127.0.0.1:{free_port()}"],
        pools=one_pool(
            [server.url for server in all_servers],
            probe={
                "path": "/health",
                "interval": 0.5,
                "timeout": 0.5,
                "healthy_threshold": 1,
                "unhealthy_threshold": 1,
            },
        ),
        admin={"bind": f"127.0.0.1:{free_port()}"},
    )
    with Process(path) as process:
        yield process


@pytest.fixture
def fleet(all_servers: list[Server]) -> list[Server]:
    """Servers that may be killed; they are alive again for the next test."""
    for server in all_servers:
        if not server.running:
            server.start()
    return all_servers


@pytest.fixture
def sidecar(one_sidecar: Process, fleet: list[Server]) -> Process:
    """The sidecar, with everybody available."""
    for server in fleet:
        one_sidecar.admin.post("/pools/api/enable", json={"url": server.url}).raise_for_status()
    until(lambda: all(backend["available"] for backend in one_sidecar.status()["pools"][0]["backends"]))
    return one_sidecar


def until(condition: Callable[[], T], within: float = 30.0) -> T:
    """What comes true."""
    began = time.monotonic()
    while True:
        try:
            found = condition()
        except StaleElementReferenceException:
            continue  # the page has changed meanwhile
        if found:
            return found
        assert time.monotonic() - began < within, f"not within {within} s"
        time.sleep(0.02)


def row_of(browser: webdriver.Chrome, url: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f'.row[data-key="{url}"]')


def state_of(browser: webdriver.Chrome, url: str) -> str:
    return row_of(browser, url).find_element(By.CSS_SELECTOR, ".pill").text


def states_of(browser: webdriver.Chrome) -> list[str]:
    return [pill.text for pill in browser.find_elements(By.CSS_SELECTOR, ".row .pill")]


def opened(browser: webdriver.Chrome, sidecar: Process) -> None:
    browser.get(str(sidecar.admin.base_url))
    until(lambda: browser.find_elements(By.CSS_SELECTOR, ".row"))


def complaints(browser: webdriver.Chrome) -> list[str]:
    log = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in log if entry["level"] == "SEVERE"]


def test_it_sees_a_backend_die_and_drains_another_by_the_button(
    browser: webdriver.Chrome, sidecar: Process, fleet: list[Server]
) -> None:
    complaints(browser)
    opened(browser, sidecar)
    until(lambda: states_of(browser) == ["available"] * 3)
    assert browser.find_element(By.ID, "link").text == "live"
    assert until(lambda: browser.find_element(By.CSS_SELECTOR, "[data-is=word]").text == "All well")

    fleet[0].kill()
    killed = time.monotonic()
    until(lambda: sidecar.status()["pools"][0]["backends"][0]["state"] == "failing")
    known = time.monotonic()
    until(lambda: state_of(browser, fleet[0].url) == "failing")
    shown = time.monotonic()
    print(f"shown {shown - killed:.2f} s after the kill, {shown - known:.2f} s after the sidecar knew")
    assert "failing its probe" in row_of(browser, fleet[0].url).find_element(By.CSS_SELECTOR, ".why").text
    assert browser.find_element(By.CSS_SELECTOR, "[data-is=word]").text == "1 backend in trouble"
    until(lambda: f"{fleet[0].url} probe failing" in browser.find_element(By.ID, "happenings").text)

    row_of(browser, fleet[1].url).find_element(By.TAG_NAME, "button").click()
    dialog = browser.find_element(By.ID, "ask")
    assert dialog.is_displayed()
    assert f"Drain {fleet[1].url}?" in dialog.text
    dialog.find_element(By.CSS_SELECTOR, "[value=no]").click()
    assert state_of(browser, fleet[1].url) == "available", "nobody said yes"

    row_of(browser, fleet[1].url).find_element(By.TAG_NAME, "button").click()
    dialog.find_element(By.ID, "ask-yes").click()
    until(lambda: state_of(browser, fleet[1].url) == "disabled")
    assert sidecar.status()["pools"][0]["backends"][1]["admin"] == "disabled"
    until(lambda: row_of(browser, fleet[1].url).find_element(By.TAG_NAME, "button").text == "Enable")

    row_of(browser, fleet[1].url).find_element(By.TAG_NAME, "button").click()
    assert "Enable" in dialog.text
    dialog.find_element(By.ID, "ask-yes").click()
    until(lambda: state_of(browser, fleet[1].url) == "available")
    assert complaints(browser) == []


def test_everything_can_be_done_with_the_keyboard(
    browser: webdriver.Chrome, sidecar: Process, fleet: list[Server]
) -> None:
    opened(browser, sidecar)
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the pools"
    wanted = f"Drain {fleet[2].url} of pool api"
    for _ in range(20):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element.get_attribute("aria-label") == wanted:
            break
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: browser.switch_to.active_element.text == "Cancel")  # a hasty Enter does no harm
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(lambda: not browser.find_element(By.ID, "ask").is_displayed())
    assert browser.switch_to.active_element.get_attribute("aria-label") == wanted, "the focus is back"
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    browser.switch_to.active_element.send_keys(Keys.TAB)
    until(lambda: browser.switch_to.active_element.text == "Drain")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: state_of(browser, fleet[2].url) == "disabled")


def test_requests_are_counted_and_decisions_explained(
    browser: webdriver.Chrome, sidecar: Process, fleet: list[Server]
) -> None:
    opened(browser, sidecar)
    fleet[0].kill()
    address = sidecar.status()["listeners"][0]["address"]
    with httpx.Client(base_url=f"http://{address}") as client:
        for _ in range(60):
            client.get("/whoami?a=<b>")
    until(lambda: browser.find_element(By.CSS_SELECTOR, "[data-is=rate]").text not in (NOTHING, "0"))
    details = until(lambda: browser.find_elements(By.CSS_SELECTOR, "#decisions details"))
    details[0].find_element(By.TAG_NAME, "summary").click()
    assert "pool api:" in details[0].find_element(By.TAG_NAME, "pre").text
    assert "/whoami?a=%3Cb%3E" in browser.find_element(By.ID, "decisions").text
    time.sleep(1.5)
    assert browser.find_elements(By.CSS_SELECTOR, "#decisions details[open]"), "what was opened stays open"


def test_it_fits_a_phone_and_is_dark_where_that_is_wanted(
    browser: webdriver.Chrome, sidecar: Process
) -> None:
    def background() -> str:
        found: str = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return found

    def prefer(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        prefer("light")
        opened(browser, sidecar)
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width == PHONE["width"]
        button = browser.find_element(By.CSS_SELECTOR, ".row button")
        assert button.size["height"] >= 44  # for a thumb
        light = background()
        prefer("dark")
        until(lambda: background() != light)
        browser.find_element(By.ID, "theme").click()  # light, whatever is preferred
        until(lambda: background() == light)
        browser.find_element(By.ID, "theme").click()
        until(lambda: background() != light)
        browser.find_element(By.ID, "theme").click()
    finally:
        prefer("light")
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_asks_for_the_token_and_comes_back_after_a_restart(
    browser: webdriver.Chrome, fleet: list[Server], tmp_path: Path
) -> None:
    port = free_port()
    path = written(
        tmp_path / "sidecar.yaml",
        pools=one_pool([server.url for server in fleet]),
        admin={"bind": f"127.0.0.1:{port}", "token": TOKEN},
    )
    with Process(path) as process:
        browser.get(f"http://127.0.0.1:{port}/")
        until(lambda: browser.find_element(By.ID, "login").is_displayed())
        browser.find_element(By.CSS_SELECTOR, "#login input").send_keys(TOKEN + Keys.ENTER)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, ".row"))
        process.__exit__(None, None, None)
        until(lambda: browser.find_element(By.ID, "link").text == "no connection")
    with Process(path):
        until(lambda: browser.find_element(By.ID, "link").text == "live")
