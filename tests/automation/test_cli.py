"""The command line: help, bad input, exit codes."""

import subprocess
import sys


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
