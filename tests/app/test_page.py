"""The page in gradio, and end to end in a browser."""

import shutil

import anndata
import pytest

from sclm_hf.app.page import launch_options, make_page
from sclm_hf.app.settings import AppSettings

from .test_app import CHECKPOINT

pytest.importorskip("gradio", reason="needs the extra `app`")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    settings = AppSettings(models=(CHECKPOINT,), folder=tmp_path)
    made = make_page(settings)
    made.sclm_settings = settings
    yield made
    made.close()


def test_agents_see_the_four_tools_and_nothing_else(page):
    shown = page.get_api_info()["named_endpoints"]
    assert set(shown) == {"/embed", "/annotate", "/perturb", "/map"}


@pytest.mark.slow
def test_upload_run_click_and_download_in_a_browser(page, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser")
    chromium = shutil.which("chromium") or pytest.skip("chromium is not installed")
    from sclm_hf.app.cells import built_in_cells

    upload, damaged = tmp_path / "some.h5ad", tmp_path / "damaged.h5ad"
    damaged.write_text("no cells")
    built_in_cells()[:150].copy().write_h5ad(upload)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(page.sclm_settings))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        view = browser.new_page(viewport={"width": 1280, "height": 1500})
        view.set_default_timeout(300_000)
        view.goto(address)
        view.set_input_files("#upload input[type=file]", damaged)
        assert "damaged.h5ad" in view.wait_for_selector(".toast-body").inner_text()
        view.click(".toast-close")
        view.click("[aria-label='Clear']")
        view.set_input_files("#upload input[type=file]", upload)
        view.wait_for_selector("#upload >> text=some.h5ad")
        view.click("#run")
        view.wait_for_selector("#summary >> text=150 cells")
        image = view.wait_for_selector("#labels img")
        _click_a_cell(view, image)
        view.wait_for_selector("#told >> text=with probability")
        with view.expect_download() as download:
            view.click("#download")
        saved = tmp_path / "downloaded.h5ad"
        download.value.save_as(saved)
        other = browser.new_context().new_page()
        other.goto(address)
        other.wait_for_selector("#run")
        assert other.query_selector("#labels img") is None
        view.screenshot(path=tmp_path / "page.png", full_page=True)
        browser.close()
    cells = anndata.read_h5ad(saved)
    assert cells.n_obs == 150 and "sclm_prediction" in cells.obs


def _click_a_cell(view, image):
    """Click along a grid until a cell is near."""
    box = image.bounding_box()
    for down in (0.3, 0.5, 0.7):
        for right in (0.1, 0.2, 0.3, 0.4):
            view.mouse.click(box["x"] + right * box["width"], box["y"] + down * box["height"])
            view.wait_for_timeout(2000)
            if view.input_value("#cell input"):
                return
    raise AssertionError("no cell was found under any click")
