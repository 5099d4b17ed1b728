"""Answers to compressed prompts show the rows, with what was left out struck through; cards are the same everywhere."""

import re

from embedspace import compress
from embedspace.engines import Completion, Sampling, TransformersEngine
from embedspace.reporting import Answer, Comparison, Report, Section, write_report
from embedspace.runs import Case, Run, execute
from tests.checkpoints import make_tiny_checkpoint

CHAT = [{"role": "user", "content": "The museum in Lyon opens at nine. <b>Tickets</b> cost 14 euros."}]


def test_a_report_shows_the_rows_of_compressed_prompts_and_of_no_others(tmp_path):
    engine = TransformersEngine(make_tiny_checkpoint(tmp_path / "model"))
    whole = engine.space.embed_chat(CHAT)
    methods = ("truncate", "salience", "average")
    cases = [
        Case(method, lambda method=method: compress(whole, ratio=2, method=method), {}) for method in methods
    ]
    cases.append(Case("whole", lambda: whole, {}))
    with Run.open(tmp_path / "run", {}, fingerprint=engine.space.fingerprint) as run:
        execute(run, lambda: engine, cases, Sampling(max_tokens=3), title="test")
        answers = [Answer.of(each.key, each) for each in run.records()]
        section = Section("Test", "One sentence.", "", comparisons=[Comparison("Question", answers)])
        page = write_report(Report("Test", "", [section]), run).read_text()
    assert page.count('<ol class="tokens">') == 2 * page.count("Question</h3>")
    assert "left out by compression" in page
    assert re.search(r'<li class="token [^"]*dropped"', page)
    assert "<b>Tickets" not in page


def test_an_answer_in_a_notebook_is_a_card_whose_text_is_escaped():
    shown = Completion(0, 0, "<script>1</script>", (1, 2), "stop", 0.1)._repr_html_()
    assert "&lt;script&gt;1" in shown
    assert "<script" not in shown
    assert 'class="answer-card"' in shown
    assert "2 tokens, stop" in shown
    assert "too long" in Completion.failed(3, "it is too long")._repr_html_()
