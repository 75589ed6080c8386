"""AWS on this machine: the template that is deployed there, its schedules fired, its functions run.

    spool/ ── file server ──HTTP──▶ functions of the stack ──▶ SQS of the stack
                                         │     ▲
                                       Redis   └── schedules of the stack

The parts are those of every other form: Penstock's file server, a real redis-server; ministack is
AWS. The functions run from the bundle, and find the server's token in Secrets Manager.
"""

import asyncio
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

from examples.local_cloud.server import EmbeddedCloud
from penstock import wiring
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Halt
from penstock.serve import file_server, web
from penstock.serve.guard import access_of
from penstock.settings.reading import load
from penstock.settings.spool_place import Directory
from scripts import bundle

STACK = "penstock-local"
FUNCTIONS = ("sqs_loader", "json_files_processed_archiver", "json_files_processing_checker")
_DEPLOY_SECONDS = 120.0
SCHEDULES = {
    "LoaderSchedule": "rate(1 minute)",
    "ArchiverSchedule": "rate(1 minute)",
    "CheckerSchedule": "rate(1 minute)",
}
"""The shortest that AWS has."""


class FunctionRun(NamedTuple):
    """One invocation of a function, as its log tells it; `error` is empty if it went well.

    `loader` is the name that another loader gave it, if not the schedule but that one started it.
    """

    function: str
    tally: Mapping[str, Any]
    error: str
    loader: str


class LocalCloud:
    """A deployed stack over `directory`/spool; archive/ and rejected/ lie beside it.

    `archive` is the bundle for this machine's own interpreter; `config` what a penstock.toml in it
    says; `parameters` are the template's, where they shall not be its defaults. Used as an async
    context manager. Raises Halt if a part does not start or the stack cannot be made.
    """

    def __init__(
        self,
        directory: Path,
        archive: Path,
        *,
        spool_name: str = "local",
        config: str = "",
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.spool = self.directory / "spool"
        self.spool_name = spool_name
        self.cloud = EmbeddedCloud(self.directory / "state")
        self.redis = EmbeddedRedis(self.directory / "state")
        self.queue_url = ""
        self.file_server_url = ""
        self._archive = archive
        self._config = config
        self._parameters = dict(parameters or {})
        self._stack = AsyncExitStack()
        self._read: set[str] = set()

    async def __aenter__(self) -> Self:
        try:
            await self._stack.enter_async_context(self.redis)
            await self._stack.enter_async_context(self.cloud)
            await self._deploy(await self._serve())
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _serve(self) -> Mapping[str, str]:
        """Start the file server; return its moving and its reading token by their parameters."""
        self.spool.mkdir(parents=True, exist_ok=True)
        settings = load(
            overrides={
                "source": {"url": str(self.spool), "settle_seconds": 0.5},
                "serve": {"listen": "127.0.0.1:0"},
            }
        )
        access = access_of(settings.serve, self.directory / "state" / "server")
        source = wiring.directory_source(settings, Directory(self.spool), served=True)
        app = file_server.new_app(source, access)
        serving = web.serving(app, settings.serve)
        self.file_server_url = await self._stack.enter_async_context(serving)
        return {"TokenSecretArn": access.moving[0], "ReadTokenSecretArn": access.reading[0]}

    async def _deploy(self, tokens: Mapping[str, str]) -> None:
        """Upload the bundle and the tokens, make the stack, and wait until it stands."""
        api = self.cloud.api
        await api("s3", "create_bucket", Bucket=STACK)
        code = self.directory / "bundle.zip"
        shutil.copyfile(self._archive, code)
        if self._config:
            bundle.add_config(code, self._config)
        await api("s3", "put_object", Bucket=STACK, Key="bundle.zip", Body=code.read_bytes())
        arns: dict[str, str] = {}
        for parameter, token in tokens.items():
            secret = await api(
                "secretsmanager", "create_secret", Name=f"{STACK}-{parameter}",
                SecretString=json.dumps({"token": token}),
            )  # fmt: skip
            arns[parameter] = secret["ARN"]
        architecture, python = bundle.here()
        given = SCHEDULES | {
            "CodeBucket": STACK,
            "CodeKey": "bundle.zip",
            "Architecture": architecture,
            "Runtime": f"python{python}",
            "SpoolName": self.spool_name,
            "FileServerUrl": self.file_server_url,
            **arns,
            "RedisUrl": self.redis.address,
        }
        await api(
            "cloudformation", "create_stack", StackName=STACK, TemplateBody=_template(),
            Parameters=stack_parameters(given | self._parameters),
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        )  # fmt: skip
        self.queue_url = (await self._until_stable())["QueueUrl"]

    async def _until_stable(self) -> Mapping[str, str]:
        """Wait until the stack is made or updated; return its outputs."""
        for _ in range(int(_DEPLOY_SECONDS / 0.25)):
            described = await self.cloud.api("cloudformation", "describe_stacks", StackName=STACK)
            stack = described["Stacks"][0]
            status = str(stack["StackStatus"])
            if status in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
                return {o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", [])}
            if "FAILED" in status or "ROLLBACK" in status:
                why = await self._why()
                raise Halt(f"local cloud: the stack: {status}: {why}; see {self.cloud.log}")
            await asyncio.sleep(0.25)
        raise Halt(f"local cloud: the stack was not made in {_DEPLOY_SECONDS:.0f} s")

    async def _why(self) -> str:
        events = await self.cloud.api("cloudformation", "describe_stack_events", StackName=STACK)
        reasons = [
            f"{e['LogicalResourceId']}: {e['ResourceStatusReason']}"
            for e in events["StackEvents"]
            if "FAILED" in e["ResourceStatus"] and e.get("ResourceStatusReason")
        ]
        return "; ".join(reasons[-3:])

    async def runs(self) -> Sequence[FunctionRun]:
        """Return the invocations that have ended since this was last asked, as they logged."""
        found: list[FunctionRun] = []
        for function in FUNCTIONS:
            # Only the last line of each run has this phrase: an answer holds no more than 10,000.
            answer = await self.cloud.api(
                "logs", "filter_log_events",
                logGroupName=f"/aws/lambda/{STACK}-{function}", filterPattern=f'"{function}."',
            )  # fmt: skip
            for event in answer["events"]:
                line = _line(event["message"])
                step = str(line.get("step", ""))
                identity = f"{function} {line.get('function_request_id')}"
                if (
                    step in {f"{function}.done", f"{function}.failed"}
                    and identity not in self._read
                ):
                    self._read.add(identity)
                    error = str(line.get("cause", "")) if step.endswith("failed") else ""
                    found.append(FunctionRun(function, line, error, str(line.get("loader", ""))))
        return found


def stack_parameters(given: Mapping[str, str]) -> list[dict[str, str]]:
    """Return parameters as CloudFormation takes them."""
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]


def _template() -> str:
    """Return the template without the alarm of metric math, which ministack does not take."""
    text = (bundle.checkout() / "deploy" / "template.yaml").read_text()
    return re.sub(r"^  RejectsAlarm:\n(?:    .*\n|\n)+", "", text, flags=re.MULTILINE)


def _line(text: str) -> dict[str, Any]:
    try:
        return json.loads(text) if text.startswith("{") else {}
    except ValueError:
        return {}
