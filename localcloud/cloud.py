"""An AWS cloud inside this process, for demos and tests: MiniStack, and what it lacks."""

import asyncio
import contextlib
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import boto3
import httpx
from botocore.config import Config as ClientConfig
from hypercorn.asyncio import (
    serve,  # pyright: ignore[reportUnknownVariableType] -- hypercorn's own typing
)
from hypercorn.config import Config as ServerConfig

from localcloud.adapter import MiniStack, Record
from localcloud.async_lambda import AsyncLambda
from localcloud.events import EventBus, ImagePushes, Watcher
from localcloud.faults import Faults
from localcloud.lifeline import Lifeline
from localcloud.registry import Registry
from localcloud.tasks import Tasks

_HOST = "127.0.0.1"  # never reachable from outside: nobody is asked for a password here

_KEEP_ALIVE_SECONDS = 600  # longer than a client leaves a connection unused


class Cloud:
    """An empty AWS cloud that lasts as long as the `with` block.

    MiniStack keeps its state in modules, so a process has one cloud at a time; all clouds of a
    process, one after another, are the same place: port, region and account stay.
    """

    _current: ClassVar["Cloud | None"] = None
    _place: ClassVar[tuple[int, str, str] | None] = None

    def __init__(
        self,
        port: int | None = None,
        region: str = "us-east-1",
        account: str = "000000000000",
        on_event: Watcher | None = None,
        state: Path | None = None,
    ) -> None:
        """Port: of 127.0.0.1, by default a free one. `on_event`: as for `watch`.

        state: folder that a process's only cloud begins with and leaves all it has in, when it is
        stopped in order; its port has to stay, since queues are named by it.
        """
        self.port = port or 0
        self.region = region
        self.account = account
        self._on_event = on_event
        self._state = state
        self._clients: dict[str, Any] = {}
        self._clients_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where every AWS service of this cloud answers."""
        return f"http://{_HOST}:{self.port}"

    @property
    def registry_host(self) -> str:
        """Where images are pushed; it also answers to ECR's own name, see `registry`."""
        return f"{_HOST}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Give what boto3 and the aws command need to talk to this cloud."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def client(self, service: str) -> Any:
        """Give a boto3 client of this cloud; the same one each time."""
        with self._clients_lock:  # boto3 cannot make two at once
            if service not in self._clients:
                config = ClientConfig(proxies={}, max_pool_connections=50)
                self._clients[service] = self._session.client(
                    service, endpoint_url=self.url, config=config
                )
            return self._clients[service]

    def registry(self) -> Registry:
        """Give a connection to the image registry, to push and pull; close it after use."""
        return Registry(self.registry_host)

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher(time, source, detail_type, detail)` for each ECR and ECS event."""
        self._bus.watch(watcher)

    @property
    def faults(self) -> Faults:
        """What is to go wrong in this cloud."""
        return self._faults

    @property
    def tasks(self) -> Tasks:
        """The tasks that live, to be ended as AWS may, or stood in for."""
        return self._tasks

    def settle(self, seconds: float = 60) -> None:
        """Wait until no task lives, no invocation runs or waits, and the watchers know it all."""
        deadline = time.monotonic() + seconds
        # A task's last event is an invocation before the task counts as gone, and an invocation's
        # task counts before that one is over: so idle in this order is idle.
        while not (self._tasks.idle and self._lambda.idle and self._tasks.idle and self._bus.idle):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cloud must be idle after {seconds} s, and is not")
            time.sleep(0.01)

    def quiet(self) -> bool:
        """Tell whether no asynchronous invocation runs or waits, whatever tasks do."""
        return self._lambda.idle

    def pass_time(self, time: timedelta) -> None:
        """Make what is in the cloud older, as if it had been left alone for that long.

        Images, objects, log lines and tasks, that is; what programs wrote into objects stays.
        """
        with self._ministack.within((self.account, self.region)):
            self._ministack.pass_time(time)

    def run(self, command: Sequence[str], cwd: Path) -> str:
        """Run a command that ends with the cloud, whatever happens; give its stdout.

        Raises CalledProcessError where it fails; its stderr goes to ours.
        """
        child = self._lifeline.popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True)
        output, _ = child.communicate()
        if code := self._lifeline.wait(child):
            raise subprocess.CalledProcessError(code, list(command), output)
        return output

    def start(self) -> Self:
        """Serve; done when it answers."""
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def stop(self) -> None:
        """End the cloud and every process of it, and remove its files."""
        self._stack.close()

    def reset(self) -> None:
        """Empty the cloud: no resources, no tasks, no workers; watchers stay."""
        self._faults.clear()
        self._tasks.end()
        self._lambda.clear(self._end_workers)
        httpx.post(f"{self.url}/_ministack/reset", timeout=30, trust_env=False).raise_for_status()
        self._tasks.begin()

    def _start(self, stack: contextlib.ExitStack) -> None:
        """Start part after part; the stack ends them in reverse."""
        if Cloud._current:
            raise RuntimeError(
                "one cloud at a time must run in a process, got a second beside "
                f"{Cloud._current.url}; stop that one first, or start a process for each"
            )
        server = stack.enter_context(self._take_place())
        Cloud._current = self
        stack.callback(setattr, Cloud, "_current", None)
        self._ministack = MiniStack(self.port, self.region, self.account, self._state)
        self._session: Any = boto3.session.Session(
            botocore_session=self._ministack.botocore,
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106 -- checked by nobody
            region_name=self.region,
        )
        stack.callback(self._ministack.close)
        folder = Path(tempfile.mkdtemp(prefix="pushtrain-cloud-"))
        self._lifeline = Lifeline(folder)
        stack.callback(self._lifeline.close)
        self._ministack.guard_workers(self._lifeline, folder, self.environment())
        self._faults = Faults(self._ministack.worker)
        self._bus = EventBus(self._ministack, self._faults)
        stack.callback(self._bus.close)
        if self._on_event:
            self._bus.watch(self._on_event)
        ImagePushes(self._ministack, self._bus)
        self._serve_in_thread(server)
        stack.callback(self._halt_server)
        self._registry = stack.enter_context(self.registry())
        stack.callback(self._close_clients)
        self._lambda = AsyncLambda(self._ministack, self._dead_letter)
        stack.callback(self._lambda.close, self._end_workers)
        self._tasks = Tasks(
            ministack=self._ministack,
            bus=self._bus,
            lifeline=self._lifeline,
            registry=self._registry,
            client=self.client,
            aws=self.environment(),
            folder=folder,
            faults=self._faults,
        )
        stack.callback(self._tasks.end)
        if not self._state:
            self.reset()  # what an earlier cloud of this process had

    def _close_clients(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _end_workers(self) -> None:
        self._ministack.end_workers(self._lifeline)

    def _take_place(self) -> socket.socket:
        """Listen; a process's later clouds live where its first one did."""
        if Cloud._place:
            port = Cloud._place[0]
            asked = self.port or port, self.region, self.account
            if asked != Cloud._place:
                raise RuntimeError(
                    f"port, region and account of a process's clouds must stay {Cloud._place}, "
                    f"got {asked}; start another process"
                )
            self.port = port
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((_HOST, self.port))
        except OSError as error:
            server.close()
            raise RuntimeError(
                f"port must be free, got {self.port}, which another program has; leave it out for "
                "any free one"
            ) from error
        self.port = server.getsockname()[1]
        Cloud._place = self.port, self.region, self.account
        return server

    def _serve_in_thread(self, server: socket.socket) -> None:
        serving = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self._serve(server, serving))
            except BaseException as error:  # noqa: BLE001 -- it belongs to whoever starts the cloud
                failed.append(error)
            serving.set()

        self._thread = threading.Thread(target=run, name="cloud", daemon=True)
        self._thread.start()
        serving.wait()
        if failed:
            raise RuntimeError(f"the cloud at {self.url} did not start") from failed[0]

    def _halt_server(self) -> None:
        self._loop.call_soon_threadsafe(self._halt.set)
        self._thread.join(15)

    async def _serve(self, server: socket.socket, serving: threading.Event) -> None:
        self._loop, self._halt = asyncio.get_running_loop(), asyncio.Event()
        config = ServerConfig()
        config.bind = [f"fd://{server.dup().detach()}"]
        config.accesslog = config.errorlog = None
        config.graceful_timeout = 0.5
        # A connection closed for idleness just as a request comes loses the answer; the SDKs then
        # ask again, and what was created by the first request is an error in the second.
        config.keep_alive_timeout = _KEEP_ALIVE_SECONDS

        async def until_halt() -> None:
            serving.set()
            await self._halt.wait()

        gateway: Any = self._faults.around(self._ministack.app)
        await serve(gateway, config, shutdown_trigger=until_halt)

    def _dead_letter(self, queue_arn: str, message: Record) -> None:
        sqs = self.client("sqs")
        url = sqs.get_queue_url(QueueName=queue_arn.rsplit(":", 1)[1])["QueueUrl"]
        sqs.send_message(QueueUrl=url, **message)
