"""``python -m benchmarks docs``: what was measured stands in the documents, and nobody copies a figure."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks import documents
from benchmarks.__main__ import NAMES
from benchmarks.documents import README, ROOT, Missing, Row, described, publish
from benchmarks.table import Shown

PAGE, READ_ME = "docs/operate/figures.md", "README.md"
SECONDS = {"ours [1]": [0.001, 0.002, 0.003], "by hand": [0.1]}


def regions(document: str) -> dict[str, str]:
    return dict(re.findall(r"<!-- figures: (\w+) -->\n(.*?)<!-- /figures -->", document, re.DOTALL))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The documents, to be written to."""
    for name in (PAGE, READ_ME):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def keep(results: Path, name: str, *tables: Shown) -> None:
    results.mkdir(exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps([each._asdict() for each in tables]))


def test_the_documents_have_a_place_for_each() -> None:
    """Each benchmark once on its page; README's table has the rows that are written, and no other."""
    page, readme = (ROOT / PAGE).read_text(), (ROOT / READ_ME).read_text()
    for text in (page, readme):
        assert text.count("<!-- figures: ") == text.count("<!-- /figures -->") == len(regions(text))
    assert set(regions(page)) == {*NAMES, "soak"}
    rows = regions(readme)["readme"].splitlines()[2:]
    assert len(rows) == len(README)
    assert all(line.startswith(row.start) for line, row in zip(rows, README, strict=True))
    pictures = re.findall(r"!\[(.+?)\]\(\.\./figures/(.+?)\)", page)
    assert {file for _, file in pictures} == {path.name for path in (ROOT / "docs/figures").glob("*")}
    assert all((ROOT / "docs/figures" / file).stat().st_size < 30_000 for _, file in pictures)


@pytest.mark.parametrize("row", README, ids=lambda row: row.what)
def test_what_readme_needs_is_measured(row: Row) -> None:
    """The names of the table, the rows and the columns are the benchmark's: else an hour of measuring ends with an error."""
    benchmarks = ROOT / "benchmarks"
    sources = "".join(
        path.read_text() for path in (*benchmarks.glob(f"{row.name}.py"), *benchmarks.glob(f"{row.name}/*.py"))
    )
    for wanted in (row.table, *row.ours, *row.baseline):
        assert set(re.findall(r"\w+", wanted)) <= set(re.findall(r"\w+", sources)), wanted


def test_what_was_measured_is_written(copied: Path) -> None:
    """Pictures, tables, README's row; and what was not measured, and all that stands outside the marks, is as it was."""
    before = {name: (copied / name).read_text() for name in (PAGE, READ_ME)}
    rows = [["celery, redis", "499 of 500", "7 of 500", "1 ms", "2 ms"]]
    head = ["", "with it, row seen", "without it, row seen", "both done: median", "99th"]
    keep(copied / "results", "jobs", Shown("500 tasks, each sent right after a write", head, rows, {}))
    keep(copied / "results", "leading", *(Shown(f"Title {n}", ["", "median"], [["ours", "1 ms"]], SECONDS) for n in (1, 2)))
    (copied / "docs/figures").mkdir()
    for stale in ("leading.svg", "leading-3.svg", "wake.svg"):
        (copied / "docs/figures" / stale).write_text("")
    publish(copied / "results", copied)
    after = {name: (copied / name).read_text() for name in (PAGE, READ_ME)}
    assert {path.name for path in (copied / "docs/figures").iterdir()} == {"leading-1.svg", "leading-2.svg", "wake.svg"}
    page = regions(after[PAGE])
    assert page.pop("leading").startswith(
        "![Title 1. Medians: ours 1: 2 ms; by hand: 100 ms.](../figures/leading-1.svg)\n\n!["
    )
    assert "  celery, redis         499 of 500" in page.pop("jobs")
    assert page == {name: text for name, text in regions(before[PAGE]).items() if name not in ("jobs", "leading")}
    assert "on a replica that lags | 499 of 500 | 7 of 500 (without the integration) |" in after[READ_ME]
    changed = set(after[READ_ME].splitlines()) ^ set(before[READ_ME].splitlines())
    assert all("python -m benchmarks jobs" in line for line in changed)


def test_the_soak_is_written(copied: Path) -> None:
    """Its table and its picture, which it draws by itself."""
    (copied / "results").mkdir()
    (copied / "results/soak.json").write_text(json.dumps({"text": "Ten minutes"}))
    (copied / "results/soak.svg").write_text("<svg/>")
    publish(copied / "results", copied)
    assert regions((copied / PAGE).read_text())["soak"] == "```text\nTen minutes\n```\n"
    assert (copied / "docs/soak.svg").read_text() == "<svg/>"


def test_what_is_missing_is_said(copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that README needs, as of real nodes where there were none; nothing is written then."""
    before = (copied / PAGE).read_text()
    keep(copied / "results", "idle", Shown("Idle, over 10 s", ["", "of a core"], [["an event loop that sleeps", "1%"]], {}))
    with pytest.raises(Missing, match="idle has no 'of a core' of 'Watcher, FUSE mount with event stream' in a table"):
        publish(copied / "results", copied)
    assert (copied / PAGE).read_text() == before
    monkeypatch.setattr(documents, "ROOT", copied)
    assert documents.main([str(copied / "results")]) == 1
    assert documents.main([]) == documents.main(["/nowhere"]) == 2
    assert "nothing was written: idle has no" in capsys.readouterr().err


def test_a_picture_is_told_in_words() -> None:
    """By the medians, without what would end the text."""
    assert described(Shown("T", [], [], SECONDS)) == "T. Medians: ours 1: 2 ms; by hand: 100 ms."
