"""The tag of a build context: what it stands for, and what it does not."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.build_context import content_tag, context_files


@pytest.fixture
def folder(tmp_path):
    return write(
        tmp_path / "context",
        {
            "Dockerfile": b"FROM scratch\n",
            "train.py": b"print(1)\n",
            "pkg/model.py": b"x = 1\n",
        },
    )


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tag(folder, args=None, platform="linux/amd64"):
    return content_tag(folder, args or {}, platform)


def names(folder):
    return [name for name, _ in context_files(folder)]


def test_tag_is_one_that_ecr_can_hold(folder):
    prefix, digits = tag(folder).split("-")

    assert prefix == "c"
    assert len(digits) == 16
    assert set(digits) <= set("0123456789abcdef")


def test_tag_is_known(folder):
    # A change of the tag is a push, hence a training, in every stack that exists.
    assert tag(folder) == "c-c0ab59582407040e"


def test_copy_with_other_times_has_the_same_tag(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))

    assert tag(copy) == tag(folder)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o646])
def test_umask_does_not_count(folder, mode):
    before = tag(folder)
    (folder / "train.py").chmod(mode)

    assert tag(folder) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owner_does_not_count(folder):
    before = tag(folder)
    os.chown(folder / "train.py", 12345, 12345)

    assert tag(folder) == before


def test_executable_bit_counts(folder):
    before = tag(folder)
    (folder / "train.py").chmod(0o755)

    assert tag(folder) != before


def test_content_counts(folder):
    before = tag(folder)
    (folder / "pkg" / "model.py").write_bytes(b"x = 2\n")

    assert tag(folder) != before


def test_name_counts(folder):
    before = tag(folder)
    (folder / "train.py").rename(folder / "main.py")

    assert tag(folder) != before


def test_content_that_moves_between_files_counts(folder):
    before = tag(folder)
    (folder / "train.py").write_bytes(b"x = 1\n")
    (folder / "pkg" / "model.py").write_bytes(b"print(1)\n")

    assert tag(folder) != before


def test_link_counts_by_its_target_and_not_by_what_lies_there(folder, tmp_path):
    link = folder / "data.txt"
    link.symlink_to("train.py")
    before = tag(folder)
    moved = shutil.copytree(folder, tmp_path / "moved", symlinks=True)
    link.unlink()
    link.symlink_to("pkg/model.py")

    assert tag(moved) == before
    assert tag(folder) != before


def test_dangling_link_is_part_of_the_context(folder):
    (folder / "gone").symlink_to("nowhere")

    assert "gone" in names(folder)


def test_arguments_and_platform_count(folder):
    tags = {
        tag(folder),
        tag(folder, {"BASE": "a"}),
        tag(folder, {"BASE": "b"}),
        tag(folder, {"OTHER": "a"}),
        tag(folder, platform="linux/arm64"),
    }

    assert len(tags) == 5


def test_order_of_arguments_does_not_count(folder):
    assert tag(folder, {"A": "1", "B": "2"}) == tag(folder, {"B": "2", "A": "1"})


def test_what_dockerignore_leaves_out_does_not_count(folder):
    (folder / ".dockerignore").write_text("# left out\n\n**/*.pt\nruns\n!runs/keep.txt\n")
    before = tag(folder)
    write(folder, {"model.pt": b"m", "pkg/deep/model.pt": b"m", "runs/1/log": b"l"})

    assert tag(folder) == before
    assert names(folder) == [".dockerignore", "Dockerfile", "pkg/model.py", "train.py"]


def test_exception_in_dockerignore_counts(folder):
    (folder / ".dockerignore").write_text("runs/*\n!runs/keep.txt\n")
    write(folder, {"runs/keep.txt": b"k", "runs/lost.txt": b"l"})

    assert "runs/keep.txt" in names(folder)
    assert "runs/lost.txt" not in names(folder)


def test_ignore_file_of_the_dockerfile_wins(folder):
    (folder / ".dockerignore").write_text("train.py\n")
    (folder / "Dockerfile.dockerignore").write_text("pkg\n")

    assert "train.py" in names(folder)
    assert "pkg/model.py" not in names(folder)


def test_dockerfile_counts_even_where_it_is_ignored(folder):
    # Docker sends it all the same, and what it says decides the image.
    (folder / ".dockerignore").write_text("Dockerfile\n")
    before = tag(folder)
    (folder / "Dockerfile").write_bytes(b"FROM scratch\nENV A=1\n")

    assert tag(folder) != before


file_names = st.text("abc.-", min_size=1, max_size=4).filter(lambda name: set(name) != {"."})
trees = st.dictionaries(
    st.lists(file_names, min_size=1, max_size=2).map("/".join), st.binary(max_size=4), max_size=4
).filter(lambda tree: not any(a != b and b.startswith(f"{a}/") for a in tree for b in tree))


@given(one=trees, other=trees)
def test_two_trees_have_one_tag_just_where_they_are_equal(one, other):
    with tempfile.TemporaryDirectory() as scratch:
        tags = []
        for number, tree in enumerate((one, other)):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            tags.append(tag(write(folder, tree)))

    assert (tags[0] == tags[1]) == (one == other)
