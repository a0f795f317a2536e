import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from localcloud.lifeline import Lifeline

HOLDER = """
import io, json, sys, time, zipfile
from localcloud import Cloud, make_image

STUBBORN = '''
import signal, subprocess, sys, time
for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(name, signal.SIG_IGN)
if sys.argv[1:] != ["child"]:
    subprocess.Popen([sys.executable, __file__, "child"])
print("here", flush=True)
time.sleep(600)
'''

with Cloud() as cloud:
    cloud.client("ecr").create_repository(repositoryName="train")
    cloud.client("ecs").create_cluster(clusterName="default")
    cloud.client("logs").create_log_group(logGroupName="g")
    with cloud.registry() as registry:
        registry.push(make_image({"main.py": STUBBORN.encode()}, Entrypoint=["python", "main.py"]),
                      "train", "v1")
    cloud.client("ecs").register_task_definition(family="t", containerDefinitions=[{
        "name": "c", "image": "train:v1",
        "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "g"}}}])
    task = cloud.client("ecs").run_task(taskDefinition="t")["tasks"][0]["taskArn"]
    stream = task.rsplit("/", 1)[1]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("f.py", "import time\\ndef handler(event, context): time.sleep(event)")
    cloud.client("lambda").create_function(
        FunctionName="f", Runtime="python3.11", Handler="f.handler", Role="r", Timeout=600,
        Code={"ZipFile": archive.getvalue()})
    cloud.client("lambda").invoke(FunctionName="f", Payload="0")
    cloud.client("lambda").invoke(FunctionName="f", InvocationType="Event", Payload="600")
    while True:
        try:
            if len(cloud.client("logs").get_log_events(
                    logGroupName="g", logStreamName=stream)["events"]) == 2:
                break
        except cloud.client("logs").exceptions.ResourceNotFoundException:
            pass
        time.sleep(0.05)
    print("up", flush=True)
    time.sleep(600)
"""


def those_of(folder):
    """Find the processes whose environment names the folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in environment:
                found.append(int(process.name))
    return found


def until(ask, seconds=5):
    deadline = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.localcloud
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_process_that_holds_a_cloud(tmp_path, end):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)},
    )
    with holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == b"up\n"
            # Itself, the reaper, the task with its child, and the worker in the middle of a call.
            assert len(those_of(tmp_path)) == 5
            holder.send_signal(end)
            holder.wait(10)
        finally:
            holder.kill()

    until(lambda: not those_of(tmp_path))
    until(lambda: not list(tmp_path.glob("pushtrain-cloud-*")))


@pytest.fixture
def folder():
    return Path(tempfile.mkdtemp())


def test_a_child_gives_its_code_and_its_lines(folder):
    lifeline = Lifeline(folder)
    child = lifeline.popen(["sh", "-c", "cat; echo out; exit 3"], stdout=subprocess.PIPE)

    assert child.communicate()[0] == b"out\n"
    assert lifeline.wait(child) == 3
    lifeline.close()


def test_closing_ends_children_and_removes_the_folder(folder):
    lifeline = Lifeline(folder)
    (folder / "file").touch()
    child = lifeline.popen(["sh", "-c", "trap '' TERM; sleep 600"])
    lifeline.close()

    assert child.returncode == -signal.SIGKILL
    assert not folder.exists()


def test_what_a_child_left_running_ends_when_it_does(folder):
    lifeline = Lifeline(folder)
    script = "sleep 600 >/dev/null & echo $!"
    child = lifeline.popen(["sh", "-c", script], stdout=subprocess.PIPE)
    orphan = int(child.communicate()[0])

    assert alive(orphan)
    lifeline.wait(child)
    until(lambda: not alive(orphan))
    lifeline.close()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_was_not_announced_does_not_start(folder, monkeypatch):
    lifeline = Lifeline(folder)
    made = []
    popen = subprocess.Popen

    def dying(*args, **options):
        child = popen(*args, **options)
        made.append(child)
        assert child.stdin
        child.stdin.close()  # as our own sudden end would
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", dying)
    with pytest.raises(KeyboardInterrupt):
        lifeline.popen(["touch", str(folder / "started")])
    monkeypatch.undo()

    assert made[0].wait(5) == 1
    assert not (folder / "started").exists()
    lifeline.close()
