"""The command line: help, bad input, exit codes."""

import subprocess
import sys

import pytest


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
    assert answer.stderr == "error: No such command 'trian'. See: pushtrain --help\n"


@pytest.mark.parametrize(
    "command", ["preview", "up", "destroy", "refresh", "outputs", "drift", "cloud"]
)
def test_every_command_teaches_by_example(command):
    answer = pushtrain(command, "--help")

    assert answer.returncode == 0
    assert f"pushtrain {command}" in answer.stdout.partition("Example")[2]


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
