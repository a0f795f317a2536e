import io
import json
import tarfile

import httpx
import pytest

from localcloud import Registry, RegistryError
from localcloud.registry import content_digest, parse_image, unpack

DIGEST = f"sha256:{64 * 'a'}"


def layer(*members):
    """Make a layer of files (name, content) and others (name, type, where it leads)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content, *link in members:
            info = tarfile.TarInfo(name)
            if link:
                info.type, info.linkname, info.mode = content, link[0], 0o755
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tree(root):
    return {
        str(path.relative_to(root)): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", ("train", "latest")),
        ("team/train:v1", ("team/train", "v1")),
        (f"team/train@{DIGEST}", ("team/train", DIGEST)),
        (f"team/train:v1@{DIGEST}", ("team/train", DIGEST)),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/train:v1", ("team/train", "v1")),
        ("127.0.0.1:5000/train:v1", ("train", "v1")),
        ("localhost:5000/train:v1", ("train", "v1")),
    ],
)
def test_an_image_name_says_repository_and_reference(name, expected):
    assert parse_image(name, "127.0.0.1:5000") == expected


@pytest.mark.parametrize(
    "name", ["docker.io/python", "localhost/train", "127.0.0.1:1/train", "localhost:1/train"]
)
def test_another_registry_is_refused(name):
    with pytest.raises(RegistryError, match="image must be in this cloud's own registry"):
        parse_image(name, "127.0.0.1:5000")


def test_a_layer_changes_adds_and_whites_out(tmp_path):
    unpack(layer(("a/keep", b"1"), ("a/gone", b"1"), ("a/changed", b"1"), ("d/x", b"1")), tmp_path)
    unpack(layer(("a/.wh.gone", b""), ("a/changed", b"2"), (".wh.d", b""), ("e", b"3")), tmp_path)

    assert tree(tmp_path) == {"a/changed": "2", "a/keep": "1", "e": "3"}


def test_an_opaque_folder_hides_all_that_was_below(tmp_path):
    unpack(layer(("a/x", b"1"), ("a/b/y", b"1"), ("c", b"1")), tmp_path)
    unpack(layer(("a/.wh..wh..opq", b""), ("a/z", b"2")), tmp_path)

    assert tree(tmp_path) == {"a/z": "2", "c": "1"}


def test_a_file_may_become_a_folder_and_a_folder_a_file(tmp_path):
    unpack(layer(("a", b"1"), ("b/x", b"1")), tmp_path)
    unpack(layer(("a", tarfile.DIRTYPE, ""), ("a/x", b"2"), ("b", b"2")), tmp_path)

    assert tree(tmp_path) == {"a/x": "2", "b": "2"}


def test_a_new_file_replaces_a_link_and_not_what_it_led_to(tmp_path):
    unpack(layer(("a", b"1"), ("link", tarfile.SYMTYPE, "a")), tmp_path)
    unpack(layer(("link", b"2")), tmp_path)

    assert tree(tmp_path) == {"a": "1", "link": "2"}


def test_links_start_at_the_image_s_root(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("mine")
    unpack(
        layer(
            ("usr/bin/tool", b"1"),
            ("bin/absolute", tarfile.SYMTYPE, "/usr/bin/tool"),
            ("bin/climbing", tarfile.SYMTYPE, "../../../../usr/bin/tool"),
            ("hard", tarfile.LNKTYPE, "usr/bin/tool"),
            ("dev/null", tarfile.CHRTYPE, ""),
        ),
        root,
    )

    assert (root / "bin/absolute").resolve() == root / "usr/bin/tool"
    assert (root / "bin/climbing").read_text() == "1"
    assert (root / "hard").read_text() == "1"
    assert not (root / "dev/null").exists()


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", b"1")],
        [("a/../../evil", b"1")],
        [("a/.wh...", b"")],
        [("a/.wh..", b"")],
        [("a/.wh.", b"")],
        [("hard", tarfile.LNKTYPE, "../secret")],
        [("hard", tarfile.LNKTYPE, "/secret")],
    ],
)
def test_a_layer_that_leaves_its_root_is_refused(tmp_path, members):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("mine")
    with pytest.raises(RegistryError, match="layer must"):
        unpack(layer(*members), root)

    assert tree(tmp_path) == {"secret": "mine"}
    assert (root / "a").is_dir()


def test_a_link_cannot_lead_a_later_file_out(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    unpack(layer(("door", tarfile.SYMTYPE, str(outside)), ("door/evil", b"1")), root)

    assert list(outside.iterdir()) == []
    assert (root / str(outside)[1:] / "evil").read_text() == "1"


def test_what_is_no_layer_is_refused(tmp_path):
    with pytest.raises(RegistryError, match="layer must be a tar archive"):
        unpack(b"not a tar", tmp_path)
    with pytest.raises(RegistryError, match="layer must be a tar archive"):
        unpack(layer(("a", b"1" * 9999))[:-20], tmp_path)


def test_the_root_itself_may_be_a_member(tmp_path):
    unpack(layer(("./", tarfile.DIRTYPE, ""), ("./a", b"1")), tmp_path)

    assert tree(tmp_path) == {"a": "1"}


@pytest.fixture
def registry():
    """Give a function that makes a registry of these answers by path."""
    opened = []

    def make(answers):
        registry = Registry("127.0.0.1:1")
        registry.close()
        registry._http = httpx.Client(
            base_url="http://127.0.0.1:1",
            transport=httpx.MockTransport(
                lambda request: httpx.Response(200, content=answers[request.url.path])
            ),
        )
        opened.append(registry)
        return registry

    yield make
    for registry in opened:
        registry.close()


def test_a_manifest_of_another_digest_is_refused(registry, tmp_path):
    answers = {f"/v2/train/manifests/{DIGEST}": b"{}"}
    with pytest.raises(RegistryError, match="manifest digest must be sha256:aaa"):
        registry(answers).pull(f"train@{DIGEST}", tmp_path)


@pytest.mark.parametrize("broken", ["config", "layer"])
def test_a_blob_with_other_bytes_is_refused(registry, tmp_path, broken):
    blobs = {"config": b"{}", "layer": layer(("a", b"1"))}
    digests = {name: content_digest(data) for name, data in blobs.items()}
    manifest = {
        "config": {"digest": digests["config"]},
        "layers": [{"digest": digests["layer"]}],
    }
    answers = {f"/v2/train/blobs/{digests[name]}": data for name, data in blobs.items()}
    answers["/v2/train/manifests/v1"] = json.dumps(manifest).encode()
    registry(answers).pull("train:v1", tmp_path)
    answers[f"/v2/train/blobs/{digests[broken]}"] += b" "

    assert tree(tmp_path) == {"a": "1"}
    with pytest.raises(RegistryError, match="blob digest must be"):
        registry(answers).pull("train:v1", tmp_path)
