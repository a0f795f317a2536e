"""The workflows' own shell, run: what GitHub is told of previews, deployments and drift."""

import json
import subprocess
import sys
from pathlib import Path

from automation.comments import watermark

ROOT = Path(__file__).parents[2]
TELL = ROOT / ".github/scripts/tell.py"
US = {"login": "github-actions[bot]"}
MARK = watermark("preview", "dev")
LOG = "https://github.example/log"


def tell(hub, *words):
    return subprocess.run(
        [sys.executable, TELL, *map(str, words)],
        env=hub.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def body(tmp_path, text=f"{MARK}\nwhat changes\n"):
    file = tmp_path / "body.md"
    file.write_text(text)
    return file


def test_a_first_comment_is_written(hub, tmp_path):
    done = tell(hub, "pull", 7, body(tmp_path))

    assert done.returncode == 0, done.stderr
    assert hub.calls == [
        ["POST", "repos/octo/mnist/issues/7/comments", {"body": f"{MARK}\nwhat changes\n"}]
    ]


def test_a_later_one_takes_its_place_also_on_a_later_page(hub, tmp_path):
    hub.has(
        "repos/octo/mnist/issues/7/comments",
        {"id": 1, "user": {"login": "eve"}, "body": f"{MARK}\nforged"},
        {"id": 2, "user": US, "body": f"{watermark('preview', 'dev2')}\nanother stack's"},
        {"id": 3, "user": US, "body": f"quoted: {MARK}"},
        {"id": 4, "user": US, "body": f"{MARK}\r\nolder"},
    )
    tell(hub, "pull", 7, body(tmp_path))

    assert [call[:2] for call in hub.calls] == [["PATCH", "repos/octo/mnist/issues/comments/4"]]


def test_a_commit_has_comments_of_its_own(hub, tmp_path):
    hub.has("repos/octo/mnist/commits/abc/comments", {"id": 9, "user": US, "body": MARK})
    tell(hub, "commit", "abc", body(tmp_path))
    tell(hub, "commit", "def", body(tmp_path))

    assert [call[:2] for call in hub.calls] == [
        ["PATCH", "repos/octo/mnist/comments/9"],
        ["POST", "repos/octo/mnist/commits/def/comments"],
    ]


def test_the_pull_request_that_brought_a_commit_is_told_else_the_commit(hub, tmp_path):
    hub.has(
        "repos/octo/mnist/commits/abc/pulls",
        {"number": 5, "merged_at": None},
        {"number": 6, "merged_at": "2026-11-27T10:00:00Z"},
    )
    tell(hub, "origin", "abc", body(tmp_path))
    tell(hub, "origin", "def", body(tmp_path))

    assert [call[1] for call in hub.calls] == [
        "repos/octo/mnist/issues/6/comments",
        "repos/octo/mnist/commits/def/comments",
    ]


def test_what_has_no_mark_is_refused_and_what_is_too_long_is_cut(hub, tmp_path):
    done = tell(hub, "pull", 7, body(tmp_path, "hello\n"))
    tell(hub, "pull", 7, body(tmp_path, f"{MARK}\n" + "x" * 70_000))

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    ((_, _, sent),) = hub.calls
    assert 65_000 < len(sent["body"]) <= 65_536


def test_a_preview_that_never_was_is_told_in_the_place_of_the_last_one(hub, run_step):
    hub.has("repos/octo/mnist/issues/7/comments", {"id": 4, "user": US, "body": f"{MARK}\nolder"})
    code, said, _ = run_step("preview", "preview", "Comment", STACK="dev", NUMBER="7", LOG=LOG)

    assert code == 0, said
    ((method, path, sent),) = hub.calls
    assert (method, path) == ("PATCH", "repos/octo/mnist/issues/comments/4")
    assert "there is no preview" in sent["body"]
    assert LOG in sent["body"]


def test_a_failed_preview_is_told_and_the_job_fails(hub, run_step):
    hub.program("pushtrain", f'#!/bin/sh\necho "{MARK}"\necho "$@"\nexit 1\n')
    failed, _, _ = run_step("preview", "preview", "Preview", STACK="dev")
    told, said, _ = run_step("preview", "preview", "Comment", STACK="dev", NUMBER="7", LOG=LOG)

    assert failed == 1
    assert told == 0, said
    ((_, _, sent),) = hub.calls
    assert sent["body"] == f"{MARK}\npreview -s dev --policy-pack policy --markdown\n"


def deploy(hub, run_step, code):
    hub.program(
        "pushtrain",
        '#!/bin/sh\necho \'{"password": "hunter2"}\'\n'
        f"echo '  1.0 s  created  ``` @octo <b>' >&2\nexit {code}\n",
    )
    return run_step("deploy-stack", "deploy", "Deploy", STACK="dev")


def test_a_deployment_tells_the_commit_what_it_did_as_text_alone(hub, run_step):
    code, said, outputs = deploy(hub, run_step, 0)
    told, more, _ = run_step(
        "deploy-stack",
        "comment",
        "Comment",
        STACK="dev",
        RESULT="success",
        TOLD=outputs["comment"],
        LOG=LOG,
    )

    assert (code, told) == (0, 0), more
    ((method, path, sent),) = hub.calls
    assert (method, path) == ("POST", f"repos/octo/mnist/commits/c0ffee{'0' * 34}/comments")
    assert sent["body"].startswith(
        f"{watermark('deploy', 'dev')}\n**Stack dev, deployment: success**"
    )
    assert "\n      1.0 s  created  ``` @octo <b>\n" in sent["body"]
    assert "hunter2" not in said + sent["body"]


def test_a_failed_deployment_fails_and_is_told(hub, run_step):
    code, said, outputs = deploy(hub, run_step, 3)

    assert code == 3
    assert "created" in said
    assert "created" in outputs["comment"]


def drift(hub, run_step, code):
    hub.program("pushtrain", f"#!/bin/sh\necho 'update   aws:s3:Bucket models'\nexit {code}\n")
    compared, _, outputs = run_step("drift", "drift", "Compare", STACK="dev")
    if compared == 0:
        told, said, _ = run_step(
            "drift", "drift", "Issue", STACK="dev", CODE=outputs["code"], LOG=LOG
        )
        assert told == 0, said
    return compared


def test_drift_opens_one_issue_and_then_keeps_to_it(hub, run_step):
    assert drift(hub, run_step, 2) == 0
    ((method, path, sent),) = hub.calls
    assert (method, path) == ("POST", "repos/octo/mnist/issues")
    assert sent["title"] == "Drift of stack dev"
    assert "\n    update   aws:s3:Bucket models\n" in sent["body"]

    hub.has("repos/octo/mnist/issues", {"number": 12, "user": US, "body": sent["body"]})
    assert drift(hub, run_step, 2) == 0
    assert hub.calls[1][:2] == ["PATCH", "repos/octo/mnist/issues/12"]

    assert drift(hub, run_step, 0) == 0
    assert hub.calls[2] == ["PATCH", "repos/octo/mnist/issues/12", {"state": "closed"}]


def test_no_drift_opens_nothing_and_a_look_that_fails_is_no_drift(hub, run_step):
    assert drift(hub, run_step, 0) == 0
    assert drift(hub, run_step, 1) == 1
    assert hub.calls == []


def test_only_the_name_typed_again_destroys(run_step):
    step = ("destroy", "destroy", "Was it meant")

    assert run_step(*step, STACK="prod", TYPED="prod")[0] == 0
    code, said, _ = run_step(*step, STACK="prod", TYPED="dev")
    assert code == 1
    assert "nothing was touched" in said


def test_an_image_that_up_builds_too_is_refused(hub, run_step):
    planned = {"image": "r/i:g-1", "platform": "linux/amd64", "context": "/c/trainer",
               "build_args": [], "run": None, "built_by_up": True}  # fmt: skip
    hub.program("pushtrain", f"#!/bin/sh\necho '{json.dumps(planned)}'\n")
    code, said, outputs = run_step("image", "plan", "Plan", STACK="dev")

    assert code == 1
    assert "set pushtrain:image.build to false in Pulumi.dev.yaml" in said
    assert outputs == {}
