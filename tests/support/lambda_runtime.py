"""AWS Lambda's runtime API, as a stub, around the real runtime: what AWS runs our handlers with.

    async with LambdaFunction("sqs_loader", environment) as function:
        answer = await function.invoke(seconds=900)

The process is awslambdaric's, AWS's own. It asks this server for its next invocation, and posts
what the handler returned or raised. One process, one invocation at a time, and killed when one
outlives its deadline, as in AWS.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp.web

_LATE_SECONDS = 0.5


class Answer(NamedTuple):
    """What came of one invocation: its result, or its error's type and message; what it logged."""

    result: Any
    error: str
    message: str
    logged: list[dict[str, Any]]
    seconds: float

    def steps(self, step: str) -> list[dict[str, Any]]:
        """Return the log lines of one step."""
        return [line for line in self.logged if line.get("step") == step]

    def metrics(self) -> dict[str, Any]:
        """Return the metrics that CloudWatch would read from the log, with their dimensions."""
        found: dict[str, Any] = {}
        for line in self.logged:
            for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
                keys = [*directive["Dimensions"][0], *(m["Name"] for m in directive["Metrics"])]
                found |= {key: line[key] for key in keys}
        return found


class LambdaFunction:
    """One execution environment of one function; `environment` is what its template sets."""

    def __init__(self, handler: str, environment: Mapping[str, str]) -> None:
        self._handler = f"penstock.aws.handlers.{handler}"
        self._environment = environment
        self._next: asyncio.Queue[tuple[str, Any, float]] = asyncio.Queue()
        self._answered: asyncio.Future[tuple[str, Any]] | None = None
        self._output = bytearray()
        self._current = ""
        self.idle = asyncio.Event()
        """Set while the process waits for its next invocation."""
        self.process: asyncio.subprocess.Process
        self._runner: aiohttp.web.AppRunner
        self._reading: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        app = aiohttp.web.Application()
        base = "/2018-06-01/runtime"
        app.router.add_get(f"{base}/invocation/next", self._give)
        app.router.add_post(f"{base}/invocation/{{id}}/response", self._take_response)
        app.router.add_post(f"{base}/invocation/{{id}}/error", self._take_error)
        app.router.add_post(f"{base}/init/error", self._take_error)
        self._runner = aiohttp.web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = aiohttp.web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PENSTOCK_"))}
        self.process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "awslambdaric", self._handler],
            env={
                **kept,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
                "AWS_LAMBDA_FUNCTION_NAME": self._handler.rpartition(".")[2],
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
                "AWS_LAMBDA_LOG_STREAM_NAME": f"2026/11/25/[$LATEST]{uuid.uuid4().hex}",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": "us-east-1",
                "POWERTOOLS_SERVICE_NAME": "spool",
                **self._environment,
            },
            cwd=Path(__file__).parent,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self._reading.cancel()
        await self._runner.cleanup()

    async def invoke(self, event: Any = None, *, seconds: float = 900) -> Answer:
        """Invoke the function and wait for its answer; kill its process if it takes too long."""
        self._output.clear()
        began = time.monotonic()
        self._answered = asyncio.get_running_loop().create_future()
        await self._next.put((str(uuid.uuid4()), event or {}, seconds))
        ended = asyncio.create_task(self.process.wait())
        answered = self._answered
        await asyncio.wait({answered, ended}, return_when=asyncio.FIRST_COMPLETED)
        took = time.monotonic() - began
        ended.cancel()
        if not answered.done():
            return Answer(None, "Runtime.ExitError", self.output(), self._lines(), took)
        kind, body = answered.result()
        await asyncio.sleep(0.05)  # its last lines are on their way
        if kind == "response":
            return Answer(body, "", "", self._lines(), took)
        return Answer(None, body["errorType"], body["errorMessage"], self._lines(), took)

    def sockets(self) -> int:
        """Count the sockets that the process holds."""
        descriptors = Path(f"/proc/{self.process.pid}/fd")
        return sum(str(path.readlink()).startswith("socket:") for path in descriptors.iterdir())

    def output(self) -> str:
        """Return all that the process has printed since it was last invoked."""
        return self._output.decode()

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]

    async def _read(self) -> None:
        assert self.process.stdout
        while data := await self.process.stdout.read(65_536):
            self._output += data

    async def _give(self, _: aiohttp.web.Request) -> aiohttp.web.Response:
        self.idle.set()
        identity, event, seconds = await self._next.get()
        self.idle.clear()
        self._current = identity
        if seconds < 100:  # as Lambda: what is not done by then is killed
            asyncio.get_running_loop().call_later(seconds + _LATE_SECONDS, self._kill, identity)
        return aiohttp.web.json_response(
            event,
            headers={
                "Lambda-Runtime-Aws-Request-Id": identity,
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + seconds) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": (
                    "arn:aws:lambda:us-east-1:000000000000:function:f"
                ),
            },
        )

    def _kill(self, identity: str) -> None:
        late = identity == self._current and self._answered and not self._answered.done()
        if late and self.process.returncode is None:
            self.process.kill()

    async def _take_response(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        return await self._take("response", request)

    async def _take_error(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        return await self._take("error", request)

    async def _take(self, kind: str, request: aiohttp.web.Request) -> aiohttp.web.Response:
        body = await request.json()
        if self._answered and not self._answered.done():
            self._answered.set_result((kind, body))
        return aiohttp.web.json_response({"status": "OK"}, status=202)
