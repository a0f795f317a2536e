"""Which model is the champion: one metric on one set of test data decides, and one writer wins."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast

from botocore.exceptions import ClientError

from handler import runs
from handler.events import RUN
from handler.manifest import is_number
from handler.runs import Promotion, Rival, Run
from handler.store import LOST_RACES, LostRaceError, write_if
from handler.wiring import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = "models/champion.json"
VERSION = 1

_WRITES = 10
_LONGEST = 500
"""Characters of a caller's name, and of a reason, that are kept."""
_HASH = re.compile(r"[0-9A-Za-z-]{1,128}")
_REPAIR = "restore the object's version before, or delete it"


class PromotionRefusedError(ValueError):
    """A promotion that was asked for by hand, and cannot be."""


class TestedOn(TypedDict):
    """What a model was tested on, as far as it is known, the closest first."""

    test_sha256: str | None
    sha256: str | None
    etag: str | None


class Champion(TypedDict):
    """The champion document, as docs/run-record.md has it."""

    version: int
    run: str
    image_digest: str
    prefix: str
    model: str | None
    metric: str
    goal: str
    value: float | None
    data: TestedOn
    promoted_at: str
    by: str
    reason: str
    previous: Rival | None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies under the champion's key."""

    champion: Champion | None = None
    etag: str = ""
    """Empty where nothing lies there."""
    fault: str = ""
    """Why what lies there cannot be read."""


Judgement: TypeAlias = tuple[Promotion, bool]
"""What is decided, and whether the champion is another one for it."""


def promote(s3: "S3Client", run: Run, manifest: dict[str, Any]) -> Promotion:
    """Make the run the champion if it beats the one there is, and return what goes into its record.

    Whoever loses the race to write decides again, so that of two at once the better one stays.
    """

    def judge(found: Found) -> Judgement:
        promotion = decide(run, manifest, found)
        change = promotion["decision"] == "promoted" and not _own(run, manifest, found.champion)
        return promotion, change

    return _settle(s3, run, manifest, "observe", judge)


def override(
    s3: "S3Client", run: Run, manifest: dict[str, Any], *, by: str, reason: str
) -> Promotion:
    """Make the run the champion because somebody says so, whatever its metric."""
    if run["state"] != "SUCCEEDED":
        raise PromotionRefusedError(
            f"run {run['run']} must have SUCCEEDED to be the champion, got {run['state']}"
        )

    def judge(found: Found) -> Judgement:
        champion = found.champion
        if found.fault:
            raise PromotionRefusedError(f"{found.fault}: {_REPAIR}")
        if champion and champion["run"] == run["run"]:
            return _crowned(run, manifest, champion), False
        said = f"by hand ({by[:_LONGEST]}): {reason[:_LONGEST]}"
        return _promotion(run, manifest, champion, "promoted", said), True

    return _settle(s3, run, manifest, by[:_LONGEST], judge)


def decide(run: Run, manifest: dict[str, Any], found: Found) -> Promotion:
    """Say whether the run should follow the champion, and why."""
    champion = found.champion
    # Told again after a crash: what it did then holds, whatever came of it since.
    if done := _own(run, manifest, champion):
        return done
    value, lack = _value(manifest, run["wiring"]["champion_metric"])
    refusal = lack or (f"{found.fault}: {_REPAIR}" if found.fault else "")
    if champion and not refusal:
        refusal = _incomparable(run, manifest, champion)
    if refusal or value is None:
        return _promotion(run, manifest, champion, "kept", refusal)
    if not champion:
        return _promotion(run, manifest, None, "promoted", "there was no champion")
    metric, rival = champion["metric"], cast("float", champion["value"])
    better = value > rival if run["wiring"]["champion_goal"] == "max" else value < rival
    verb, decision = ("beats", "promoted") if better else ("does not beat", "kept")
    mine, theirs = _shown(value, rival)
    reason = f"{metric} {mine} {verb} {theirs} of run {champion['run']}"
    return _promotion(run, manifest, champion, decision, reason)


def tested_on(run: Run, manifest: dict[str, Any]) -> TestedOn:
    """Return by what the run's test data can be told from others."""
    published = manifest.get("data")
    data = cast("dict[str, Any]", published) if isinstance(published, dict) else {}
    frozen = run["data"]
    return {
        "test_sha256": _hash(data.get("test_sha256")),
        "sha256": _hash(data.get("sha256")),
        "etag": _hash(frozen["etag"]) if frozen else None,
    }


def _incomparable(run: Run, manifest: dict[str, Any], champion: Champion) -> str:
    """Say why the two cannot be held against each other; empty if they can."""
    metric, rival = run["wiring"]["champion_metric"], f"the champion, run {champion['run']},"
    fix = f"pushtrain promote {run['run']} makes it the champion by hand"
    if champion["metric"] != metric:
        return f"{rival} was chosen by {champion['metric']}, and this run goes by {metric}: {fix}"
    if champion["value"] is None:
        return f"{rival} was chosen by hand and has no {metric}: {fix}"
    ours, theirs = tested_on(run, manifest), champion["data"]
    for kind in ("test_sha256", "sha256", "etag"):
        if (mine := ours[kind]) and (other := theirs[kind]):
            if mine == other:
                return ""
            return f"{rival} was tested on other data ({kind} differs): {fix}"
    return f"nothing tells whether {rival} was tested on the same data: {fix}"


def _own(run: Run, manifest: dict[str, Any], champion: Champion | None) -> Promotion | None:
    """Return the promotion that is behind the run already, if there is one."""
    if not champion:
        return None
    if champion["run"] == run["run"]:
        return _crowned(run, manifest, champion)
    if (previous := champion["previous"]) and previous["run"] == run["run"]:
        reason = f"it was the champion until run {champion['run']} followed it"
        return _promotion(run, manifest, None, "promoted", reason)
    return None


def _crowned(run: Run, manifest: dict[str, Any], champion: Champion) -> Promotion:
    """Return the promotion by which the run became the champion that it is."""
    promotion = _promotion(run, manifest, None, "promoted", champion["reason"])
    return {**promotion, "champion": champion["previous"], "at": champion["promoted_at"]}


def _promotion(
    run: Run,
    manifest: dict[str, Any],
    champion: Champion | None,
    decision: Literal["promoted", "kept"],
    reason: str,
) -> Promotion:
    metric = run["wiring"]["champion_metric"]
    return {
        "decision": decision,
        "reason": reason,
        "metric": metric,
        "value": _value(manifest, metric)[0],
        "champion": _rival(champion),
        "at": runs.now(),
    }


def _rival(champion: Champion | None) -> Rival | None:
    return {"run": champion["run"], "value": champion["value"]} if champion else None


def _value(manifest: dict[str, Any], metric: str) -> tuple[float | None, str]:
    """Return the run's value of the metric, or why it has none."""
    published = manifest.get("metrics")
    metrics = cast("dict[str, Any]", published) if isinstance(published, dict) else {}
    if metric not in metrics:
        return None, f"the manifest has no metric {metric}"
    value = metrics[metric]
    if not is_number(value):
        return None, f"{metric} must be a finite number, got {value!r:.80}"
    return value, ""


def _shown(value: float, rival: float) -> tuple[str, str]:
    """Return both with as many digits as it takes to tell them apart."""
    shown = ("", "")
    for digits in (4, 8, 17):
        shown = (f"{value:.{digits}g}", f"{rival:.{digits}g}")
        if shown[0] != shown[1] or value == rival:
            break
    return shown


def _hash(value: object) -> str | None:
    return value if isinstance(value, str) and _HASH.fullmatch(value) else None


def _is_rival(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    fields = cast("dict[str, Any]", value)
    return _is_run(fields.get("run")) and _is_value(fields.get("value"))


def _is_value(value: object) -> bool:
    return value is None or is_number(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_run(value: object) -> bool:
    return isinstance(value, str) and bool(RUN.fullmatch(value))


_FIELDS: dict[str, Callable[[object], bool]] = {
    "run": _is_run,
    "metric": _is_text,
    "value": _is_value,
    "data": lambda value: isinstance(value, dict),
    "promoted_at": _is_text,
    "reason": _is_text,
    "previous": lambda value: value is None or _is_rival(value),
}
"""What of a champion document the code reads, and what that must be."""


def _settle(
    s3: "S3Client",
    run: Run,
    manifest: dict[str, Any],
    by: str,
    judge: Callable[[Found], Judgement],
) -> Promotion:
    bucket = run["wiring"]["bucket"]
    for _ in range(_WRITES):
        found = _read(s3, bucket)
        promotion, change = judge(found)
        document = _document(run, manifest, promotion, by)
        if not change or _write(s3, bucket, document, found.etag):
            return promotion
    raise LostRaceError(f"s3://{bucket}/{KEY} was changed by another each of {_WRITES} times")


def _document(run: Run, manifest: dict[str, Any], promotion: Promotion, by: str) -> Champion:
    model = manifest.get("model")
    return {
        "version": VERSION,
        "run": run["run"],
        "image_digest": run["image"]["digest"],
        "prefix": runs.prefix(run["run"]),
        "model": model if isinstance(model, str) and model in manifest["files"] else None,
        "metric": promotion["metric"],
        "goal": run["wiring"]["champion_goal"],
        "value": promotion["value"],
        "data": tested_on(run, manifest),
        "promoted_at": promotion["at"],
        "by": by,
        "reason": promotion["reason"],
        "previous": promotion["champion"],
    }


def _read(s3: "S3Client", bucket: str) -> Found:
    try:
        answer = s3.get_object(Bucket=bucket, Key=KEY)
    except ClientError as error:
        if error_code(error) == "NoSuchKey":
            return Found()
        raise
    champion, fault = _parse(f"s3://{bucket}/{KEY}", answer["Body"].read())
    return Found(champion=champion, etag=answer["ETag"], fault=fault)


def _parse(place: str, body: bytes) -> tuple[Champion | None, str]:
    """Return the champion, or why the document tells none: no run's end may hang on it."""
    try:
        document: object = json.loads(body)
    except (RecursionError, ValueError):
        return None, f"{place} must be JSON, got {body[:80]!r}"
    fields = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    if (version := fields.get("version")) != VERSION:
        return None, f"{place} must have version {VERSION}, got {version!r:.80}"
    if wrong := [name for name, fits in _FIELDS.items() if not fits(fields.get(name))]:
        return None, f"{place} must have {', '.join(wrong)} as docs/run-record.md has it"
    data = cast("dict[str, Any]", fields["data"])
    hashes = {name: _hash(data.get(name)) for name in TestedOn.__annotations__}
    return cast("Champion", {**fields, "data": hashes}), ""


def _write(s3: "S3Client", bucket: str, document: Champion, etag: str) -> bool:
    condition: Any = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
    body = json.dumps(document, indent=1, allow_nan=False).encode()
    # NoSuchKey: what should match was deleted meanwhile.
    return write_if(s3, bucket, KEY, body, condition, lost=LOST_RACES | {"NoSuchKey"})
