"""Bad days for the embedded cloud: calls that fail or lose their answer, events and hosts lost.

Calls fail at the gateway, over HTTP and in each service's own wire form, so that it is the real
boto3 of a Lambda worker or of a task that meets them.
"""

import asyncio
import contextlib
import contextvars
import functools
import json
import random
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_LONGEST_WAIT_SECONDS = 60
_STATUS = {
    "AccessDenied": 403,
    "ConditionalRequestConflict": 409,
    "InternalError": 500,
    "InternalFailure": 500,
    "InternalServerError": 500,
    "MANIFEST_UNKNOWN": 404,
    "NoSuchKey": 404,
    "PreconditionFailed": 412,
    "ServerException": 500,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
}
"""Of error codes that AWS answers with anything but 400."""
_QUERY_SERVICES = frozenset({"cloudformation", "ec2", "elasticloadbalancing", "iam", "sns", "sts"})
_S3_OPERATIONS = (
    ("GET", "uploads", "ListMultipartUploads"),
    ("GET", "versions", "ListObjectVersions"),
    ("POST", "uploads", "CreateMultipartUpload"),
    ("POST", "uploadId", "CompleteMultipartUpload"),
    ("POST", "delete", "DeleteObjects"),
    ("PUT", "partNumber", "UploadPart"),
    ("DELETE", "uploadId", "AbortMultipartUpload"),
)
_REGISTRY_OPERATIONS = (
    ("GET", "/manifests/", "GetManifest"),
    ("HEAD", "/manifests/", "HeadManifest"),
    ("PUT", "/manifests/", "PutManifest"),
    ("GET", "/blobs/", "GetBlob"),
    ("HEAD", "/blobs/", "HeadBlob"),
)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of AWS as the gateway sees it."""

    service: str
    """As signatures name it: ecs, events, lambda, logs, s3, sns, sqs, ssm; or `registry`."""
    operation: str
    """RunTask say; of the registry PutManifest, GetBlob and the like."""
    by: str
    """A Lambda's function name, `task-` and its id, or empty for whoever is outside."""
    path: str
    body: bytes
    worker: Callable[[], None]
    """Ends the Lambda worker that makes the call; does nothing for any other caller."""


@dataclass(frozen=True)
class Error:
    """The service refuses the call, with this code."""

    code: str
    message: str = "injected by a test"
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further members of a JSON exception, `resourceIds` of a ConflictException say."""


@dataclass(frozen=True)
class Failures:
    """RunTask answers 200, with these reasons and no task."""

    reasons: tuple[str, ...]

    def __init__(self, *reasons: str) -> None:
        object.__setattr__(self, "reasons", reasons)


@dataclass(frozen=True)
class Answer:
    """The call is not made, and answered with this document: one of a JSON service."""

    document: Mapping[str, Any]


@dataclass(frozen=True)
class Delay:
    """The call is made, later."""

    seconds: float


@dataclass(frozen=True)
class Until:
    """The call is made once this has been set."""

    event: threading.Event


@dataclass(frozen=True)
class Reset:
    """The connection breaks before the call is made."""


@dataclass(frozen=True)
class AnswerLost:
    """The call is made, and the connection breaks before its answer."""


@dataclass(frozen=True)
class WorkerKilled:
    """The Lambda's process ends, just before its call is made or just after."""

    when: Literal["before", "after"]


Effect = Error | Failures | Answer | Delay | Until | Reset | AnswerLost | WorkerKilled
EventEffect = Literal["lost", "repeated", "late", "again"]


@dataclass(kw_only=True, eq=False)
class Injection:
    """One fault that is in force, and how often it has struck."""

    effect: Effect
    matches: Callable[[Call], bool]
    skip: int
    """How many calls are still to pass."""
    times: int | None
    share: float
    dice: random.Random
    struck: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def strikes(self, call: Call) -> bool:
        """Say whether this call is one of those that fail, and count it."""
        if not self.matches(call):
            return False
        with self.lock:
            if self.skip:
                self.skip -= 1
                return False
            if self.times is not None and self.struck >= self.times:
                return False
            if self.dice.random() >= self.share:
                return False
            self.struck += 1
            return True


class HeldEvents:
    """Events that a fault has met; late ones wait until they are released, newest first."""

    def __init__(
        self,
        effect: EventEffect,
        matches: Callable[[str, dict[str, Any]], bool],
        times: int | None,
        copies: int,
    ) -> None:
        self.effect = effect
        self.copies = copies
        self.met: list[dict[str, Any]] = []
        """Their details."""
        self._matches = matches
        self._times = times
        self._held: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def takes(self, kind: str, detail: dict[str, Any]) -> bool:
        """Say whether this event is one of those, and count it."""
        with self._lock:
            if self._times is not None and len(self.met) >= self._times:
                return False
            if not self._matches(kind, detail):
                return False
            self.met.append(detail)
            return True

    def hold(self, post: Callable[[], None]) -> None:
        """Keep an event back."""
        with self._lock:
            self._held.append(post)

    def release(self) -> None:
        """Put what is held on the bus, the newest first."""
        with self._lock:
            held, self._held = self._held, []
        for post in reversed(held):
            post()


class Faults:
    """What goes wrong in a cloud, from when a test says so until its `with` block ends.

    >>> with cloud.faults.inject("ecs", "RunTask", Error("ThrottlingException"), times=2): ...
    """

    def __init__(self, worker: Callable[[str], tuple[str, Callable[[], None]]]) -> None:
        """`worker(id)` gives the function's name and what ends its process."""
        self._worker = worker
        self._injections: list[Injection] = []
        self._events: list[HeldEvents] = []
        self._starts: list[tuple[str, bool]] = []
        self._refused: dict[str, bytes] = {}

    def clear(self) -> None:
        """Let all be well again."""
        self._injections.clear()
        self._events.clear()
        self._starts.clear()
        self._refused.clear()

    @contextlib.contextmanager
    def inject(  # noqa: PLR0913 -- each narrows down which calls, and each has its default
        self,
        service: str,
        operation: str,
        effect: Effect,
        *,
        times: int | None = None,
        skip: int = 0,
        share: float = 1.0,
        seed: int = 0,
        by: str = "",
        where: str = "",
    ) -> Generator[Injection]:
        """Let calls of an operation (or "*") of a service (or "*") fail.

        times: how many of them, all by default; skip: how many pass first. share: of those that
        are left, by chance. by: part of the caller's name (a Lambda's function name, `task-`).
        where: part of the path or body, an object's key say.
        """

        def matches(call: Call) -> bool:
            return (
                service in {"*", call.service}
                and operation in {"*", call.operation}
                and by in call.by
                and (not where or where in call.path or where.encode() in call.body)
            )

        made = Injection(
            effect=effect,
            matches=matches,
            skip=skip,
            times=times,
            share=share,
            dice=random.Random(seed),  # noqa: S311 -- the same calls fail each time
        )
        self._injections.append(made)
        try:
            yield made
        finally:
            with contextlib.suppress(ValueError):  # cleared meanwhile
                self._injections.remove(made)

    @contextlib.contextmanager
    def events(
        self,
        kind: str,
        effect: EventEffect,
        *,
        times: int | None = None,
        copies: int = 2,
        when: Callable[[dict[str, Any]], bool] = lambda _detail: True,
    ) -> Generator[HeldEvents]:
        """Let events of a detail-type get lost, come several times, or be held back.

        Late ones reach the bus at `release()` or at the end, in reverse order, and so do those that
        come in time and again; who watches the cloud from outside sees each once, in time.
        """
        made = HeldEvents(
            effect, lambda given, detail: given == kind and when(detail), times, copies
        )
        self._events.append(made)
        try:
            yield made
        finally:
            with contextlib.suppress(ValueError):
                self._events.remove(made)
            made.release()

    @contextlib.contextmanager
    def starts(self, reason: str, *, times: int = 1, containers: bool = False) -> Generator[None]:
        """Let tasks fail to start, for this `stoppedReason`; ECS then often names no container."""
        added = [(reason, containers) for _ in range(times)]
        self._starts += added
        try:
            yield
        finally:
            for one in added:
                with contextlib.suppress(ValueError):  # taken
                    self._starts.remove(one)

    # What the cloud asks

    def start_fault(self) -> tuple[str, bool] | None:
        """Tell why the task that is being started must fail, and whether it shows containers."""
        with contextlib.suppress(IndexError):
            return self._starts.pop(0)
        return None

    def post(self, kind: str, detail: dict[str, Any], put: Callable[[], None]) -> None:
        """Put an event on the bus: once, unless a fault has it otherwise."""
        for held in tuple(self._events):
            if held.takes(kind, detail):
                if held.effect == "repeated":
                    for _ in range(held.copies):
                        put()
                elif held.effect != "lost":
                    if held.effect == "again":
                        put()
                    # The event belongs to the account and region that it happened in.
                    held.hold(functools.partial(contextvars.copy_context().run, put))
                return
        put()

    def around(self, app: App) -> App:
        """Return the gateway with the faults before it."""

        async def gateway(scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or not (self._injections or self._refused):
                return await app(scope, receive, send)
            body, receive = await _read(receive)
            call = self._call(scope, body)
            effect = next(
                (one.effect for one in tuple(self._injections) if one.strikes(call)), None
            )
            if not effect and (token := _token(call)) in self._refused:
                return await _answer(send, 200, _JSON, self._refused[token])
            return await self._serve(lambda reply: app(scope, receive, reply), send, call, effect)

        return gateway

    async def _serve(
        self,
        make: Callable[[Send], Awaitable[None]],
        send: Send,
        call: Call,
        effect: Effect | None,
    ) -> None:
        match effect:
            case None:
                await make(send)
            case Delay() | Until():
                await _wait(effect)
                await make(send)
            case Error():
                await _answer(send, *_refusal(call, effect))
            case Answer(document):
                await _answer(send, 200, _JSON, json.dumps(document).encode())
            case Failures(reasons):
                await _answer(send, 200, _JSON, self._failures(call, reasons))
            case Reset():
                _abort(send)
            case WorkerKilled("before"):
                call.worker()
                _abort(send)
            case WorkerKilled() | AnswerLost():
                await make(_swallow)
                if isinstance(effect, WorkerKilled):
                    call.worker()
                _abort(send)

    def _failures(self, call: Call, reasons: tuple[str, ...]) -> bytes:
        """Answer without a task; the same clientToken is answered the same for ever."""
        cluster = json.loads(call.body).get("cluster", "")
        failures = [{"arn": cluster, "reason": reason} for reason in reasons]
        answer = json.dumps({"tasks": [], "failures": failures}).encode()
        if token := _token(call):
            self._refused[token] = answer
        return answer

    def _call(self, scope: Message, body: bytes) -> Call:
        headers = {name.decode().lower(): text.decode() for name, text in scope["headers"]}
        path: str = scope["path"]
        query = scope["query_string"].decode()
        service, operation = _operation(scope["method"], path, query, headers, body)
        found = re.search(r" app/(\S+)", headers.get("user-agent", ""))
        caller = found[1] if found else ""
        by, end = caller, lambda: None
        if caller.startswith("worker-"):
            by, end = self._worker(caller)
        return Call(service=service, operation=operation, by=by, path=path, body=body, worker=end)


_JSON = "application/x-amz-json-1.1"


def _operation(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> tuple[str, str]:
    """Tell service and operation of a request, as the protocols of AWS say them."""
    signed = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", headers.get("authorization", ""))
    service = signed[1] if signed else ""
    if path.startswith("/v2/"):
        found = [
            name for verb, part, name in _REGISTRY_OPERATIONS if verb == method and part in path
        ]
        return "registry", found[0] if found else method
    if target := headers.get("x-amz-target"):
        return service, target.rpartition(".")[2]
    if service in _QUERY_SERVICES:
        return service, parse_qs(body.decode("utf-8", "replace")).get("Action", [""])[0]
    if service == "lambda":
        return service, "Invoke" if path.endswith("/invocations") else method
    # Whoever signs nothing can only mean S3.
    return service or "s3", _s3_operation(method, path, query, headers)


def _s3_operation(method: str, path: str, query: str, headers: dict[str, str]) -> str:
    asked = parse_qs(query, keep_blank_values=True)
    for verb, parameter, name in _S3_OPERATIONS:
        if verb == method and parameter in asked:
            return name
    what = "Object" if path.strip("/").count("/") else "Bucket"
    if method == "GET" and what == "Bucket":
        return "ListObjectsV2" if "list-type" in asked else "GetBucket"
    if method == "PUT" and "x-amz-copy-source" in headers:
        return "CopyObject"
    return method.capitalize() + what


def _refusal(call: Call, error: Error) -> tuple[int, str, bytes]:
    """Return status, content type and body of a refusal, in the form of the call's service."""
    status = _STATUS.get(error.code, 400)
    code, message = escape(error.code), escape(error.message)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    if call.service == "s3":
        text = f"{head}<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return (
            status,
            "application/xml",
            b"" if call.operation.startswith("Head") else text.encode(),
        )
    if call.service == "registry":
        errors = {"errors": [{"code": error.code, "message": error.message}]}
        return status, "application/json", json.dumps(errors).encode()
    if call.service in _QUERY_SERVICES:
        inner = f"<Code>{code}</Code><Message>{message}</Message>"
        whole = (
            f"<Response><Errors><Error>{inner}</Error></Errors></Response>"
            if call.service == "ec2"
            else f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error></ErrorResponse>"
        )
        return status, "text/xml", (head + whole).encode()
    document = {"__type": error.code, "message": error.message, **error.fields}
    return status, _JSON, json.dumps(document).encode()


def _token(call: Call) -> str:
    if call.operation != "RunTask":
        return ""
    return json.loads(call.body).get("clientToken", "")


async def _wait(effect: Delay | Until) -> None:
    if isinstance(effect, Delay):
        await asyncio.sleep(effect.seconds)
    else:
        await asyncio.to_thread(effect.event.wait, _LONGEST_WAIT_SECONDS)


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """Return the whole body, and a channel on which it can be received again."""
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    read = False

    async def again() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return body, again


async def _answer(send: Send, status: int, kind: str, body: bytes) -> None:
    pairs = {"content-type": kind, "content-length": str(len(body)), "x-amzn-requestid": "injected"}
    headers = [(name.encode(), text.encode()) for name, text in pairs.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _swallow(_message: Message) -> None:
    """Lose an answer."""


def _abort(send: Send) -> None:
    """Break the connection, so that the caller sees a reset.

    ASGI has no word for it: the way from `send` to the socket is hypercorn's own.
    """
    stream: Any = send.__self__  # pyright: ignore[reportFunctionMemberAccess]
    transport = stream.send.__self__.send.__self__.writer.transport
    connection = transport.get_extra_info("socket")
    # Closed without lingering, a socket resets its peer.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
