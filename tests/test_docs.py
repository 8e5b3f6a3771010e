"""The pages can be read: none is long, none is lost, and what they link to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", each).encode("ascii", "ignore").decode() for each in words}


def dead(page: Path) -> list[str]:
    """The links of a page that lead nowhere, pictures among them; addresses elsewhere are not looked up."""
    found = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        file, _, anchor = link.partition("#")
        there = page.parent / file if file else page
        made = page.parent.name == "tutorials" and file.endswith(".png")  # when the pages are built, or the build fails
        if "://" not in link and not made and (not there.is_file() or (anchor and anchor not in anchors(there))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_is_read_in_ten_minutes(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").split()) <= 1500


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "experiments" / "README.md"], ids=name)
def test_no_link_is_dead_and_no_picture_missing(page: Path) -> None:
    assert dead(page) == []


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](#here) [b](#there) [c](gone.md) ![d](gone.png) [e](page.md#here) [f](page.md#gone)\n")
    assert dead(page) == ["#there", "gone.md", "gone.png", "page.md#gone"]


def test_each_page_is_in_the_navigation_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:\n")[2]
    assert sorted(re.findall(r"[\w/-]+\.md", nav)) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_each_picture_is_shown() -> None:
    shown = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [each.name for each in (DOCS / "images").glob("*.png") if each.name not in shown] == []
