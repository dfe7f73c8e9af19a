"""The page of ``asap-eval report html`` in a real browser, and what makes it safe to open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import ABSENT, browser, complaints, look, opened, requests
from PIL import Image
from records import AT_35, baseline, make, put

from asap_eval import record as rec
from asap_eval.cli.report import main
from asap_eval.report.page.findings import findings
from asap_eval.report.page.html import order, slug
from asap_eval.report.page.paper import paper_sections
from asap_eval.report.sheet import Cell

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

HOSTILE = (
    "</style></script><script>document.title='owned'</script><img src=x onerror=\"alert(1)\">"
    "' onmouseover='alert(2)' javascript:alert(3) {{ 7*7 }} &amp; https://example.org/a.png"
)
OVERVIEW = "#records-1 table"
"""The table of all records, which the page opens with."""
needs_browser = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))


def records() -> list[rec.RunRecord]:
    """Rows of Table 1 on DeiT-Tiny, controls, and one with texts that want to be markup."""
    rows = [
        baseline(),
        make(
            "tome",
            budget=rec.Budget("macs", -38.46),
            top1=78.0,
            reduction_pct=-38.4,
            paired=rec.Paired(-1.2, [-2.5, 0.1], 0.09),
            params={},
        ),
        make(
            "ppt",
            budget=rec.Budget("macs", -38.46),
            top1=9.5,
            reduction_pct=-38.4,
            paired=rec.Paired(-69.7, [-74.0, -65.0], 0.0),
        ),
        make("random", budget=rec.Budget("macs", -38.46), top1=72.0, reduction_pct=-38.4),
        make("mass", k=0.5, top1=100.0, paired=None, command=HOSTILE, key="h" * 64),
    ]
    failed = make(
        "stride", k=0.5, key="f" * 64, metrics=None, paired=None, macs=None, tokens=None, fired=None
    )
    return [*rows, replace(failed, status="failed", error=HOSTILE)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with tables, verdicts, hostile texts, and a gallery."""
    folder = tmp_path_factory.mktemp("page")
    put(folder / "results", *records())
    (folder / "maps").mkdir()
    Image.new("RGB", (32, 32), "teal").save(folder / "maps" / "a <b> photograph.png")
    out = folder / "report.html"
    called = [f"results={folder / 'results'}", f"out={out}", f"maps={folder / 'maps'}"]
    assert main(["html", *called]) == 0
    return out


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    with browser() as driver:
        yield driver


@pytest.fixture
def shown(chromium: Chrome, page: Path) -> Chrome:
    """The page, wide and light, opened anew; nothing said or asked for before it."""
    complaints(chromium)
    requests(chromium)
    look(chromium, width=1280)
    opened(chromium, page)
    return chromium


def js(driver: Chrome, script: str, *arguments: Any) -> Any:
    return driver.execute_script(script, *arguments)


def column(driver: Chrome, head: str) -> list[str]:
    """Cells of a column of the overview, as shown."""
    return list(
        js(
            driver,
            """
        const table = document.querySelector(arguments[1]);
        const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
        const at = heads.findIndex((cell) => cell.innerText.trim() === arguments[0]);
        return [...table.tBodies].flatMap((body) => [...body.rows])
            .map((row) => row.cells[at].innerText.trim());
    """,
            head,
            OVERVIEW,
        )
    )


def button(driver: Chrome, head: str) -> Any:
    return js(
        driver,
        """
        return [...document.querySelector(arguments[1]).querySelectorAll("th button")]
            .find((button) => button.innerText.trim() === arguments[0]);
    """,
        head,
        OVERVIEW,
    )


# What stands on it


@needs_browser
def test_everything_is_there(shown: Chrome) -> None:
    titles = js(shown, "return [...document.querySelectorAll('h2')].map((h) => h.innerText)")
    assert titles == [
        *("What stands out", "Your records", "Pictures", "Keep-maps"),
        *("Against the paper", "The paper against itself", "Provenance"),
    ]
    said = js(
        shown, "return [...document.querySelectorAll('.said')].map((e) => e.textContent).join()"
    )
    assert "ppt loses most (deit_tiny, imagenet, 500 images): 9.50 % top-1, -69.70 points" in said
    assert "1 of 6 rows failed (deit_tiny, imagenet, 500 images): stride." in said
    assert (
        "Table 1 on deit_tiny, 500 images, 2 rows with a published figure: "
        "1 reproduced (tome), 1 differs (ppt)." in said
    )
    assert "-69.70 points [-74.00, -65.00], published -0.62: differs" in said
    assert len(js(shown, "return document.querySelectorAll('.sources > details')")) == 6
    loaded = "return [...document.images].every((i) => i.complete && i.naturalWidth > 0)"
    js(shown, "for (const image of document.images) image.loading = 'eager';")
    shown.execute_async_script(
        "Promise.all([...document.images].map((i) => i.decode())).then(arguments[0])"
    )
    assert js(shown, loaded)
    assert js(shown, "return document.images.length") >= 2
    assert all(js(shown, "return [...document.images].map((i) => i.alt)"))


@needs_browser
def test_nothing_is_asked_for_and_nothing_complains(shown: Chrome, page: Path) -> None:
    asked = [url for url in requests(shown) if not url.startswith("data:")]
    assert asked == [page.resolve().as_uri()]
    assert complaints(shown) == []


@needs_browser
def test_the_policy_stops_what_is_not_ours(shown: Chrome) -> None:
    """Proof that the two lists above would not be empty: a foreign picture and a foreign script."""
    js(
        shown,
        """
        document.body.append(Object.assign(new Image(), { src: "https://example.org/a.png" }));
        const script = document.createElement("script");
        script.textContent = "document.title = 'owned'";
        document.body.append(script);
    """,
    )
    assert js(shown, "return document.title") != "owned"
    assert len([text for text in complaints(shown) if "Content Security Policy" in text]) == 2


@needs_browser
def test_hostile_texts_are_texts(shown: Chrome) -> None:
    assert shown.title == "What token reduction buys · asap-eval"
    assert js(shown, "return document.querySelectorAll('script').length") == 1
    assert js(shown, "return document.querySelectorAll('img[src=x]').length") == 0
    folds = "for (const fold of document.querySelectorAll('details')) fold.open = true;"
    js(shown, folds)
    assert js(shown, "return document.body.innerText.split(arguments[0]).length - 1", HOSTILE) >= 3
    handlers = js(
        shown,
        """
        return [...document.querySelectorAll("*")].flatMap((element) => [...element.attributes])
            .filter((attribute) => attribute.name.startsWith("on")).length;
    """,
    )
    assert handlers == 0
    links = js(
        shown, "return [...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))"
    )
    assert all(link.startswith("#") for link in links)
    assert all(js(shown, "return arguments[0].map((l) => !!document.querySelector(l))", links))


# Sorting


def by_click(driver: Chrome, head: str) -> None:
    button(driver, head).click()


def by_keyboard(driver: Chrome, head: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    js(driver, "arguments[0].focus({ focusVisible: true })", button(driver, head))
    ActionChains(driver).send_keys(Keys.ENTER).perform()


@needs_browser
@pytest.mark.parametrize("press", [by_click, by_keyboard])
def test_numbers_sort_as_numbers_and_dashes_last(
    shown: Chrome, press: Callable[[Chrome, str], None]
) -> None:
    """As words 9.50 would stand after 79.20; the row that did not run has a dash."""
    before = column(shown, "top-1 %")
    press(shown, "top-1 %")
    up = column(shown, "top-1 %")
    values = [float(text.split()[0]) for text in up if text != "—"]
    assert values == sorted(values)
    assert values[0] == 9.5
    assert up[len(values) :] == ["—"] * (len(up) - len(values)) != []
    press(shown, "top-1 %")
    down = column(shown, "top-1 %")
    assert down == [*up[: len(values)][::-1], *up[len(values) :]]
    heads = f"[...document.querySelector('{OVERVIEW}').querySelectorAll('[aria-sort]')]"
    assert js(shown, f"return {heads}.map((head) => head.ariaSort)").count("descending") == 1
    press(shown, "top-1 %")
    assert column(shown, "top-1 %") == before


@needs_browser
def test_the_whole_row_moves_and_words_sort_too(shown: Chrome) -> None:
    rows = set(zip(column(shown, "method"), column(shown, "top-1 %"), strict=True))
    by_click(shown, "method")
    methods = column(shown, "method")
    assert methods == sorted(methods, key=str.casefold)
    assert set(zip(methods, column(shown, "top-1 %"), strict=True)) == rows


@needs_browser
def test_rows_stay_in_their_section(shown: Chrome) -> None:
    """The paper's Table 1 has a section for each model: sorting orders inside them."""
    sections = """
        return [...document.querySelector("#table1 table").tBodies]
            .map((body) => [...body.rows].map((row) => row.innerText));
    """
    before = js(shown, sections)
    assert len(before) > 2
    js(shown, "document.querySelector('#table1 thead tr:last-child button').click()")
    after = js(shown, sections)
    assert after != before
    assert [body[0] for body in after] == [body[0] for body in before]
    assert [sorted(body) for body in after] == [sorted(body) for body in before]


@needs_browser
def test_it_can_be_used_without_a_mouse(shown: Chrome) -> None:
    """Tab goes first to the skip link, which is then seen; focus is visible on every stop."""
    from selenium.webdriver import ActionChains, Keys

    stops = []
    for _ in range(12):
        ActionChains(shown).send_keys(Keys.TAB).perform()
        stops.append(
            js(
                shown,
                """
            const at = document.activeElement, style = getComputedStyle(at);
            return [at.innerText.split("\\n")[0], style.outlineStyle,
                    parseFloat(style.outlineWidth),
                    at.getBoundingClientRect().top];
        """,
            )
        )
    assert stops[0][0] == "Skip to the findings"
    assert stops[0][3] >= 0
    assert all(style == "solid" and width >= 2 for _, style, width, _ in stops)


# How it looks


@needs_browser
@pytest.mark.parametrize("width", [320, 375, 1280])
def test_only_tables_scroll_sideways(shown: Chrome, width: int) -> None:
    look(shown, width=width)
    js(shown, "for (const fold of document.querySelectorAll('details')) fold.open = true;")
    assert js(shown, "return document.documentElement.scrollWidth") <= width
    boxes = js(
        shown,
        """
        return [...document.querySelectorAll(".scroll")]
            .map((box) => box.scrollWidth > box.clientWidth);
    """,
    )
    assert any(boxes), "a table wider than the page scrolls in its own box"
    wide = js(
        shown,
        """
        return [...document.querySelectorAll("body *")].filter((element) =>
            !element.closest(".scroll") && !element.closest(".skip")
            && element.getBoundingClientRect().right > innerWidth + 1).length;
    """,
    )
    assert wide == 0


CONTRASTS = """
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255, 255];
    };
    const ratio = (a, b) => {
        const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05);
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
        for (const part of [null, "::before", "::after"]) {
            const style = getComputedStyle(element, part);
            if (part && style.content === "none") continue;
            found.push([ratio(rgba(style.color), behind(element)), element.className, part]);
        }
    }
    return found.sort((a, b) => a[0] - b[0]).slice(0, 5);
"""


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast(shown: Chrome, dark: bool) -> None:
    """WCAG AA for normal text is 4.5 to 1; the page's ground is dark where dark is wished for."""
    look(shown, width=1280, dark=dark)
    js(shown, "for (const fold of document.querySelectorAll('details')) fold.open = true;")
    worst = js(shown, CONTRASTS)
    assert worst[0][0] >= 4.5, worst
    ground = js(shown, "return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground))) < 64) == dark


# Without a browser


def test_only_what_the_records_support_stands_out() -> None:
    """Best, level, worst, below random, failed; nothing of rows without an interval."""

    def row(method: str, top1: float, low: float, high: float) -> rec.RunRecord:
        paired = rec.Paired(top1 - 79.2, [low, high], 0.1)
        return make(method, budget=AT_35, top1=top1, paired=paired, reduction_pct=-35.0)

    level, worse = row("tome", 78.2, -2.5, 0.5), row("evit", 74.2, -7.0, -3.0)
    random, below = row("random", 72.2, -9.0, -5.0), row("ppt", 60.2, -23.0, -15.0)
    close = row("mass", 71.2, -10.0, -6.0)
    said = findings([baseline(), level, worse, random, below, close])
    assert [each.tone for each in said] == ["best", "level", "worst", "worst"]
    assert said[0].text == (
        "tome has the best accuracy at the least work (deit_tiny, imagenet, 500 images): 78.20 % "
        "top-1, -1.00 points [-2.50, +0.50], -35.0 % MACs. Its interval lies above all of 4 "
        "others there."
    )
    assert "1 of 5 rows cannot be told from the unpruned model" in said[1].text
    assert "Least work: tome: 78.20 % top-1, -1.00 points [-2.50, +0.50]" in said[1].text
    assert "ppt loses most" in said[2].text
    assert said[3].text.endswith("): ppt."), "mass lies below random within its interval"
    assert findings([baseline(), make("tome", paired=None)]) == []


def test_no_paper_where_no_record_is_of_its_experiments() -> None:
    """Own models, random weights and the unpruned model alone say nothing of the paper."""
    rows = records()[:4]
    own = [replace(r, job=replace(r.job, model="digits_vit")) for r in rows]
    weights = {**rows[0].provenance.weights, "trained": False}
    random = [replace(r, provenance=replace(r.provenance, weights=weights)) for r in rows]
    for none in (own, random, rows[:1]):
        assert paper_sections(none, ()) == ()
    assert [each.name for each in paper_sections(rows, ())] == ["paper", "audit"]


def test_same_records_same_bytes(page: Path, tmp_path: Path) -> None:
    put(tmp_path / "results", *records()[::-1])
    out = tmp_path / "again.html"
    maps = page.parent / "maps"
    assert main(["html", f"results={tmp_path / 'results'}", f"out={out}", f"maps={maps}"]) == 0
    assert out.read_bytes() == page.read_bytes()


def test_values_and_texts_give_the_order() -> None:
    assert order(Cell("1.0", 0.999)) == "0.999"
    assert order(Cell("-2.25 [-4.75, +0.00]")) == "-2.25"
    assert order(Cell("−3 %")) == "-3"
    assert order(Cell("<0.001")) == "0.001"
    assert order(Cell("—")) == order(Cell("macs")) == ""


def test_slugs_are_plain() -> None:
    assert slug("Table 1: <DeiT-Tiny>") == "table-1-deit-tiny"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["results=absent"], 2, "No folder absent"),
        (["resluts=x"], 2, "results"),
        (["results"], 2, "give key=value"),
        (["results=empty"], 1, "No record"),
        (["results=good", "maps=empty"], 2, "PNG"),
        (["results=good", "clustering=absent.json"], 1, "absent.json"),
    ],
)
def test_bad_calls(
    words: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "good", make())
    (tmp_path / "empty").mkdir()
    assert main(["html", *words]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
