import hashlib
import json

import httpx
import pytest

from localcloud import RegistryError, make_image

pytestmark = pytest.mark.localcloud

PUSHED = "ECR Image Action"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def put(bench, reference, body, kind=MANIFEST):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.put(
        f"{bench.cloud.url}/v2/team/train/manifests/{reference}",
        content=data,
        headers={"Content-Type": kind},
        trust_env=False,
    )


def manifest_of(bench, reference):
    return httpx.get(
        f"{bench.cloud.url}/v2/team/train/manifests/{reference}", trust_env=False
    ).content


def test_a_push_reaches_a_rule_as_aws_tells_it(bench):
    bench.repository()
    url, arn = bench.queue("pushes")
    bench.rule("pushes", {"source": ["aws.ecr"]}, arn)
    digest = bench.push(make_image({"a": b"1"}))

    event, _ = bench.message(url)
    assert event.pop("id")
    assert event.pop("time")
    assert event == {
        "version": "0",
        "detail-type": "ECR Image Action",
        "source": "aws.ecr",
        "account": "000000000000",
        "region": "us-east-1",
        "resources": [],
        "detail": {
            "result": "SUCCESS",
            "repository-name": "team/train",
            "image-digest": digest,
            "action-type": "PUSH",
            "image-tag": "v1",
            "manifest-media-type": MANIFEST,
            "artifact-media-type": "application/vnd.oci.image.config.v1+json",
        },
    }


def test_only_a_push_that_changes_something_is_told(bench):
    bench.repository()
    image = make_image({"a": b"1"})
    first = bench.push(image, "v1")
    bench.push(image, "v1")
    bench.push(image, "v2")
    bench.push(make_image({"a": b"2"}), "v1")

    told = [bench.event(PUSHED) for _ in range(3)]
    assert [detail["image-tag"] for detail in told] == ["v1", "v2", "v1"]
    assert [detail["image-digest"] == first for detail in told] == [True, True, False]
    assert bench.events.empty()


def test_an_untagged_push_has_an_empty_tag(bench):
    bench.repository()
    digest = bench.push(make_image({"a": b"1"}))
    body = manifest_of(bench, "v1").replace(b"{", b"{ ", 1)
    other = "sha256:" + hashlib.sha256(body).hexdigest()
    bench.event(PUSHED)
    answer = put(bench, other, body)

    assert answer.status_code == 201
    assert other != digest
    detail = bench.event(PUSHED)
    assert detail["image-tag"] == ""
    assert detail["image-digest"] == other


def test_an_index_is_told_without_an_artifact_type(bench):
    bench.repository()
    digest = bench.push(make_image({"a": b"1"}))
    bench.event(PUSHED)
    child = {"digest": digest, "mediaType": MANIFEST, "size": 1}
    answer = put(bench, "multi", {"mediaType": INDEX, "manifests": [child]}, INDEX)

    assert answer.status_code == 201
    detail = bench.event(PUSHED)
    assert detail["manifest-media-type"] == INDEX
    assert "artifact-media-type" not in detail


def test_put_image_is_told_too_and_refused_when_nothing_changes(bench):
    bench.repository()
    digest = bench.push(make_image({"a": b"1"}))
    bench.event(PUSHED)
    ecr = bench.client("ecr")
    request = {"repositoryName": "team/train", "imageManifest": manifest_of(bench, "v1").decode()}
    ecr.put_image(**request, imageTag="again", imageManifestMediaType=MANIFEST)

    detail = bench.event(PUSHED)
    assert detail["image-tag"] == "again"
    assert detail["image-digest"] == digest
    with pytest.raises(ecr.exceptions.ImageAlreadyExistsException):
        ecr.put_image(**request, imageTag="again")
    with pytest.raises(ecr.exceptions.LayersNotFoundException):
        ecr.put_image(
            repositoryName="team/train",
            imageManifest=json.dumps({"layers": [{"digest": "sha256:0"}]}),
        )
    with pytest.raises(ecr.exceptions.InvalidParameterException):
        ecr.put_image(repositoryName="team/train", imageManifest="not json")
    assert bench.events.empty()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"not json", "MANIFEST_INVALID"),
        (b"[]", "MANIFEST_INVALID"),
        (b"{}", "MANIFEST_INVALID"),
        (b'{"layers": [{}]}', "MANIFEST_INVALID"),
        (b'{"layers": [{"digest": "sha256:0"}]}', "MANIFEST_BLOB_UNKNOWN"),
        (b'{"manifests": [{"digest": "sha256:0"}]}', "MANIFEST_BLOB_UNKNOWN"),
    ],
)
def test_a_broken_manifest_is_refused(bench, body, code):
    bench.repository()
    answer = put(bench, "v1", body)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == code
    assert bench.events.empty()


def test_a_manifest_under_a_wrong_digest_is_refused(bench):
    bench.repository()
    bench.push(make_image({"a": b"1"}))
    answer = put(bench, f"sha256:{64 * '0'}", manifest_of(bench, "v1"))

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"


def test_an_unknown_repository_is_refused(bench):
    with pytest.raises(RegistryError, match="404"):
        bench.push(make_image({"a": b"1"}))


def test_a_registry_knows_its_digests_by_ecr_name_too(bench):
    bench.repository()
    digest = bench.push(make_image({"a": b"1"}))
    with bench.cloud.registry() as registry:
        uri = "000000000000.dkr.ecr.us-east-1.amazonaws.com/team/train"

        assert registry.digest(uri, "v1") == digest
        assert registry.digest(uri, "v2") is None


def test_an_image_is_described_with_the_artifact_type_that_its_event_tells(bench):
    bench.repository()
    bench.push_script("one", "v1")
    told = bench.event("ECR Image Action")
    (detail,) = bench.client("ecr").describe_images(repositoryName="team/train")["imageDetails"]

    assert detail["artifactMediaType"] == told["artifact-media-type"]
    assert detail["imageManifestMediaType"] == told["manifest-media-type"]
