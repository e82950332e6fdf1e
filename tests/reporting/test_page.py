"""What stands on a page, read as a browser would before it runs a script."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from jopt.__main__ import main
from jopt.errors import ReportError
from jopt.reporting import write_page, write_report


class Page(HTMLParser):
    """Text, table rows, the data, and anything that a browser would fetch."""

    def __init__(self, path):
        super().__init__()
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self._script = None
        self._in_cell = False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        sources = [attrs.get(name) for name in ("src", "href", "srcset", "poster")]
        self.fetched += [s for s in sources if s and not s.startswith("data:")]
        if tag in ("script", "style"):
            self._script = attrs.get("id", tag)
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._script = None
        elif tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._script == "data":
            self.data = json.loads(data)
        elif self._script is None:
            self.text.append(data)
            if self._in_cell:
                self.rows[-1][-1] += data


def test_page_of_a_run(plain):
    run = plain()
    (run.path / "report.html").write_text("of an older jopt")
    page = Page(write_report(run.path))
    assert page.fetched == []
    for text in ("1.9000", "done", "1 min 23 s", "41,234", "612 MiB", "none"):
        assert text in page.text
    # First what is not the default, then everything.
    assert page.rows[:2] == [
        ["key", "here", "default"],
        ["train.batch_size", "8", "16"],
    ]
    assert ["optim.rules.matrix.learning_rate", "0.02"] in page.rows
    recipe = next(t for t in page.text if t.startswith("git checkout"))
    assert recipe.splitlines() == [
        "git checkout 0123456789ab",
        "pip install jax==0.12.0 numpy==2.5.5",
        "python train.py --config=configs/muon_lm.py",
    ]
    (shown,) = page.data["runs"]
    assert shown["curves"]["train/loss"]["step"] == list(range(1, 61))
    assert shown["curves"]["eval/loss"]["step"] == [30, 60]


def test_a_classifier_is_counted_in_examples(folder):
    run = folder(**{"objective.name": "classification", "objective.loss": "squared"})
    run.start(0)
    run.train(1, 60)
    run.record(60, eval__loss=0.2, eval__accuracy=0.9444, final=True)
    run.done()
    page = Page(write_report(run.path))
    for text in ("accuracy", "0.9444", "validation, whole split", "examples/s"):
        assert text in page.text
    assert page.data["item"] == "example"
    assert page.data["lossUnit"] == "half squared distance/example"
    assert not any("token" in text or "bits" in text for text in page.text[:30])


def test_what_replicas_sent_is_a_table_with_three_labels(plain):
    run = plain()
    assert "Communication" not in Page(write_report(run.path)).text
    run.write(
        "communication.csv",
        "program,every_steps,payload_hlo,payload_model,wire_model,wire_measured\n"
        "sync 0,8,4000004,4000004.0,6000006.0,\n"
        "warm-up step,,4000000,4000000,6e6,5e6\n",
    )
    page = Page(write_report(run.path))
    assert "Communication" in page.text
    sync = ["sync 0", "8", "4", "4", "6", "not measured", "0.5"]
    assert sync in page.rows
    assert ["warm-up step", "warm-up", "4", "4", "6", "5", "-"] in page.rows


def test_a_rule_that_has_no_default_is_shown_as_such(plain):
    run = plain(**{"optim.rules.rest.name": "adamw"})
    page = Page(write_report(run.path))
    assert ["optim.rules.rest.name", "adamw", "no default"] in page.rows


def test_trouble_is_told_in_words_and_counted(troubled):
    page = Page(write_report(troubled.path))
    at = page.rows.index(["mark", "what", "details"])
    told = [row[:2] for row in page.rows[at + 1 : at + 5]]
    assert told == [
        ["1", "damaged"],
        ["2", "resumed"],
        ["3", "skipped"],
        ["4", "rollback"],
    ]
    assert (
        "1 rollback, 3 skipped steps, 1 damaged checkpoint, 1 resumption" in page.text
    )
    assert [e["kind"] for e in page.data["runs"][0]["events"]] == [k for _, k in told]


def test_names_cannot_break_out_of_the_page(plain):
    name = "</script><script>alert(1)</script><b>"
    run = plain(**{"data.path": name})
    run.record(60, **{f"train/{name}": 1.0})
    page = Page(write_report(run.path))
    assert name in page.data["runs"][0]["curves"].popitem()[0]
    assert ["data.path", name] in page.rows


def test_runs_that_differ_in_their_seed_are_one_config(plain, tmp_path):
    seeds = [plain(f"a{seed}", bits=1.9 + 0.01 * seed, seed=seed) for seed in range(3)]
    other = plain("b", bits=1.8, **{"optim.rules.matrix.learning_rate": 0.03})
    write_page([run.path for run in [*seeds, other]], tmp_path / "all.html")
    page = Page(tmp_path / "all.html")
    # The best first; named by what differs.
    assert page.data["groups"] == [
        {"label": "learning_rate 0.03", "runs": [3]},
        {"label": "learning_rate 0.02", "runs": [0, 1, 2]},
    ]
    row = next(r for r in page.rows if r[0] == "learning_rate 0.02")
    assert row[1:] == ["3", "1.9100", "0.0100", "1.9000", "1.9200", "0, 1, 2"]
    assert ["learning_rate 0.03", "0.03"] in page.rows
    assert page.data["names"] == ["a0", "a1", "a2", "b"]


def test_at_most_seven_configs_are_drawn_and_the_others_named(plain, tmp_path):
    runs = [plain(f"r{n}", bits=2 + n / 10, **{"train.x": n}) for n in range(9)]
    write_page([run.path for run in reversed(runs)], tmp_path / "all.html")
    page = Page(tmp_path / "all.html")
    assert [g["label"] for g in page.data["groups"]] == [f"x {n}" for n in range(7)]
    assert any("not drawn: x 7, x 8." in text for text in page.text)


def test_runs_of_one_folder_name_are_told_apart(plain, tmp_path):
    runs = [plain("one/run"), plain("two/run")]
    write_page([run.path for run in runs], tmp_path / "all.html")
    assert Page(tmp_path / "all.html").data["names"] == ["one/run", "two/run"]


def test_report_command(plain, tmp_path, capsys):
    runs = [plain("a"), plain("b", seed=1)]
    folders = [str(run.path) for run in runs]
    assert main(["report", *folders]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{f}/report.html" for f in folders]
    for run in runs:
        (run.path / "report.html").unlink()
    together = tmp_path / "both.html"
    assert main(["report", *folders, f"--together={together}"]) == 0
    assert main(["report", *folders, f"--together={together}"]) == 0, "its own page"
    assert len(Page(together).data["runs"]) == 2
    assert not (runs[0].path / "report.html").exists()


def test_report_of_what_is_no_run_leaves_the_others_alone(plain, tmp_path, capsys):
    run = plain()
    assert main(["report", str(tmp_path / "no"), str(run.path)]) == 2
    shown = capsys.readouterr()
    assert "no is not a readable run folder" in shown.err
    assert shown.out == f"{run.path / 'report.html'}\n"
    for wrong in ([], ["--toghether=x"], [str(run.path), "--together="]):
        assert main(["report", *wrong]) == 2
        assert "usage: python -m jopt report" in capsys.readouterr().err


def test_a_file_of_somebody_else_is_not_overwritten(plain, tmp_path):
    mine = tmp_path / "thesis.html"
    mine.write_text("<html>my thesis</html>")
    with pytest.raises(ReportError, match="is not a report of jopt"):
        write_page([plain().path], mine)
    assert mine.read_text() == "<html>my thesis</html>"
