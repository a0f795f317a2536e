import gzip
import io
import json
import tarfile

import pytest

from localcloud import ImageError, build, make_image


@pytest.fixture
def context(tmp_path):
    """Give a function that writes a Dockerfile and files, and gives their folder."""

    def write(dockerfile, files=("main.py", "pkg/__init__.py", "pkg/a.txt")):
        (tmp_path / "Dockerfile").write_text(dockerfile)
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return tmp_path

    return write


def config(image):
    return json.loads(image.config)["config"]


def members(image):
    (layer,) = image.layers
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as tar:
        return {member.name: member for member in tar}


def files(image):
    return {name for name, member in members(image).items() if not member.isdir()}


def test_the_settings_of_the_last_stage_are_the_image_s(context):
    image = build(
        context(
            'FROM a AS builder\nCOPY . /lost/\nENTRYPOINT ["lost"]\n'
            "FROM b\nWORKDIR /app\nWORKDIR sub\nENV A=1 B='two words'\nENV C old form\n"
            'LABEL team=x\nUSER 1000\nENTRYPOINT ["python", "-m", "trainer"]\nCMD ["--fast"]\n'
        )
    )

    assert config(image) == {
        "WorkingDir": "/app/sub",
        "Env": ["A=1", "B=two words", "C=old form"],
        "Labels": {"team": "x"},
        "User": "1000",
        "Entrypoint": ["python", "-m", "trainer"],
        "Cmd": ["--fast"],
    }
    assert files(image) == set()
    assert list(members(image)) == ["app", "app/sub"]


def test_the_shell_form_is_a_line_for_the_shell(context):
    image = build(context("FROM a\nENTRYPOINT python main.py\nCMD [broken\n"))

    assert config(image)["Entrypoint"] == ["/bin/sh", "-c", "python main.py"]
    assert config(image)["Cmd"] == ["/bin/sh", "-c", "[broken"]


def test_a_stage_that_starts_from_another_has_its_files(context):
    image = build(context("FROM a AS base\nCOPY main.py /\nENV A=1\nFROM base\nENV B=$A\n"))

    assert files(image) == {"main.py"}
    assert config(image)["Env"] == ["A=1", "B=1"]


def test_from_and_run_are_skipped_and_said_to_be(context):
    image = build(context("FROM python:3\nRUN pip install \\\n  torch\nEXPOSE 80\nCOPY . /app/\n"))

    assert image.notes == (
        "Dockerfile line 1: skipped FROM python:3",
        "Dockerfile line 2: skipped RUN pip install   torch",
        "Dockerfile line 4: skipped EXPOSE 80",
    )


def test_arguments_reach_env_and_copy_as_docker_would_have_it(context):
    dockerfile = (
        "ARG GLOBAL=g\nARG UNSEEN=u\nFROM a\nARG GLOBAL\nARG NAME=main.py\nARG WHERE=/x\n"
        "ENV G=$GLOBAL U=$UNSEEN N=${NAME} Q='$NAME'\nENV NAME=pkg\nCOPY ${NAME} $WHERE/\n"
    )
    default = build(context(dockerfile))
    given = build(context(dockerfile), build_args={"WHERE": "/y", "GLOBAL": "h", "OTHER": "o"})

    assert config(default)["Env"] == ["G=g", "U=", "N=main.py", "Q=$NAME", "NAME=pkg"]
    assert files(default) == {"x/__init__.py", "x/a.txt"}
    assert config(given)["Env"][0] == "G=h"
    assert files(given) == {"y/__init__.py", "y/a.txt"}


@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        ("COPY . /app/", {"app/Dockerfile", "app/main.py", "app/pkg/__init__.py", "app/pkg/a.txt"}),
        ("COPY main.py /app/", {"app/main.py"}),
        ("COPY main.py /app/run.py", {"app/run.py"}),
        ("COPY main.py .", {"main.py"}),
        ("COPY pkg /app/pkg", {"app/pkg/__init__.py", "app/pkg/a.txt"}),
        ("COPY pkg/ /app", {"app/__init__.py", "app/a.txt"}),
        ("COPY /pkg/*.txt *.py /app/", {"app/a.txt", "app/main.py"}),
        ('COPY ["main.py", "/with space/"]', {"with space/main.py"}),
        ("WORKDIR /work\nCOPY main.py ./", {"work/main.py"}),
        ("WORKDIR /work\nCOPY main.py .", {"work/main.py"}),
        ("WORKDIR /work\nCOPY main.py /work", {"work/main.py"}),
        ("ADD main.py /app/", {"app/main.py"}),
        ("COPY --chown=1000:1000 --link main.py /app/", {"app/main.py"}),
    ],
)
def test_copy_puts_files_where_docker_would(context, copy, expected):
    assert files(build(context(f"FROM a\n{copy}\n"))) == expected


def test_modes_are_normal_and_the_executable_bit_stays(context):
    folder = context("FROM a\nCOPY . /\nCOPY --chmod=755 main.py /forced\n")
    (folder / "pkg/a.txt").chmod(0o700)
    (folder / "main.py").chmod(0o600)
    (folder / "link").symlink_to("main.py")
    found = members(build(folder))

    assert found["pkg/a.txt"].mode == 0o755
    assert found["main.py"].mode == 0o644
    assert found["forced"].mode == 0o755
    assert found["pkg"].mode == 0o755
    assert found["link"].linkname == "main.py"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("COPY --from=builder /a /b", "COPY must take files of the context, got --from=builder"),
        ("COPY --parents main.py /b", "COPY flag must be --chmod, --chown or --link"),
        ("ADD https://example.com/a /b", "ADD must name plain files of the context"),
        ("ADD main.tar.gz /b", "ADD must name plain files of the context"),
        ("COPY nothing /b", "COPY source must be in the context, got nothing"),
        ("COPY ../main.py /b", "COPY source must lie in the context"),
        ("COPY main.py", "COPY must have a source and a destination"),
        ("COPY main.py pkg/a.txt /b", "COPY of several files must end in /, got /b"),
        ("COPY <<EOF /b", "COPY must be without a heredoc"),
        ("ENV A=${B:-c}", "variables must be plain"),
        ("NONSENSE a", "instruction must be one of Dockerfile's own, got NONSENSE"),
    ],
)
def test_what_needs_an_engine_or_is_wrong_is_refused_with_its_line(context, line, reason):
    with pytest.raises(ImageError) as caught:
        build(context(f"FROM a\n{line}\n"))

    assert str(caught.value).startswith(f"Dockerfile line 2: {reason}")


def test_a_dockerfile_without_from_is_refused(context):
    with pytest.raises(ImageError, match="Dockerfile must have a FROM"):
        build(context("COPY . /\n"))


def test_an_unknown_platform_is_refused(context):
    with pytest.raises(ImageError, match="platform must be one of linux/amd64, linux/arm64"):
        build(context("FROM a\n"), platform="linux/s390x")


def test_the_platform_stands_in_the_config(context):
    image = build(context("FROM a\n"), platform="linux/arm64")

    assert json.loads(image.config)["architecture"] == "arm64"


def test_dockerignore_keeps_files_out(context):
    folder = context(
        "FROM a\nCOPY . /\n",
        [
            "main.py",
            "Dockerfile",
            ".dockerignore",
            "a.pyc",
            "x/b.pyc",
            "x/c.py",
            "tests/t.py",
            "tests/keep.py",
        ],
    )
    (folder / "Dockerfile").write_text("FROM a\nCOPY . /\n")
    (folder / ".dockerignore").write_text(
        "# a comment\n\n**/*.pyc\ntests\n!tests/keep.py\nDockerfile\n"
    )

    assert files(build(folder)) == {".dockerignore", "main.py", "tests/keep.py", "x/c.py"}


def test_the_ignore_file_may_be_ignored_too(context):
    folder = context("FROM a\nCOPY . /\n", ["main.py", ".hidden"])
    (folder / ".dockerignore").write_text("**/.*\nDockerfile\n")

    assert files(build(folder)) == {"main.py"}


def test_a_dockerfile_s_own_ignore_file_comes_first(context, tmp_path):
    folder = context("FROM a\nCOPY . /\n")
    other = tmp_path / "other.Dockerfile"
    other.write_text("FROM a\nCOPY pkg /\n")
    (tmp_path / ".dockerignore").write_text("pkg\n")
    (tmp_path / "other.Dockerfile.dockerignore").write_text("pkg/a.txt\n")

    assert files(build(folder, other)) == {"__init__.py"}


def test_equal_content_is_an_equal_image_whenever_and_wherever_it_was_made(tmp_path):
    images = []
    for name, order in (("one", ["a", "b"]), ("two", ["b", "a"])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "Dockerfile").write_text("FROM x\nCOPY . /app/\n")
        for file in order:
            (folder / file).write_text(file)
            (folder / file).chmod(0o640 if name == "one" else 0o600)
        images.append(build(folder))
    (tmp_path / "two" / "a").write_text("changed")

    assert images[0] == images[1]
    assert build(tmp_path / "two").layers != images[1].layers


def test_an_image_can_be_made_of_files_alone():
    image = make_image({"/app/main.py": b"x"}, Entrypoint=["python"], WorkingDir="/app")

    assert files(image) == {"app/main.py"}
    assert config(image) == {"Entrypoint": ["python"], "WorkingDir": "/app"}
