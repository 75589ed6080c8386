"""Opening a queue, signing, credentials, connections: what lies under a call."""

import asyncio
import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.errors import Again, Halt
from penstock.model import Keys
from penstock.sqs import client
from penstock.sqs.client import Signer
from penstock.sqs.endpoint import find
from penstock.sqs.queue import SqsQueue
from support.box import Box
from support.messages import numbered, packed
from support.sender import Clock, Sender, once
from support.sqs_stub import SqsStub

SECRET = "wJalrXUtnFEMI/K7MDENG"  # noqa: S105 - an example's, of AWS's own documentation
URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"


@given(
    body=st.binary(max_size=200),
    token=st.sampled_from(["", "FwoGZXIvYXdzEBYaD/+="]),
    path=st.sampled_from(["/", "/sqs/proxy"]),
    host=st.sampled_from(["sqs.eu-west-1.amazonaws.com", "127.0.0.1:4566"]),
    now=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001 - set below
)
def test_signatures_are_botocores_own(
    body: bytes, token: str, path: str, host: str, now: datetime
) -> None:
    """For any body, time, host and kind of credentials: byte for byte the same header."""
    now = now.replace(tzinfo=UTC)
    headers = Signer(region="eu-west-1", host=host, path=path).headers(
        target="AmazonSQS.SendMessageBatch", body=body, keys=Keys("AKID", SECRET, token), now=now
    )
    signature = headers.pop("authorization")
    request: Any = AWSRequest(method="POST", url=f"https://{host}{path}", data=body)
    for name, value in headers.items():
        request.headers[name] = value
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials("AKID", SECRET, token or None), "sqs", "eu-west-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert signature.endswith(f"Signature={signer.signature(text, request)}")
    assert f"SignedHeaders={';'.join(sorted(headers))}," in signature


def test_the_signing_key_is_derived_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four HMACs a day and secret, one a call: at midnight and for new credentials again."""
    made: list[str] = []
    plain = client._hmac

    def counted(key: bytes, text: str) -> bytes:
        made.append(text)
        return plain(key, text)

    monkeypatch.setattr(client, "_hmac", counted)
    signer = Signer(region="eu-west-1", host="h", path="/")
    late = datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC)
    for now, secret, hmacs in (
        (late, "a", 5),
        (late, "a", 1),
        (late + timedelta(seconds=1), "a", 5),
        (late + timedelta(seconds=1), "b", 5),
    ):
        made.clear()
        signer.headers(target="t", body=b"", keys=Keys("AKID", secret, ""), now=now)
        assert len(made) == hmacs


def test_secrets_are_not_shown() -> None:
    """Credentials may end up in a traceback or a log as an object: they show nothing."""
    assert SECRET not in f"{Keys('AKID', SECRET, 'token')!r} {Keys('AKID', SECRET, 'token')}"


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/1/q", "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("https://sqs-fips.us-gov-west-1.amazonaws.com/1/q", "us-gov-west-1"),
        ("https://eu-west-1.queue.amazonaws.com/1/q", "eu-west-1"),
        ("https://vpce-0a-1b.sqs.us-east-2.vpce.amazonaws.com/1/q", "us-east-2"),
        ("https://sqs.us-east-2.api.aws/1/q", "us-east-2"),
        ("http://127.0.0.1:4566/1/q", "ap-south-1"),
        ("https://queue.example.com/1/q", "ap-south-1"),
    ],
)
@pytest.mark.usefixtures("aws")
def test_the_region_is_the_urls_or_the_environments(
    monkeypatch: pytest.MonkeyPatch, url: str, region: str
) -> None:
    """AWS's URLs name their region; for any other server the AWS settings do."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    assert find(url, None, None).region == region


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("given", "url", "host"),
    [
        (None, "https://sqs.eu-west-1.amazonaws.com", "sqs.eu-west-1.amazonaws.com"),
        ("http://localhost:4566", "http://localhost:4566", "localhost:4566"),
        ("http://[::1]:4566/", "http://[::1]:4566/", "[::1]:4566"),
        ("https://proxy.example/sqs", "https://proxy.example/sqs", "proxy.example"),
    ],
)
def test_the_endpoint_is_the_queues_host_or_the_one_given(
    given: str | None, url: str, host: str
) -> None:
    """A queue's URL has a path of its own, an endpoint keeps the one it was given."""
    found = find(URL, given, None)
    assert (str(found.url), found.host, found.proxy) == (url, host, None)


def test_aws_settings_are_found_as_by_every_aws_tool(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint and a proxy from the environment; loopback is never asked for by proxy."""
    assert aws is None
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "https://other.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    found = find(URL, None, None)
    assert str(found.url) == "https://other.example"
    assert str(found.proxy) == "http://proxy.example:3128"
    assert find(URL, "https://localhost:1", None).proxy is None


def test_given_keys_are_used_and_nobody_is_asked_for_others(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of Penstock's own must not see the credentials that this machine has."""
    assert aws is None
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "real")
    place = find(URL, "http://localhost:1", None, Keys("own", "hidden", ""))
    assert tuple(place.credentials.get_frozen_credentials())[:3] == ("own", "hidden", "")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("AWS_PROFILE", "nobody", "the AWS settings of this machine .* profile .*nobody"),
        ("AWS_CA_BUNDLE", "/nonexistent.pem", "AWS_CA_BUNDLE is /nonexistent.pem"),
        ("AWS_ENDPOINT_URL", "http://u:secret@h", "AWS_ENDPOINT_URL is …: it must be the server"),
    ],
)
def test_broken_aws_settings_halt(
    aws: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    """What botocore or the system says of them is said in one line."""
    assert aws is None
    monkeypatch.setenv(name, value)
    with pytest.raises(Halt, match=complaint):
        find(URL, None, None)


@pytest.mark.parametrize(
    ("url", "settings", "complaint"),
    [
        ("my-queue", {}, "queue.url is 'my-queue': it must be the queue's URL"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012", {}, "it must be the queue's URL"),
        ("https://sqs.eu-west-1.amazonaws.com/", {}, "it must be the queue's URL"),
        ("ftp://host/1/q", {}, "it must be the queue's URL"),
        ("http://[::1", {}, r"queue.url is 'http://\[::1': it must be the queue's URL"),
        ("http://127.0.0.1:99999/1/q", {}, "it must be the queue's URL"),
        ("http://u:secret@host/1/q", {}, "queue.url is …: .* without a user or password"),
        ("http://u:sec#ret@host/1/q", {}, "queue.url is …: "),
        (
            URL,
            {"endpoint_url": "http://h:99999"},
            "queue.endpoint_url is 'http://h:99999': it must",
        ),
        (URL, {"endpoint_url": "http://u:secret@h"}, "queue.endpoint_url is …: .* password"),
        (URL, {"endpoint_url": "h:4566"}, "queue.endpoint_url is 'h:4566': it must be the server"),
        ("http://sqs.example:1/1/q", {"region": None}, "no AWS region: .* set queue.region or"),
        (URL, {"region": "us-east-1"}, "queue.region is us-east-1, but .* is in eu-west-1"),
    ],
)
@pytest.mark.usefixtures("aws")
async def test_an_impossible_address_is_refused_in_one_line(
    url: str, settings: dict[str, Any], complaint: str
) -> None:
    """Halt says which setting is wrong and what it should be, before any call."""
    queue = SqsQueue(url, **settings)
    with pytest.raises(Halt, match=complaint) as refusal:
        await queue.open()
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("aws")
async def test_no_credentials_halt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where botocore's chain finds none, Halt says how to give some."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(Halt, match="no AWS credentials: set AWS_ACCESS_KEY_ID"):
        await SqsQueue(URL).open()


@pytest.mark.parametrize("missing", ["queue", "server"])
async def test_what_is_not_there_at_start(sender: Sender, missing: str) -> None:
    """A queue that does not exist halts; a server that does not answer is tried again later."""
    if missing == "queue":
        queue = SqsQueue(f"{sender.stub.url}/000000000000/other", region="us-east-1")
        with pytest.raises(Halt, match=r"QueueDoesNotExist.*create the queue"):
            await queue.open()
    else:
        await sender.stub.__aexit__()
        with pytest.raises(Again, match="cannot reach the queue"):
            await SqsQueue(f"{sender.stub.url}/000000000000/q", region="us-east-1").open()


async def test_opening_says_what_was_found(
    sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    """One event: kind, limit, deduplication scope and key of the queue."""
    caplog.set_level(logging.INFO)
    found = {"MaximumMessageSize": "2048", "DeduplicationScope": "messageGroup"}
    sender.stub.model.create("w.fifo", KmsMasterKeyId="alias/mine", **found)
    await sender.queue.close()
    await sender.open("w.fifo")
    (fields,) = [vars(line)["fields"] for line in caplog.records if line.msg == "queue.opened"]
    del fields["queue"]
    assert fields == {
        "fifo": True,
        "deduplication_scope": "messageGroup",
        "message_bytes_max": 2048,
        "kms_key": "alias/mine",
    }


async def test_calls_say_whose_they_are(sender: Sender) -> None:
    """AWS's logs show Penstock and its version."""
    assert sender.stub.user_agent.startswith(f"penstock/{penstock.__version__} ")


async def test_wrong_credentials_halt(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub checks signatures as AWS does: a wrong secret is refused, and never shown."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(Halt, match="SignatureDoesNotMatch") as refusal:
        await SqsQueue(sender.stub.model.queues["q"].url, region="us-east-1").open()
    assert SECRET not in str(refusal.value)


async def test_messages_larger_than_the_queue_takes_are_refused_at_start(box: Box) -> None:
    """With an empty spool already: one line, with both numbers."""
    box.queue.attributes["MaximumMessageSize"] = "1024"
    box.set("queue", message_bytes=2_000)
    with pytest.raises(Halt, match=r"message_bytes is 2000, .* MaximumMessageSize is 1024"):
        await box.load()


class Rotating:
    """Credentials as botocore gives them, new ones at every question."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.ending = ""

    def get_frozen_credentials(self) -> Keys:
        """Return the next ones."""
        if self.error is not None:
            raise self.error
        self.asked += 1
        return Keys("test", "test", f"token-{self.asked}{self.ending}")


@pytest.fixture
async def rotating(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> Rotating:
    """Open the sender again, with credentials that rotate."""
    credentials = Rotating()

    def found(_: botocore.session.Session) -> Rotating:
        return credentials

    monkeypatch.setattr(botocore.session.Session, "get_credentials", found)
    await sender.queue.close()
    await sender.open()
    return credentials


async def test_credentials_are_asked_for_once_a_minute(sender: Sender, rotating: Rotating) -> None:
    """Botocore refreshes temporary credentials when asked: it is asked, by one call at a time."""
    await sender.send(packed(numbered(100)))
    assert rotating.asked == 1
    sender.clock.now += 61
    await sender.send(messages := packed(numbered(100)))
    assert rotating.asked == 2
    assert len(sender.copies() & once(messages)) == 100


async def test_credentials_that_cannot_be_refreshed_halt(
    sender: Sender, rotating: Rotating
) -> None:
    """The worker stops with botocore's reason; nothing was sent."""
    rotating.error = botocore.exceptions.CredentialRetrievalError(provider="p", error_msg="gone")
    sender.clock.now += 61
    with pytest.raises(Halt, match=r"cannot refresh the AWS credentials.*gone"):
        await sender.send(packed(numbered(1)))
    assert sender.stub.calls["SendMessageBatch"] == 0


async def test_credentials_with_a_line_end_are_refused_in_one_line(
    sender: Sender, rotating: Rotating
) -> None:
    """As a stray end in an environment file leaves them: no header can hold that."""
    rotating.ending = "\r\nx: y"
    sender.clock.now += 61
    with pytest.raises(
        Halt, match=r"the AWS credentials hold characters that no header can"
    ) as refusal:
        await sender.send(packed(numbered(1)))
    assert "\n" not in str(refusal.value)
    assert "token-" not in str(refusal.value)
    assert sender.stub.calls["SendMessageBatch"] == 0


async def test_an_idle_connection_is_not_used_again(sender: Sender) -> None:
    """A call within three seconds reuses the connection, a later one opens another."""
    for pause, connections in ((0.0, 1), (2.0, 1), (3.5, 2)):
        sender.clock.now += pause
        await sender.send(packed(numbered(1)))
        assert len(sender.stub.peers) == connections


async def test_a_slow_reply_is_unknown_and_sent_again(
    sender: Sender, aws: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A reply that does not come in time leaves the outcome unknown: a counted repeat at most."""
    assert aws is None
    await sender.queue.close()
    clock = Clock()
    never = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        await never.wait()

    async with SqsStub(sleep=wait_for_ever) as stub:
        slow = Sender(stub, clock)
        await slow.open(timeout_seconds=0.05)
        stub.script("slow")
        sent = await slow.send(packed(numbered(2)))
        assert (stub.fired["slow"], sent.possible_repeats) == (1, 2)
        assert slow.copies().total() == 4
        await slow.queue.close()
        never.set()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_call_to_a_dead_port_is_not_a_possible_repeat(sender: Sender) -> None:
    """Who could not be connected to has taken nothing: sent again, not counted."""
    await sender.stub.__aexit__()
    limit = sender.clock() + 2
    with pytest.raises(Again):
        await sender.send(packed(numbered(1)), deadline=lambda: limit)
    assert len(sender.clock.pauses) > 3


async def test_over_tls_with_the_bundle_that_aws_tools_use(
    aws: None, monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    """AWS_CA_BUNDLE is trusted; a certificate that nobody vouches for is not."""
    assert aws is None
    clock = Clock()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with SqsStub(keys=("test", "test"), tls=tls) as stub:
        sender = Sender(stub, clock)
        monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
        with pytest.raises(Again, match="certificate verify failed"):
            await sender.open()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        await sender.open()
        sent = await sender.send(messages := packed(numbered(30)))
        assert once(sent.confirmed) == once(messages) == sender.copies()
        await sender.queue.close()


@pytest.mark.usefixtures("aws")
def test_a_server_on_this_machine_needs_no_region() -> None:
    """It is in none; what the signature names then is only a word."""
    assert find("http://127.0.0.1:1/1/q", None, None).region == "us-east-1"
    assert find("http://elsewhere:1/1/q", "http://localhost:2", None).region == "us-east-1"
