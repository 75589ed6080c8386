"""An SQS to test against: faithful where emulators are not, and faulty on demand.

In a test:        async with SqsStub() as stub: queue = stub.model.create("q"); stub.script(...)
As a process:     python -m support.sqs_stub --port 4100 --queue q --queue q.fifo --latency 0.02 \
                      --rate throttle=0.02 --rate reset_after=0.005
                  GET /_stub answers {"calls": …, "fired": {…}, "queues": {…}};
                  POST /_stub with {"script": [{"name": "throttle"}, …], "rates": {…}} adds faults.

Each fault counts how often it fired (`fired`): a test that injects one asserts that it did.
"""

import argparse
import asyncio
import random
import re
import ssl
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self

import aiohttp.web
import msgspec
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support.sqs_model import Json, SqsError, SqsModel

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/sqs/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)
_SKEW_SECONDS_MAX: Final = 900.0

FAULTS: Final = {
    "throttle": "HTTP 403 RequestThrottled; nothing taken",
    "kms_throttle": "HTTP 400 KmsThrottled; nothing taken",
    "error": "the HTTP `status` and `code` given; nothing taken",
    "page": "the HTTP `status` given with a proxy's HTML page; nothing taken",
    "reset_before": "the connection is reset before anything is taken",
    "reset_after": "everything is taken, then the connection is reset without a reply",
    "slow": "everything is taken, the reply comes after `seconds`",
    "fail_receiver": "`entries` fail with SenderFault=false and `code`; not taken",
    "fail_sender": "`entries` fail with SenderFault=true; not taken",
    "wrong_md5": "everything is taken, the receipts of `entries` bear another MD5",
    "missing_id": "everything is taken, the reply leaves `entries` out",
    "unknown_id": "everything is taken, the reply names an entry that was not sent",
    "repeated_id": "everything is taken, the reply names the first entry twice",
    "nonsense": "everything is taken, the reply is not JSON",
}


class Fault(NamedTuple):
    """One thing that goes wrong with one SendMessageBatch call; names as in FAULTS.

    `entries` are positions in the batch, those beyond its end are ignored.
    """

    name: str
    status: int = 500
    code: str = "InternalError"
    seconds: float = 0.0
    entries: tuple[int, ...] = (0,)


class SqsStub:
    """The server. `latency_seconds` passes before every reply; `seed` decides where rates strike.

    With `keys` (access key, secret key) signatures are verified, with `calls_per_second_max` a FIFO
    queue throttles as AWS does. `keep` false makes it a sink that counts and forgets.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        latency_seconds: float = 0.0,
        seed: int = 0,
        keys: tuple[str, str] | None = None,
        calls_per_second_max: int | None = None,
        keep: bool = True,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.model = SqsModel(clock=clock, keep=keep)
        self.fired: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.unheard: list[str] = []  # MessageIds taken, whose receipt nobody got
        self.user_agent = ""  # of the last call
        self.in_flight_max = 0
        self.peers: set[tuple[str, int]] = set()  # every connection there was
        self.rates: dict[str, float] = {}
        self.latency_seconds = latency_seconds
        self._script: deque[Fault | None] = deque()
        self._random = random.Random(seed)
        self._port = port
        self._tls = tls
        self._keys = keys
        self._calls_per_second_max = calls_per_second_max
        self._clock = clock
        self._sleep = sleep
        self._second = (0, 0)  # which second, calls in it
        self._in_flight = 0
        self._runner: aiohttp.web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """Return the endpoint, http://127.0.0.1:PORT."""
        return self.model.base_url

    def script(self, *faults: Fault | str | None) -> None:
        """Let the next SendMessageBatch calls go wrong like this, one each; None: goes well."""
        self._script += [Fault(fault) if isinstance(fault, str) else fault for fault in faults]

    def script_over(self) -> None:
        """Let everything go well from now on."""
        self._script.clear()
        self.rates.clear()

    async def __aenter__(self) -> Self:
        self._runner = aiohttp.web.ServerRunner(
            aiohttp.web.Server(self._handle, access_log=None), shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = aiohttp.web.TCPSite(
            self._runner, "127.0.0.1", self._port, backlog=1024, ssl_context=self._tls
        )
        await site.start()
        self._port = int(self._runner.addresses[0][1])
        scheme = "https" if self._tls else "http"
        self.model.base_url = f"{scheme}://127.0.0.1:{self._port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        if request.path == "/_stub":
            return await self._control(request)
        body = await request.content.read()  # request.read() stops at 1 MiB
        action = request.headers.get("X-Amz-Target", "").removeprefix("AmazonSQS.")
        self.calls[action] += 1
        self.user_agent = request.headers.get("User-Agent", "")
        if request.transport is not None:
            self.peers.add(request.transport.get_extra_info("peername"))
        self._in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self._in_flight)
        try:
            if self.latency_seconds:
                await self._sleep(self.latency_seconds)
            self._verify(request, body)
            data: Json = msgspec.json.decode(body)
            if action != "SendMessageBatch":
                return _reply(self.model.call(action, data))
            return await self._send(request, data)
        except SqsError as error:
            return _error(error)
        finally:
            self._in_flight -= 1

    async def _send(
        self, request: aiohttp.web.BaseRequest, data: Json
    ) -> aiohttp.web.StreamResponse:
        self._throttle_fifo(data)
        fault = self._next_fault(len(data["Entries"]))
        if fault is None:
            return _reply(self.model.call("SendMessageBatch", data))
        self.fired[fault.name] += 1
        match fault.name:
            case "throttle":
                raise SqsError("RequestThrottled", "Request is throttled.", 403)
            case "kms_throttle":
                raise SqsError("KmsThrottled", "You have exceeded the rate limit of KMS.")
            case "error":
                raise SqsError(fault.code, "The request failed.", fault.status)
            case "page":
                return aiohttp.web.Response(
                    status=fault.status, text="<html>Bad gateway</html>", content_type="text/html"
                )
            case "reset_before":
                return _reset(request)
            case _:
                return await self._send_faulty(request, data, fault)

    async def _send_faulty(
        self, request: aiohttp.web.BaseRequest, data: Json, fault: Fault
    ) -> aiohttp.web.StreamResponse:
        """Take what the fault lets through and answer what the fault makes of it."""
        entries: list[Json] = data["Entries"]
        struck = {entries[at]["Id"] for at in fault.entries if at < len(entries)}
        failed: list[Json] = []
        if fault.name in ("fail_receiver", "fail_sender"):
            failed = [_failed(identity, fault) for identity in sorted(struck)]
            data = data | {"Entries": [entry for entry in entries if entry["Id"] not in struck]}
        reply: Json = {"Successful": []}
        if data["Entries"]:
            reply = self.model.call("SendMessageBatch", data)
        if failed:
            reply["Failed"] = failed + reply.get("Failed", [])
        if fault.name in ("reset_after", "nonsense"):
            self.unheard += [receipt["MessageId"] for receipt in reply["Successful"]]
        if fault.name == "reset_after":
            return _reset(request)
        if fault.name == "slow":
            await self._sleep(fault.seconds)
        if fault.name == "nonsense":
            return aiohttp.web.Response(body=b"<html>", content_type="text/html")
        return _reply(_distorted(reply, struck, fault))

    def _next_fault(self, entries: int) -> Fault | None:
        if self._script:
            return self._script.popleft()
        struck = self._random.random() if self.rates else 1.0
        for name, rate in self.rates.items():
            struck -= rate
            if struck < 0:
                return Fault(name, status=503, entries=(self._random.randrange(entries),))
        return None

    def _throttle_fifo(self, data: Json) -> None:
        if self._calls_per_second_max is None or not str(data["QueueUrl"]).endswith(".fifo"):
            return
        second = int(self._clock())
        calls = self._second[1] + 1 if self._second[0] == second else 1
        self._second = (second, calls)
        if calls > self._calls_per_second_max:
            self.fired["throttle_fifo"] += 1
            raise SqsError("ThrottlingException", "Rate exceeded")

    def _verify(self, request: aiohttp.web.BaseRequest, body: bytes) -> None:
        """Check the signature with botocore's own signer, as AWS would with its."""
        if self._keys is None:
            return
        match = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
        if match is None:
            raise SqsError("MissingAuthenticationToken", "The request is not signed.", 403)
        access_key, day, region, names, signature = match.groups()
        if access_key != self._keys[0]:
            raise SqsError("InvalidClientTokenId", "The security token is invalid.", 403)
        stamp = request.headers["X-Amz-Date"]
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        skew = abs((datetime.now(UTC) - signed_at).total_seconds())
        signer = SigV4Auth(Credentials(*self._keys), "sqs", region)
        copy: Any = AWSRequest(
            method="POST",
            url=f"http://{request.headers['Host']}{request.path}",
            data=body,
            headers={name: request.headers[name] for name in names.split(";")},
        )
        copy.context["timestamp"] = stamp
        text = signer.string_to_sign(copy, signer.canonical_request(copy))
        if skew > _SKEW_SECONDS_MAX or day != stamp[:8]:
            raise SqsError("SignatureDoesNotMatch", "Signature expired.", 403)
        if signer.signature(text, copy) != signature:
            raise SqsError("SignatureDoesNotMatch", "The signature does not match.", 403)

    async def _control(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        if request.method == "POST":
            orders: Json = await request.json()
            self.script(*[Fault(**fault) for fault in orders.get("script", [])])
            self.rates.update(orders.get("rates", {}))
            self.latency_seconds = orders.get("latency_seconds", self.latency_seconds)
        return _reply(self.report())

    def report(self) -> Json:
        """Return what happened so far: calls by action, faults fired, messages by queue."""
        return {
            "calls": dict(self.calls),
            "fired": dict(self.fired),
            "in_flight_max": self.in_flight_max,
            "queues": {
                queue.name: {
                    "accepted": queue.accepted,
                    "deduplicated": queue.deduplicated,
                    "messages": len(queue.visible) + len(queue.in_flight),
                }
                for queue in self.model.queues.values()
            },
        }


def _distorted(reply: Json, struck: set[str], fault: Fault) -> Json:
    """Return the reply as the fault has it, where the fault is in the reply."""
    receipts: list[Json] = reply["Successful"]
    match fault.name:
        case "wrong_md5":
            wrong = {"MD5OfMessageBody": "0" * 32}
            return reply | {"Successful": [r | wrong if r["Id"] in struck else r for r in receipts]}
        case "missing_id":
            return reply | {"Successful": [r for r in receipts if r["Id"] not in struck]}
        case "unknown_id":
            return reply | {"Failed": [_failed("never-sent", fault)]}
        case "repeated_id":
            return reply | {"Successful": [receipts[0], *receipts]}
        case _:
            return reply


def _failed(identity: str, fault: Fault) -> Json:
    sender = fault.name == "fail_sender"
    return {
        "Id": identity,
        "SenderFault": sender,
        "Code": "InvalidMessageContents" if sender else fault.code,
        "Message": "The stub was told to fail this entry.",
    }


def _reply(data: Mapping[str, Any]) -> aiohttp.web.Response:
    return aiohttp.web.Response(
        body=msgspec.json.encode(data), content_type="application/x-amz-json-1.0"
    )


def _error(error: SqsError) -> aiohttp.web.Response:
    fault = "Sender" if error.status < 500 else "Receiver"
    return aiohttp.web.Response(
        status=error.status,
        body=msgspec.json.encode(
            {"__type": f"com.amazonaws.sqs#{error.code}", "message": error.text}
        ),
        headers={"x-amzn-query-error": f"{error.legacy_code};{fault}"},
        content_type="application/x-amz-json-1.0",
    )


def _reset(request: aiohttp.web.BaseRequest) -> aiohttp.web.Response:
    """Cut the connection with a TCP reset; what is returned goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return aiohttp.web.Response()


async def _serve(options: argparse.Namespace) -> None:
    stub = SqsStub(
        port=options.port,
        latency_seconds=options.latency,
        seed=options.seed,
        keys=tuple(options.keys.split(":", 1)) if options.keys else None,
        calls_per_second_max=options.fifo_calls_per_second,
        keep=not options.discard,
    )
    stub.rates = {name: float(rate) for name, _, rate in (r.partition("=") for r in options.rate)}
    async with stub:
        for name in options.queue:
            stub.model.create(name)
        print(stub.url, flush=True)  # noqa: T201 - whoever started it reads the address
        await asyncio.Event().wait()


def main() -> None:
    """Serve until killed; the first line on standard output is the endpoint."""
    parser = argparse.ArgumentParser(prog="python -m support.sqs_stub", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--queue", action="append", default=[], help="make it at start")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds, of every call")
    parser.add_argument("--rate", action="append", default=[], help=f"FAULT=0.01: {list(FAULTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keys", default="", help="ACCESS:SECRET: verify signatures")
    parser.add_argument("--fifo-calls-per-second", type=int, default=None)
    parser.add_argument("--discard", action="store_true", help="count messages, do not keep them")
    try:
        import uvloop  # noqa: PLC0415 - faster where it is installed
    except ImportError:
        asyncio.run(_serve(parser.parse_args()))
    else:
        uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
