"""The tutorials run when the pages are built; here is what runs them."""

import runpy
from pathlib import Path

import pytest

exceptions = pytest.importorskip("mkdocs.exceptions")
run = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "run_tutorials.py"))["run"]


def test_what_a_block_prints_stands_beneath_it_and_its_picture_is_taken() -> None:
    page = (
        "# A page\n\n```bash\necho one > number\nprintf 'PNG' > drawn.png\n```\n\n"
        "```python\nprint(open('number').read() * 2)\n```\n\n![a picture](drawn.png)\n\n```text\nleft alone\n```\n"
    )
    told, pictures = run(page)
    assert told == page.replace("* 2)\n```\n", "* 2)\n```\n\n```text\none\none\n```\n")
    assert pictures == {"drawn.png": b"PNG"}


def test_cryoden_is_that_of_the_python_that_builds() -> None:
    told, _ = run("```bash\ncryoden --help > told; head -n 1 told\n```\n")
    assert "\n```text\n" in told


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("```bash\ntrue\nfalse\ntrue\n```\n", "exit code 1"),
        ("```bash\nfalse | cat\n```\n", "exit code 1"),
        ("```python\nraise ValueError('why')\n```\n", "ValueError: why"),
        ("![a picture](gone.png)\n", "a picture that it does not make: .*gone.png"),
    ],
)
def test_what_fails_ends_the_build(page: str, words: str) -> None:
    with pytest.raises(exceptions.PluginError, match=words):
        run(page)
