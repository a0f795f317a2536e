"""Leave a comment or an issue on GitHub, in place of an older one with the same mark, through `gh`.

    tell.py pull NUMBER FILE      on a pull request
    tell.py commit SHA FILE       on a commit
    tell.py origin SHA FILE       on the pull request that brought the commit, else on the commit
    tell.py issue TITLE FILE      as the one open issue with this mark
    tell.py close TITLE FILE      close that issue, if there is one

The mark is the file's first line. Standard library alone: it runs where nothing is installed.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

MARK = re.compile(r"<!-- pushtrain:[a-z]+:[^\n ]+ -->")
US = "github-actions[bot]"
"""Whose comments are looked through: anybody can write a mark, which must not lead us astray."""
MOST_CHARACTERS = 65_536


def api(path: str, method: str = "GET", **fields: Any) -> Any:
    """Ask GitHub; of a list, all pages."""
    command = ["gh", "api", "--method", method, path]
    command += ["--paginate", "--slurp"] if method == "GET" else ["--input", "-"]
    done = subprocess.run(  # noqa: S603 - a list of words, no shell
        command,
        input=json.dumps(fields) if fields else None,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    return [item for page in answer for item in page] if method == "GET" else answer


def ours(items: list[dict[str, Any]], mark: str) -> dict[str, Any] | None:
    """Find what bears the mark, of what we wrote ourselves."""
    for item in items:
        text = item["body"] or ""
        if item["user"]["login"] == US and text.partition("\n")[0].rstrip() == mark:
            return item
    return None


def comment(listed: str, single: str, body: str, mark: str) -> None:
    """Write a comment anew, or a first one."""
    if found := ours(api(f"{listed}?per_page=100"), mark):
        api(f"{single}/{found['id']}", "PATCH", body=body)
    else:
        api(listed, "POST", body=body)


def issue(repository: str, title: str, body: str, mark: str) -> None:
    """Write the open issue anew, or open one."""
    if found := ours(api(f"{repository}/issues?state=open&per_page=100"), mark):
        api(f"{repository}/issues/{found['number']}", "PATCH", title=title, body=body)
    else:
        api(f"{repository}/issues", "POST", title=title, body=body)


def close(repository: str, mark: str) -> None:
    """Close the open issue, whose reason is gone."""
    if found := ours(api(f"{repository}/issues?state=open&per_page=100"), mark):
        api(f"{repository}/issues/{found['number']}", "PATCH", state="closed")


def main(kind: str, target: str, file: str) -> None:
    """Do what the arguments say."""
    repository = f"repos/{os.environ['GITHUB_REPOSITORY']}"
    body = Path(file).read_text("utf-8")
    mark = body.partition("\n")[0].rstrip()
    if not MARK.fullmatch(mark):
        raise SystemExit(
            f"error: {file} must begin with a line <!-- pushtrain ... -->, got {mark!r}"
        )
    if len(body) > MOST_CHARACTERS:
        body = body[: MOST_CHARACTERS - 100].rstrip() + "\n\n*The rest was too long for GitHub.*\n"
    if kind == "origin":
        brought = api(f"{repository}/commits/{target}/pulls?per_page=100")
        merged = [each["number"] for each in brought if each["merged_at"]]
        kind, target = ("pull", str(merged[0])) if merged else ("commit", target)
    if kind == "pull":
        comments = f"{repository}/issues/{target}/comments"
        comment(comments, f"{repository}/issues/comments", body, mark)
    elif kind == "commit":
        comments = f"{repository}/commits/{target}/comments"
        comment(comments, f"{repository}/comments", body, mark)
    elif kind == "issue":
        issue(repository, target, body, mark)
    elif kind == "close":
        close(repository, mark)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
