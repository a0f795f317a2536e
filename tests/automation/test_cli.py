"""The command line: help, bad input, exit codes."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from automation import cli

ROOT = Path(__file__).parents[2]


def pushtrain(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "automation.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_help_teaches_by_example():
    answer = pushtrain("demo", "--help")

    assert answer.returncode == 0
    assert "pushtrain demo --data cifar10.zip" in answer.stdout
    assert answer.stderr == ""


def test_a_missing_data_file_is_one_line_and_exit_code_2(tmp_path):
    answer = pushtrain("demo", "--data", tmp_path / "absent.zip")

    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: Invalid value for '--data'")
    assert "absent.zip' does not exist" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_an_unknown_command_is_one_line_and_exit_code_2():
    answer = pushtrain("trian")

    assert answer.returncode == 2
    assert answer.stderr == (
        "error: No such command 'trian'. Did you mean 'train'? See: pushtrain --help\n"
    )


def every_command(group, before=()):
    """Name each command and subcommand in words."""
    found = []
    for name, command in sorted(group.commands.items()):
        found.append(" ".join([*before, name]))
        if isinstance(command, click.Group):
            found += every_command(command, [*before, name])
    return found


@pytest.mark.parametrize("command", every_command(cli.pushtrain))
def test_every_command_teaches_by_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "--help"])
    out, _ = capsys.readouterr()

    assert end.value.code == 0
    assert f"pushtrain {command}" in out.partition("Example")[2]


@pytest.mark.parametrize("command", every_command(cli.pushtrain))
def test_every_command_is_in_the_docs_with_an_example(command):
    docs = (ROOT / "docs" / "commands.md").read_text()

    assert re.search(rf"^\| `pushtrain {command}\b", docs, re.MULTILINE), "in the table"
    assert re.search(rf"^[^|]*\bpushtrain {command} ?.*$", docs, re.MULTILINE), "by example"


def test_help_waits_for_no_library():
    slow = "('boto3', 'pulumi', 'rich')"
    code = f"import sys, automation.cli; print([name for name in {slow} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert answer.stdout == "[]\n"


def test_a_reader_that_has_had_enough_is_no_traceback():
    shell = f"{sys.executable} -m automation.cli --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    answer = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False
    )

    assert answer.stdout == "Usage: python -m automation.cli [OPTIONS] COMMAND [ARGS]...\n"
    assert answer.stderr == ""


@pytest.mark.parametrize("command", ["preview", "up", "destroy", "refresh", "outputs", "drift"])
def test_without_a_pulumi_cli_one_line_tells_how_to_get_it(command):
    answer = pushtrain(command, "-s", "dev", env={"PATH": "/nowhere"})

    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr == (
        "error: there is no pulumi command on PATH; install it: "
        "curl -fsSL https://get.pulumi.com | sh\n"
    )


def test_a_command_without_a_stack_is_one_line_and_exit_code_2():
    answer = pushtrain("up")

    assert answer.returncode == 2
    assert answer.stderr == "error: Missing option '-s' / '--stack'. See: pushtrain --help\n"


def test_a_wrong_project_folder_is_one_line(tmp_path):
    answer = pushtrain("outputs", "-s", "dev", "--project", tmp_path)

    assert answer.returncode == 1
    assert answer.stderr.startswith("error: project must be a folder with a Pulumi.yaml, got ")
    assert len(answer.stderr.splitlines()) == 1
