"""The pages in a real browser: what is drawn, what is fetched, what fits.

JOPT_REQUIRE_BROWSER=1 makes a missing browser a failure; JOPT_SCREENSHOTS names a
folder for pictures of the pages.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest

from jopt.reporting import write_page, write_report
from jopt.reporting._run_data import RunData
from jopt.reporting.watch import WatchServer

pytestmark = pytest.mark.browser

# Widths in px and schemes: opened in the first, then changed to the second.
VIEWS = [((400, "light"), (400, "dark")), ((1400, "dark"), (1400, "light"))]


def unavailable(reason: str) -> None:
    if os.environ.get("JOPT_REQUIRE_BROWSER") == "1":
        pytest.fail(f"JOPT_REQUIRE_BROWSER=1, and {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("playwright is not installed: pip install 'jopt[browser-test]'")
    program = shutil.which("chromium")
    if program is None:
        unavailable("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


class Tab:
    """A page that notes what it says and asks for."""

    def __init__(self, browser, width: int, scheme: str) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))

    def open(self, where: Path | str) -> None:
        self.page.goto(where if isinstance(where, str) else where.as_uri())

    def plot(self, name: str, what: str):
        """A part of what plotly was given for a plot, after it has drawn it."""
        return self.page.evaluate(
            f"document.querySelector('[data-plot=\"{name}\"]').{what}"
        )

    def until(self, condition: str, secs: float = 20) -> None:
        """Waits for something that a script on the page may ask."""
        limit = time.monotonic() + secs
        while not self.page.evaluate(condition):
            assert time.monotonic() < limit, condition
            self.page.wait_for_timeout(50)

    def resize(self, width: int, scheme: str) -> None:
        """Gives the window another width and colours, and waits for the plots."""
        self.page.emulate_media(color_scheme=scheme)
        self.page.set_viewport_size({"width": width, "height": 900})
        plots = "[...document.querySelectorAll('.js-plotly-plot')]"
        ground = "THEMES." + scheme + ".card"
        self.until(
            f"{plots}.every((p) => p.layout.width === p.clientWidth"
            f" && p.layout.paper_bgcolor === {ground})"
        )

    def drawn(self, selector: str) -> int:
        return self.page.locator(selector).count()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        root = "document.documentElement"
        return self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth")


@pytest.fixture
def tab(chromium):
    tabs = []

    def make(width=1400, scheme="light"):
        tabs.append(Tab(chromium, width, scheme))
        return tabs[-1]

    yield make
    for made in tabs:
        made.context.close()


def picture(tab: Tab, name: str) -> None:
    folder = os.environ.get("JOPT_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("views", VIEWS)
def test_report_of_a_run_with_trouble(tab, troubled, views):
    page = write_report(troubled.path)
    seen = tab(*views[0])
    seen.open(page)
    for width, scheme in views:
        seen.resize(width, scheme)
        assert seen.overflow() <= 0
        picture(seen, f"run-{width}-{scheme}")
    assert seen.requests == [page.as_uri()], "the file itself and nothing else"
    assert seen.complaints == []

    names = seen.plot("loss", "data.map((trace) => trace.name)")
    assert names == ["taken back", "training"]
    assert seen.plot("loss", "data[1].x.length") == 60
    assert seen.drawn("[data-plot=loss] .scatterlayer path.js-line") == 2
    marks = seen.plot("loss", "layout.annotations.map((mark) => mark.text)")
    assert any(re.match("4", mark) for mark in marks), "the rollback"
    shapes = seen.plot("loss", "layout.shapes")
    (back,) = [s for s in shapes if s["type"] == "rect"]
    assert (back["x0"], back["x1"]) == (20, 28)

    ticks = seen.plot("rates", "layout.yaxis.ticktext")
    assert ticks == ["1e-4", "0.001", "0.01"]
    rates = seen.plot("rates", "data.map((trace) => trace.name)")
    assert rates == ["matrix", "rest"]
    for statistic in ("grad_norm", "update_to_weight", "stable_rank"):
        assert seen.drawn(f"[data-plot=layer-{statistic}] .heatmaplayer image") == 1
        rows = seen.plot(f"layer-{statistic}", "data[0].z.length")
        columns = seen.plot(f"layer-{statistic}", "data[0].x.length")
        assert (rows, columns) == (3, 12)
    names = seen.plot("layer-grad_norm", "data[0].text.map((row) => row[0])")
    # blocks/10 comes after blocks/0, not between.
    assert [name.split(":")[0] for name in names] == [
        "blocks/0/attn/q/kernel",
        "blocks/0/mlp/in/kernel",
        "blocks/10/attn/q/kernel",
    ]
    # 0.1 s and 1024 tokens a step.
    overall = seen.plot("time/overall_tokens_per_sec", "data[0].y.at(-1)")
    assert overall == pytest.approx(10240, rel=0.01)


def test_page_of_several_runs(tab, plain, tmp_path):
    runs = [plain(f"seed{seed}", 1.9 + seed / 50, seed=seed) for seed in range(3)]
    rates = [plain(f"rate{x}", 2 + x, **{"train.peak": x}) for x in range(7)]
    page = tmp_path / "all.html"
    write_page([run.path for run in [*runs, *rates]], page)
    seen = tab(1400, "dark")
    seen.open(page)
    for view in ((1400, "dark"), (400, "light")):
        seen.resize(*view)
        assert seen.overflow() <= 0
        picture(seen, f"several-{view[0]}-{view[1]}")
    assert seen.complaints == [] and seen.requests == [page.as_uri()]

    for name in ("train/loss", "eval/loss"):
        traces = seen.plot(name, "data")
        lines = [t for t in traces if t.get("name")]
        assert len(lines) == 7
        # Told apart without colour, and named at their ends.
        assert len({t["line"]["dash"] for t in lines}) == 7
        marks = seen.plot(name, "layout.annotations.map((mark) => mark.y)")
        gaps = [abs(a - b) for a, b in itertools.pairwise(marks)]
        assert len(marks) == 7 and min(gaps) > 0.04, "labels do not overlap"
        # The band over seeds: from its lower to its upper edge.
        assert sum(t.get("fill") == "tonexty" for t in traces) == 1
    band = seen.plot("eval/loss", "data.slice(0, 3)")
    assert [t["y"][-1] for t in band] == pytest.approx(
        [bits * 0.693147 for bits in (1.9, 1.94, 1.92)], rel=1e-4
    )


def test_values_on_hover_and_other_axes(tab, plain):
    seen = tab()
    seen.open(write_report(plain().path))
    seen.page.locator("[data-plot=loss] .nsewdrag").hover()
    shown = seen.page.locator("[data-plot=loss] .hoverlayer").text_content()
    assert re.search(r"training\s*:? *1\.\d+ nats/token", shown), shown
    seen.page.get_by_role("radio", name="time").check()
    assert seen.plot("loss", "layout.xaxis.title.text") == "minutes"
    # 62 records, 0.1 s each; the first one is the start.
    assert seen.plot("loss", "data[0].x.at(-1)") == pytest.approx(6.3 / 60, rel=0.02)
    seen.page.get_by_role("radio", name="tokens").check()
    assert seen.plot("loss", "data[0].x.at(-1)") == 60 * 1024
    assert seen.complaints == []


def test_batch_and_noise_scales_are_curves_of_one_plot(tab, plain):
    run = plain()
    scales = {"oracle/noise_scale/spectral": 7.5, "oracle/noise_scale/euclidean": 6.0}
    for step in (20, 40):
        run.record(step, **scales, **{"train/batch_size": step * 0.4})
    seen = tab()
    seen.open(write_report(run.path))
    lines = seen.plot("batch", "data.map((trace) => [trace.name, [...trace.y]])")
    assert lines == [
        ["batch size", [8, 16]],
        ["spectral noise scale", [7.5, 7.5]],
        ["euclidean noise scale", [6, 6]],
    ]
    assert seen.plot("batch", "layout.yaxis.type") == "log"
    assert seen.complaints == []


def test_what_is_folded_is_drawn_when_it_opens(tab, troubled):
    seen = tab(400)
    seen.open(write_report(troubled.path))
    assert seen.drawn("#more .js-plotly-plot") == 0
    seen.page.locator("#more > summary").click()
    seen.page.wait_for_selector("#more .js-plotly-plot")
    assert seen.plot("optim/skipped", "data[0].y.at(-1)") == 0
    seen.page.locator("#more-layers > summary").click()
    seen.page.wait_for_selector("#more-layers .heatmaplayer image")
    for details in seen.page.locator("details:not([open]) > summary").all():
        details.click()
    assert seen.overflow() <= 0 and seen.complaints == []


def test_maps_of_the_geometry_switch(tab, folder):
    """Signs have colours of their own; a layer without activations is marked."""
    run = folder("switch")
    run.start(0)
    run.train(1, 60)
    run.geometry(*range(10, 61, 10))
    run.done()
    seen = tab(1400, "light")
    seen.open(write_report(run.path))
    drawn = seen.plot("layer-spec_sign_index", "data[0]")
    assert drawn["zmin"] == -drawn["zmax"] < 0
    assert drawn["z"][0][-1] == -1.5 and drawn["z"][2][-1] == 2.5
    names = seen.plot("layer-spec_sign_index", "layout.yaxis.ticktext")
    assert [name.endswith("◇") for name in names] == [False, False, True]
    caption = "document.querySelector('[data-plot=layer-{}]').parentElement.innerText"
    said = seen.page.evaluate(caption.format("spec_sign_index"))
    assert "no Gram matrix of activations" in said
    share = seen.plot("layer-spectral_share", "data[0]")
    assert (share["zmin"], share["zmax"]) == (0, 1)
    assert "◇" not in seen.page.evaluate(caption.format("spectral_share"))
    assert seen.drawn("[data-plot=layer-has_gram]") == 0
    seen.resize(400, "dark")
    picture(seen, "switch-400-dark")
    assert seen.overflow() <= 0 and seen.complaints == []


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (x / 12.92 if x <= 0.04 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_lines_stand_out_from_the_ground(tab, plain):
    """A contrast of 3 for lines and 4.5 for text, as WCAG 2.2 asks."""
    seen = tab()
    seen.open(write_report(plain().path))
    for name, theme in seen.page.evaluate("THEMES").items():
        ground = luminance(theme["card"])
        for colour in [*theme["lines"], theme["ink"], theme["quiet"], theme["event"]]:
            low, high = sorted((ground, luminance(colour)))
            contrast = (high + 0.05) / (low + 0.05)
            least = 3 if colour in theme["lines"] else 4.5
            assert contrast >= least, (name, colour, contrast)


@pytest.fixture
def served():
    """Serves runs from a thread of this process."""
    servers = []

    def serve(*runs):
        server = WatchServer([RunData(run.path) for run in runs], 0, once=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_watch_draws_what_comes(tab, held, served):
    seen = tab(400, "dark")
    address = served(held)
    seen.open(address)
    assert seen.plot("loss", "data[0].x.at(-1)") == 5
    last = "document.querySelector('[data-plot=loss]').data.at(-1).x.at(-1)"
    held.append('{"step": 6, "tok')  # half a line, made whole below
    held.append('ens": 6144, "train/loss": 9.0, "wall_secs": 7.0}\n')
    held.train(7, 20)
    seen.until(f"{last} === 20")

    # Back to step 8: the page forgets the steps that no longer stand.
    held.record(8, event="rollback", from_step=20, cursor=160)
    held.start(8)
    held.train(9, 10)
    seen.until(f"{last} === 10")
    assert "went back from step 20 to step 8" in seen.page.inner_text("#events")

    held.evaluate(10, 1.5)
    held.status("done", step=10, result={"eval/bits_per_byte": 1.5})
    seen.until("document.querySelector('#summary').innerText.includes('done')")
    assert "1.5000" in seen.page.inner_text("#summary")
    assert seen.complaints == [] and seen.overflow() <= 0
    first, *polls = seen.requests
    assert first == address and len(polls) >= 3
    assert all(poll.startswith(f"{address}data?at=") for poll in polls)
    picture(seen, "watch-400-dark")


def test_watch_shows_the_run_that_is_started_anew(tab, held, folder, served):
    seen = tab()
    seen.open(served(held))
    assert seen.plot("loss", "data[0].x.at(-1)") == 5
    with seen.page.expect_navigation():
        shutil.rmtree(held.path)
        anew = folder("held", **{"train.steps": 50, "train.batch_size": 3})
        anew.start(0)
        anew.train(1, 3)
    seen.until("document.querySelector('#summary').innerText.includes('of 50')")
    plot = "document.querySelector('[data-plot=loss]')"
    seen.until(f"{plot}?.data?.[0].x.at(-1) === 3")
    assert seen.complaints == []


def test_watch_keeps_open_what_is_open_and_says_when_nobody_answers(
    tab, held, plain, served
):
    seen = tab()
    seen.open(served(held, plain("other", seed=1)))
    seen.page.locator("#summary details > summary").click()
    held.evaluate(5, 2.5)
    seen.until("document.querySelector('#summary').innerText.includes('2.5000')")
    assert seen.page.locator("#summary details").get_attribute("open") is not None
    seen.page.route("**/data?*", lambda route: route.abort())
    seen.until("document.body.dataset.connection")
    # The validations of either seed, after 5, 30 and 60 steps.
    assert seen.plot("loss", "data.at(-1).x") == [5, 30, 60]
    assert seen.complaints and all("ERR_FAILED" in text for text in seen.complaints)
