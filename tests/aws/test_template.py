"""deploy/template.yaml: what AWS's own tools say of it, and what its roles may do."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import samtranslator.translator.transform
from cfnlint.decode import cfn_yaml

from examples.local_cloud.stack import FUNCTIONS
from penstock.archiver import ArchiverTally
from penstock.aws import handlers
from penstock.checker import CheckerTally
from penstock.settings.schema import Settings
from penstock.setup.plan import CLOUDWATCH_ALARMS, CLOUDWATCH_METRICS
from scripts import bundle

# Of the checkout that `scripts` is imported from: of a copy, where a bug is planted in one.
TEMPLATE = Path(bundle.__file__).parents[1] / "deploy" / "template.yaml"
README = TEMPLATE.parent / "README.md"
INLINE_BYTES_MAX = 51_200  # of a template that is sent in the call, not by way of S3
# What AWS takes no narrower resource for: a function's own attachment to its VPC.
ANY_RESOURCE = {
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
}
ALLOWED = {
    "Loader": {
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "sqs:SendMessage",
        "sqs:GetQueueAttributes",
        "lambda:InvokeFunction",
    },
    "Archiver": {"logs:CreateLogStream", "logs:PutLogEvents"},
    "Checker": {"logs:CreateLogStream", "logs:PutLogEvents"},
}


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """Return the template as it is written."""
    return plain(cfn_yaml.load(str(TEMPLATE)))


@pytest.fixture(scope="module")
def expanded(template: dict[str, Any]) -> dict[str, Any]:
    """Return what AWS's SAM translator makes of it."""

    class NoPolicies:
        """No policy of AWS's own is used."""

        def load(self) -> dict[str, str]:
            """Return none."""
            return {}

    transform = samtranslator.translator.transform.transform
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        return transform(copy.deepcopy(template), {}, cast("Any", NoPolicies()))


def plain(value: Any) -> Any:
    """Return cfn-lint's nodes as plain dicts and lists."""
    return json.loads(json.dumps(value))


def walk(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping in a document."""
    if isinstance(value, dict):
        yield cast("dict[str, Any]", value)
        for inner in cast("dict[str, Any]", value).values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            yield from walk(inner)


def statements(document: Any) -> list[Mapping[str, Any]]:
    """Return all statements of all policies in a document, whatever condition they stand under."""
    return [found for found in walk(document) if found.get("Effect") == "Allow"]


def actions(statement: Mapping[str, Any]) -> set[str]:
    """Return the actions of a statement."""
    given = statement["Action"]
    return {given} if isinstance(given, str) else set(given)


def resources(expanded: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the resources of one kind, by their names."""
    found = expanded["Resources"].items()
    return {name: resource for name, resource in found if resource["Type"] == kind}


def alarm_metrics(template: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield each metric that an alarm looks at."""
    for alarm in resources(template, "AWS::CloudWatch::Alarm").values():
        inner = [
            m["MetricStat"]["Metric"]
            for m in alarm["Properties"].get("Metrics", ())
            if "MetricStat" in m
        ]
        yield from inner or [alarm["Properties"]]


def function_of(metric: Mapping[str, Any]) -> str:
    """Return which function measures it."""
    return next(d["Value"] for d in metric["Dimensions"] if d["Name"] == "function")


def chosen(value: Any, *, paused: bool) -> Any:
    """Return what a value is in a stack that is paused, or not."""
    match value:
        case {"Fn::If": ["IsPaused", if_paused, otherwise]}:
            return if_paused if paused else otherwise
        case _:
            return value


def silence_rings(template: Mapping[str, Any], *, paused: bool) -> set[str]:
    """Return the alarms that ring when their metric is no longer measured."""
    alarms = resources(template, "AWS::CloudWatch::Alarm").items()
    return {
        name
        for name, alarm in alarms
        if chosen(alarm["Properties"]["TreatMissingData"], paused=paused) == "breaching"
    }


def test_cfn_lint_finds_nothing() -> None:
    """Neither errors nor warnings."""
    command = [Path(sys.executable).parent / "cfn-lint", TEMPLATE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_it_can_be_sent_in_one_call() -> None:
    """Small enough for `aws cloudformation deploy` without a bucket for it, and without aliases.

    CloudFormation reads no YAML aliases; the tools that are run here do.
    """
    text = TEMPLATE.read_text()
    assert len(text.encode()) < INLINE_BYTES_MAX
    assert not re.search(r"[:-] [&*][A-Za-z]", text)


def test_no_role_may_do_more_than_it_must(expanded: dict[str, Any]) -> None:
    """No action with a star; no resource with one, but for what AWS forces."""
    found = statements(expanded)
    assert len(found) > 10
    for statement in found:
        assert not [action for action in actions(statement) if "*" in action], statement
        if statement.get("Resource") == "*":
            assert actions(statement) <= ANY_RESOURCE
        elif "Principal" not in statement:
            text = json.dumps(statement["Resource"])
            assert '"*"' not in text
            assert not re.search(r"\*(?!\"$|\"\}$)", text), text  # a log group's own streams
    given = expanded["Resources"]
    for function, allowed in ALLOWED.items():
        policies = given[f"{function}Role"]["Properties"]["Policies"]
        assert set[str]().union(*map(actions, statements(policies))) == allowed


def test_only_the_archiver_has_the_moving_token(expanded: dict[str, Any]) -> None:
    """Where there is a reading token: the others' roles and variables have that one."""
    given = expanded["Resources"]
    for function, policy in (
        ("Loader", "ReadingToken"), ("Archiver", "MovingToken"), ("Checker", "ReadingToken"),
    ):  # fmt: skip
        arns = given[f"{function}Role"]["Properties"]["ManagedPolicyArns"]
        chosen = [arn["Fn::If"][1]["Ref"] for arn in arns]
        assert chosen == ["SecretsAndVpc", policy]
        variables = given[function]["Properties"]["Environment"]["Variables"]
        secret = variables["PENSTOCK_AWS__TOKEN_SECRET"]
        wanted = {"Ref": "TokenSecretArn"}
        if policy == "ReadingToken":
            wanted = {"Fn::If": ["HasReadToken", {"Ref": "ReadTokenSecretArn"}, wanted]}
        assert secret == wanted
    for policy, arn in (("MovingToken", "TokenSecretArn"), ("ReadingToken", "ReadTokenSecretArn")):
        text = json.dumps(given[policy]["Properties"]["PolicyDocument"])
        assert f'"Ref": "{arn}"' in text


def test_the_loader_may_start_itself_alone(expanded: dict[str, Any]) -> None:
    """Its permission names its own function, and only where it is to fan out."""
    loader = expanded["Resources"]["Loader"]["Properties"]["FunctionName"]["Fn::Sub"]
    invoking = [s for s in statements(expanded) if "lambda:InvokeFunction" in actions(s)]
    own = [s for s in invoking if s.get("Sid") == "StartAnotherOfItself"]
    assert len(own) == 1
    assert own[0]["Resource"]["Fn::Sub"].endswith(f":function:{loader}")
    schedules = {s["Resource"]["Fn::GetAtt"][0] for s in invoking if s not in own}
    assert schedules == {"Loader", "Archiver", "Checker"}  # a role each, for its schedule


def test_three_functions_on_three_schedules(expanded: dict[str, Any]) -> None:
    """Each handler exists, runs by EventBridge Scheduler, and is never tried again by itself."""
    functions = resources(expanded, "AWS::Lambda::Function")
    named = {f["Properties"]["Handler"] for f in functions.values()}
    assert named == {f"penstock.aws.handlers.{name}" for name in FUNCTIONS}
    assert all(callable(getattr(handlers, handler.rpartition(".")[2])) for handler in named)
    schedules = resources(expanded, "AWS::Scheduler::Schedule")
    assert len(schedules) == len(functions) == 3
    for schedule in schedules.values():
        retry = schedule["Properties"]["Target"]["RetryPolicy"]
        assert retry == {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 300}
    invoked = resources(expanded, "AWS::Lambda::EventInvokeConfig")
    assert len(invoked) == 3
    for config in invoked.values():
        assert config["Properties"]["MaximumRetryAttempts"] == 0
        assert config["Properties"]["MaximumEventAgeInSeconds"] == 300
    assert not resources(expanded, "AWS::Events::Rule")


def test_its_environment_is_of_settings(template: dict[str, Any]) -> None:
    """Every PENSTOCK_… variable is a setting; no secret is among them."""
    variables = template["Globals"]["Function"]["Environment"]["Variables"]
    for name in variables:
        if name.startswith("PENSTOCK_"):
            section, _, key = name.removeprefix("PENSTOCK_").lower().partition("__")
            annotation: Any = Settings.model_fields[section].annotation
            assert key in annotation.model_fields, name
    assert not {"PENSTOCK_SOURCE__TOKEN"} & set(variables)


def test_two_stacks_stand_beside_each_other(expanded: dict[str, Any]) -> None:
    """Whatever has a name of its own has the stack's in it: two spools are two stacks.

    Where a ScheduleV2 is given none, SAM names the schedule after its place in the template.
    """
    named = 0
    for name, resource in expanded["Resources"].items():
        for key in ("Name", "FunctionName", "QueueName", "LogGroupName", "DashboardName"):
            given = resource.get("Properties", {}).get(key)
            if given is None or (isinstance(given, dict) and "Ref" in given):
                continue
            assert "${AWS::StackName}" in json.dumps(given), (name, given)
            named += 1
    assert named == 3 + 3 + 3 + 2 + 1  # functions, schedules, log groups, queues, the dashboard


def test_a_fifo_queue_is_made_for_high_throughput(template: dict[str, Any]) -> None:
    """Without it 300 calls a second are all it takes; groups are claims, so there are many."""
    queue = template["Resources"]["Queue"]["Properties"]
    nothing = {"Ref": "AWS::NoValue"}
    assert queue["DeduplicationScope"] == {"Fn::If": ["IsFifo", "messageGroup", nothing]}
    assert queue["FifoThroughputLimit"] == {"Fn::If": ["IsFifo", "perMessageGroupId", nothing]}


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("create", True),
        ("rediss://redis.example.com:6379", True),
        ("redis://user@10.0.0.7:6379/1", True),
        ("rediss://:hush@redis.example.com:6379", False),
        ("rediss://user:hush@redis.example.com", False),
    ],
)
def test_no_password_stands_in_a_parameter(
    template: dict[str, Any], url: str, *, taken: bool
) -> None:
    """Whoever may describe the stack, or its functions, would read it."""
    pattern = template["Parameters"]["RedisUrl"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, url)) is taken


def test_alarms_and_dashboard_are_of_metrics_that_exist(template: dict[str, Any]) -> None:
    """What they look at is what the functions measure, under the names they give it."""
    known = {
        (name, function)
        for function, names in handlers.METRICS.items()
        for name in (*names, "ledger_unreachable")
    }
    looked_at = list(alarm_metrics(template))
    seen = {
        (metric["MetricName"], function_of(metric))
        for metric in looked_at
        if metric["Namespace"] == "Penstock"
    }
    body = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    shown = re.findall(
        r'\["Penstock", "(\w+)", "service", "\$\{SpoolName\}", "function", "(\w+)"', body
    )
    widgets = json.loads(re.sub(r"\$\{[^}]+\}", "x", body))["widgets"]
    assert len(widgets) == 6
    assert seen | {(metric, function) for metric, function in shown} <= known
    wanted = {
        "oldest_waiting_seconds",
        "files_rejected",
        "oldest_claim_seconds",
        "ledger_unreachable",
    }
    assert wanted <= {metric for metric, _ in seen}
    assert len(looked_at) == CLOUDWATCH_ALARMS
    assert len(known) == CLOUDWATCH_METRICS


def test_each_function_that_stops_rings(template: dict[str, Any]) -> None:
    """By a metric that each pass which ends well has, and none that fails: whatever the cause."""
    rings = silence_rings(template, paused=False)
    assert rings == {"OldestWaitingAlarm", "ArchiverStoppedAlarm", "CheckerStoppedAlarm"}
    alarms = resources(template, "AWS::CloudWatch::Alarm")
    watched = {
        function_of(properties): properties
        for properties in (alarms[name]["Properties"] for name in rings)
    }
    assert set(watched) == set(FUNCTIONS)
    tallies = {
        "json_files_processed_archiver": ArchiverTally(),
        "json_files_processing_checker": CheckerTally(),
    }
    for function, tally in tallies.items():
        given = watched[function]
        assert getattr(tally, given["MetricName"]) is not None  # a pass always has a value
        assert given["Statistic"] == "SampleCount"
        assert (given["ComparisonOperator"], given["Threshold"]) == ("LessThanThreshold", 1)
        assert given["EvaluationPeriods"] == {"Ref": "StoppedAlarmPeriods"}
    least = template["Parameters"]["StoppedAlarmPeriods"]["MinValue"] * 300
    assert least > template["Resources"]["Archiver"]["Properties"]["Timeout"]


def test_a_pause_rings_nothing(template: dict[str, Any], expanded: dict[str, Any]) -> None:
    """One parameter stops the schedules, and the alarms for what does not run."""
    for schedule in resources(expanded, "AWS::Scheduler::Schedule").values():
        state = schedule["Properties"]["State"]
        assert chosen(state, paused=True) == "DISABLED"
        assert chosen(state, paused=False) == "ENABLED"
    assert silence_rings(template, paused=True) == set()
    assert template["Conditions"]["IsPaused"] == {"Fn::Equals": [{"Ref": "Paused"}, "true"]}
    assert template["Parameters"]["Paused"]["Default"] == "false"


@pytest.mark.parametrize(
    ("rejected", "processed", "rings"),
    [
        (1, 999, False),
        (9, 0, False),
        (500, 500, False),
        (501, 499, True),
        (10, None, True),
        (None, 7, False),
        (None, None, False),
        (0, 0, False),
    ],
)
def test_rejects_ring_when_they_are_most(
    template: dict[str, Any], rejected: int | None, processed: int | None, *, rings: bool
) -> None:
    """As the verdict most-rejected, over as many minutes; one in a thousand rings nothing."""
    given = template["Resources"]["RejectsAlarm"]["Properties"]
    most, *others = given["Metrics"]
    values = {"rejected": rejected, "processed": processed}
    assert {m["Id"]: m["MetricStat"]["Metric"]["MetricName"] for m in others} == {
        name: f"files_{name}" for name in values
    }
    assert {m["MetricStat"]["Period"] for m in others} == {600}

    def if_(test: bool, yes: int, no: int) -> int:  # noqa: FBT001  CloudWatch's
        return yes if test else no

    def fill(value: int | None, instead: int) -> int:
        return instead if value is None else value

    functions = {"IF": if_, "FILL": fill, **values}
    value = eval(most["Expression"].replace(" AND ", " and "), functions)  # noqa: S307  our own
    assert given["ComparisonOperator"] == "GreaterThanThreshold"
    assert (value > given["Threshold"]) is rings


def test_old_messages_ring(template: dict[str, Any]) -> None:
    """The age of the oldest message of the queue that is made, against a parameter."""
    given = template["Resources"]["QueueAgeAlarm"]["Properties"]
    assert (given["Namespace"], given["MetricName"]) == ("AWS/SQS", "ApproximateAgeOfOldestMessage")
    assert given["Dimensions"] == [
        {"Name": "QueueName", "Value": {"Fn::GetAtt": ["Queue", "QueueName"]}}
    ]
    assert given["Threshold"] == {"Ref": "QueueAgeAlarmSeconds"}


def test_the_readme_names_parameters_that_exist(template: dict[str, Any]) -> None:
    """Those in the commands of deploy/README.md; and the page tells of every one there is."""
    text = README.read_text()
    known = set(template["Parameters"])
    given = set(re.findall(r"^\s+([A-Z][A-Za-z]+)=", text, re.MULTILINE))
    assert given
    assert given <= known
    assert known <= set(re.findall(r"`([A-Z][A-Za-z]+)`", text))
