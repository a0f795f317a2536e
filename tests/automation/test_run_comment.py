"""The comment on a training: from recorded trainings, and from hostile ones."""

import copy
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from automation import run_comment
from automation.deployed import Deployed

TRAININGS = Path(__file__).parent / "trainings"
"""Of one stack on the embedded cloud, scikit-learn's digits, one after the other: the first model,
a better one, a worse one, and one that failed."""
FIRST, BETTER, WORSE, FAILED = "2d2e7f437b6b", "a9fc7eee4efc", "eec7ce599684", "71256006de86"


def recorded(name):
    return json.loads((TRAININGS / f"{name}.json").read_text())


@pytest.fixture
def trained(place):
    """A stack's bucket with recorded trainings, each changed by a function at will."""

    def put(name, change=lambda _document: None):
        document = recorded(name)
        change(document)
        run = document["run"]["run"]
        for key in ("run", "manifest", "metrics"):
            if document[key]:
                place.write(f"runs/{run}/{key}.json", document[key])

    for name in ("first", "better", "worse", "failed"):
        put(name)
    return put


def said(place, run, *words):
    code, out, err = place.pushtrain("report", run, "-s", "dev", "--markdown", *words)
    assert (code, err) == (0, "")
    return out


def verdict(place, run, *words):
    answer = json.loads(said(place, run, *words, "--json"))
    assert answer.pop("markdown") == said(place, run, *words)
    return answer


@pytest.mark.usefixtures("trained")
def test_a_better_training(place):
    text = said(place, BETTER)

    lines = text.splitlines()
    assert lines[:8] == [
        "<!-- pushtrain:run:dev:a9fc7eee4efc -->",
        "",
        "## ✅ `g-5e1f09ac7d3b` is better: accuracy 99.72%, champion 99.17%",
        "",
        (
            "**+0.56 points** against champion `2d2e7f437b6b`, on 360 test images "
            "(`sha256 6df1e87be4ba`) for both."
        ),
        "",
        "It became the champion: `accuracy 0.9972 beats 0.9917 of run 2d2e7f437b6b`.",
        "",
    ]
    assert re.fullmatch(
        r"run `a9fc7eee4efc` of stack `dev` · \*\*1 min 33 s\*\* · 1 attempt · "
        r"\*\*\$0\.00\d\d-0\.00\d\d\*\* by list prices",
        lines[8],
    )
    assert "| `accuracy` | 99.72% | 99.17% | +0.56 points |" in text
    assert "| `loss` | 0.2988 | 0.4645 | -0.1657 |" in text
    assert "| `8` | 100.00% | 97.22% | +2.78 points |\n| `3` | 100.00% | 97.92% |" in text
    assert "8 more changed less." in text
    assert "  this run  ▁▇██████████  32.56% → 100.00%, 12 epochs" in text
    assert "  champion  ▃███          51.04% → 99.84%, 4 epochs" in text
    assert "- commit 5e1f09ac7d3b\n" in text


@pytest.mark.usefixtures("trained")
def test_a_worse_training(place):
    text = said(place, WORSE)

    assert "## 🔻 `g-90d1c2e4ab77` is worse: accuracy 99.17%, champion 99.72%" in text
    assert "**-0.56 points** against champion `a9fc7eee4efc`" in text
    assert "The champion stays: `accuracy 0.9917 does not beat 0.9972" in text
    assert "| `9` | 95.74% | 100.00% | -4.26 points |" in text


@pytest.mark.usefixtures("trained")
def test_a_failed_training(place):
    place.write("models/champion.json", {"run": BETTER})
    text = said(place, FAILED)

    assert "## ❌ Training of `g-cc41aa02b9de` failed" in text
    assert "**What happened:** `the trainer failed`" in text
    assert "**What to do:** `The last log lines say why: correct it and push" in text
    assert "\nerror: epochs must be at least 1, got 0\n```" in text
    assert "The champion stays run `a9fc7eee4efc`: accuracy 99.72%." in text
    assert "- `pushtrain logs 71256006de86 -s dev`: its log" in text
    assert "report.html" not in text


@pytest.mark.usefixtures("trained")
def test_a_first_training(place):
    text = said(place, FIRST)

    assert "is trained: accuracy 99.17%, nothing to compare with" in text
    assert "On 360 test images (`sha256 6df1e87be4ba`)." in text
    assert "### Classes it knows least\n\n| class | accuracy |\n| --- | ---: |\n| `8` | 97" in text


@pytest.mark.usefixtures("trained")
def test_what_came_of_it_as_data(place):
    assert verdict(place, BETTER) == {
        "run": BETTER,
        "state": "SUCCEEDED",
        "verdict": "better",
        "metric": "accuracy",
        "value": pytest.approx(0.99722, abs=1e-5),
        "against": {"run": FIRST, "value": pytest.approx(0.99167, abs=1e-5)},
        "reason": None,
        "promotion": "promoted",
    }
    assert verdict(place, WORSE)["verdict"] == "worse"
    assert verdict(place, FAILED)["verdict"] == "failed"
    assert verdict(place, FIRST)["verdict"] == "first"


@pytest.mark.usefixtures("trained")
def test_a_run_may_be_held_against_another(place):
    text = said(place, WORSE, "--against", FIRST[:6])

    assert "`g-90d1c2e4ab77` is as good: accuracy 99.17%, run 99.17%" in text
    assert "against run `2d2e7f437b6b`" in text
    assert "| class | this run | run | change |" in text
    assert verdict(place, WORSE, "--against", FIRST)["verdict"] == "equal"


@pytest.mark.usefixtures("trained")
def test_the_champion_is_the_one_that_the_run_met(place):
    place.write("models/champion.json", {"run": WORSE})

    assert verdict(place, BETTER)["against"]["run"] == FIRST
    assert verdict(place, BETTER, "--against", "champion")["against"]["run"] == FIRST


def test_less_may_be_better(place, trained):
    def by_loss(document):
        document["run"]["wiring"] |= {"champion_metric": "loss", "champion_goal": "min"}

    trained("better", by_loss)
    trained("worse", by_loss)

    assert verdict(place, BETTER)["verdict"] == "better"
    assert verdict(place, WORSE)["verdict"] == "worse"
    assert "is worse: loss 0.8227, champion 0.2988" in said(place, WORSE)


def test_other_test_data_are_not_compared(place, trained):
    trained("better", lambda document: document["manifest"]["data"].update(test_sha256="0" * 64))
    text = said(place, BETTER)

    assert "## `g-5e1f09ac7d3b` is trained, and cannot be compared: accuracy 99.72%" in text
    assert "with champion `2d2e7f437b6b`: `the two were tested on other data`." in text
    assert "| metric | this run |\n" in text
    assert "| class | accuracy |\n" in text
    assert "  champion  " not in text


def test_data_that_nobody_knows_are_not_compared(place, trained):
    def forget(document):
        document["manifest"]["data"] = None
        document["run"]["data"] = None

    trained("better", forget)

    assert verdict(place, BETTER)["reason"] == (
        "nothing tells whether the two were tested on the same data"
    )


def test_a_champion_that_is_gone_is_not_compared(place, trained):
    trained(
        "better", lambda document: document["run"]["promotion"]["champion"].update(run="0" * 12)
    )

    assert verdict(place, BETTER)["reason"] == "nothing is left of the champion"


def test_a_champion_without_the_metric_is_not_compared(place, trained):
    trained("first", lambda document: document["manifest"]["metrics"].clear())

    assert verdict(place, BETTER)["reason"] == "the champion has no accuracy"


def test_a_run_without_the_metric_is_not_compared(place, trained):
    trained("better", lambda document: document["manifest"].update(metrics={"f1": 0.5}))
    text = said(place, BETTER)

    assert "## `g-5e1f09ac7d3b` is trained, and cannot be compared\n" in text
    assert "`the run published no accuracy`" in text
    assert "| `f1` | 0.5 |" in text


def test_a_champion_that_nobody_could_read_is_none_to_beat(place, trained):
    def unread(document):
        document["run"]["promotion"] |= {"champion": None, "decision": "kept", "reason": "no JSON"}

    trained("better", unread)

    assert verdict(place, BETTER)["verdict"] == "incomparable"
    assert "Not comparable: `no JSON`." in said(place, BETTER)


def test_a_cost_that_is_unknown_is_said_with_the_reason(place, trained):
    trained("better", lambda document: document["run"].update(cost={"usd": None, "why": "no such"}))

    assert "its cost is unknown: `no such`" in said(place, BETTER)


def test_a_trainer_that_left_files_alone_has_a_comment_too(place, trained):
    def bare(document):
        document["manifest"] = {"version": 1, "run": BETTER, "files": {}}
        document["metrics"] = None
        document["run"] |= {"metrics": {}, "data": None}

    place.s3.delete_object(Bucket="dev-models", Key=f"runs/{BETTER}/metrics.json")
    trained("better", bare)
    text = said(place, BETTER)

    assert "is trained, and cannot be compared" in text
    assert "###" not in text.replace("### Where to look", "")


def test_what_a_trainer_wrote_in_place_of_its_figures_does_no_harm(place, trained):
    def spoil(document):
        document["metrics"] = {"per_class": [1], "epochs": {"epoch": None}}

    trained("better", spoil)
    place.write(f"runs/{FIRST}/metrics.json", b"[")
    text = said(place, BETTER)

    assert "is better: accuracy 99.72%, champion 99.17%" in text
    assert "class" not in text


def test_each_of_several_attempts_is_told(place, records):
    none = records.attempt(failure="Capacity is unavailable", task_arn=None, stopped_at=None)
    spot = records.ended(
        2, cause="spot", diagnosis={"summary": "reclaimed", "detail": "", "action": ""}
    )
    place.put(records.succeeded("0" * 12, attempts=[none, spot, records.ended(3)]))
    text = said(place, "0" * 12)

    assert "3 attempts" in text
    assert (
        "### Attempts\n\n- `FARGATE_SPOT`: `Capacity is unavailable`\n- `FARGATE`: `reclaimed`\n"
        "- `FARGATE`: `exit code 0`\n"
    ) in text


def test_a_training_that_is_not_over_says_so(place, records):
    waits = {"why": "data", "detail": "nothing lies at data/dataset", "not_before": None}
    place.put(records.make("0" * 12, "WAITING", waiting=waits))
    place.put(records.make("1" * 12, "STARTED", attempts=[records.attempt()]))

    assert "It waits for `data`: `nothing lies at data/dataset`" in said(place, "0" * 12)
    assert "## Training of `g-3f2a` is not over" in said(place, "1" * 12)


def test_a_cancelled_training_says_so(place, records):
    told = {"cause": "cancel", "summary": "cancelled by ann", "detail": "", "action": ""}
    place.put(records.make("0" * 12, "CANCELLED", diagnosis=told, ended_at=records.at(9)))
    text = said(place, "0" * 12)

    assert "## Training of `g-3f2a` was cancelled" in text
    assert "**What happened:** `cancelled by ann`" in text


@pytest.mark.usefixtures("trained")
def test_links_let_nobody_in(place):
    text = said(place, BETTER)
    bucket = recorded("better")["run"]["wiring"]["bucket"]

    assert re.findall(r"https?://[^\s)]+", text) == [
        (
            f"https://us-east-1.console.aws.amazon.com/s3/object/{bucket}"
            f"?region=us-east-1&prefix=runs/{BETTER}/report.html"
        )
    ]
    assert "Signature" not in text


def test_another_partition_has_another_console(place, trained):
    def move(document):
        wiring = document["run"]["wiring"]
        wiring["cluster"] = wiring["cluster"].replace("arn:aws:", "arn:aws-cn:")

    trained("better", move)

    assert "https://" not in said(place, BETTER)


def test_options_that_do_not_go_together_are_refused(place, tmp_path):
    for words in (("--against", FIRST), ("--markdown", "-o", tmp_path / "x.html")):
        code, _, err = place.pushtrain("report", BETTER, "-s", "dev", *words)
        assert code == 2
        assert "must come with" in err


def test_a_run_that_is_not_there_is_an_error(place):
    code, out, err = place.pushtrain("report", "0" * 12, "-s", "dev", "--markdown")

    assert (code, out) == (1, "")
    assert "got none of these among no runs" in err


# Hostile trainings

HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "@ann",
            "a | b | c",
            "`` ` ```",
            "</details><script>alert(1)</script>",
            "[x](javascript:alert(1))",
            "\n\n# head\n",
            "```\n@ann\n```",
            "#1",
            "\\|",
            "a\\`|@b",
            "\u202eturned",
        ]
    ),
)


class Shelf:
    """Recorded trainings, without a cloud."""

    def __init__(self, *documents):
        self.documents = {each["run"]["run"]: each for each in documents}

    def parsed(self, key):
        if key == "models/champion.json":
            return {"run": list(self.documents)[-1]}
        run, name = key.removeprefix("runs/").removesuffix(".json").split("/")
        return self.documents[run][name]

    def read(self, run):
        return self.documents[run]["run"]


def commented(*documents):
    shelf = Shelf(*documents)
    ours = run_comment.read(shelf, documents[0]["run"])  # pyright: ignore[reportArgumentType]
    rival = run_comment.find_rival(shelf, ours, "champion")  # pyright: ignore[reportArgumentType]
    judgement = run_comment.judge(ours, rival)
    deployed = Deployed(stack="dev", outputs={}, session=None)
    now = run_comment.datetime.fromisoformat("2026-11-27T13:00:00Z")
    return run_comment.comment(ours, judgement, deployed, now)


@settings(max_examples=150)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_nothing_foreign_leaves_its_code(name, tag, text):
    documents = [copy.deepcopy(recorded(each)) for each in ("better", "first")]
    for each in documents:
        each["manifest"]["metrics"][name] = 0.5
        rows = each["metrics"]["per_class"]
        rows[name] = {"accuracy": 0.25 if each is documents[0] else 0.75}
    run = documents[0]["run"]
    run["image"]["tags"] = [tag]
    run["promotion"]["reason"] = text
    run["parameters"] = {"x": text}
    html = MarkdownIt("gfm-like", {"linkify": False}).render(commented(*documents))
    foreign = re.sub(r"<(code|pre)[^>]*>.*?</\1>", "", html, flags=re.DOTALL)

    assert set(re.findall(r"<(/?\w+)", foreign)) <= {
        *("h2", "/h2", "h3", "/h3", "p", "/p", "strong", "/strong", "a", "/a", "ul", "/ul"),
        *("li", "/li", "table", "/table", "thead", "/thead", "tbody", "/tbody", "tr", "/tr"),
        *("th", "/th", "td", "/td", "details", "/details", "summary", "/summary"),
    }
    assert "@" not in foreign
    assert "javascript:" not in foreign
    for table in re.findall(r"<table>.*?</table>", html, flags=re.DOTALL):
        cells = [
            len(re.findall("<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        ]
        assert set(cells) == {4}
    assert len(re.findall("<td", html)) == 4 * (html.count("<tr>") - html.count("<table>"))


def test_a_comment_always_fits():
    document = recorded("failed")
    document["run"]["diagnosis"]["detail"] = "x" * 500_000
    document["run"]["image"]["tags"] = [f"g-{number:07x}" for number in range(9_000)]
    document["run"]["attempts"] *= 3_000
    text = commented(document, recorded("first"))

    assert 5_000 < len(text) <= 64_000
    assert "more left out here" in text
    assert text.count("<details>") == text.count("</details>") == 1
