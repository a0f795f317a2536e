"""Settings: what is refused, how it is said, and that nothing is registered then."""

import contextlib
import json
import math

import pulumi
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.settings import Settings, SettingsError


@pytest.fixture(scope="session")
def load(deploy):
    """Return a function that reads settings from the defaults and these over them."""

    def read(settings=None, stack="dev"):
        deploy.configure(settings, stack=stack)
        return Settings.load()

    return read


@pytest.fixture(scope="session")
def refusal(load):
    """Return a function that gives the lines, one a fault, with which settings are refused."""

    def read(settings, stack="dev"):
        with pytest.raises(SettingsError) as caught:
            load(settings, stack)
        return str(caught.value).split("\n  - ")[1:]

    return read


def test_defaults_of_the_project_are_accepted(load, context):
    settings = load()

    assert (settings.cpu, settings.memory, settings.platform) == (2048, 8192, "linux/amd64")
    assert settings.image_context == context
    assert settings.data_path is None
    assert settings.parameters == {}
    assert (settings.max_concurrent_runs, settings.max_run_minutes) == (0, 1440)
    assert (settings.notify_emails, settings.notify_webhooks) == ((), ())
    assert (settings.champion_metric, settings.champion_goal) == ("accuracy", "max")
    assert not settings.destroyable
    assert (settings.metrics, settings.alarms, settings.dashboard) == (False, False, False)
    assert settings.alarms_no_model_hours == 24


def test_values_of_a_stack_win_over_defaults(load, context):
    settings = load(
        {
            "architecture": "arm64",
            "parameters": ["epochs=20", "name=a=b", "note="],
            "image.args": ["BASE=python:3.13-slim"],
            "image.tagPrefixes": ["g-", "c-"],
            "data.path": str(context / "train.py"),
        }
    )

    assert settings.platform == "linux/arm64"
    assert settings.parameters == {"epochs": "20", "name": "a=b", "note": ""}
    assert settings.image_args == {"BASE": "python:3.13-slim"}
    assert settings.image_tag_prefixes == ("g-", "c-")
    assert settings.data_path == context / "train.py"


def test_default_handed_over_under_its_path_counts_until_the_stack_sets_the_key(deploy):
    path = {key: value for key, value in deploy.defaults.items() if "." not in key} | {
        'pushtrain:["image.build"]': "false",
        'pushtrain:["image.context"]': "trainer",
        'pushtrain:["image.args"]': '["BASE=scratch"]',
        'pushtrain:["image.tagPrefixes"]': "[]",
        'pushtrain:["image.registry"]': "",
        'pushtrain:["data.path"]': "",
        'pushtrain:["network.vpcId"]': "",
        'pushtrain:["network.subnetIds"]': "[]",
        'pushtrain:["network.assignPublicIp"]': "false",
        'pushtrain:["alarms.noModelHours"]': "24",
        'pushtrain:["notify.emails"]': "[]",
        'pushtrain:["notify.webhooks"]': "[]",
        'pushtrain:["champion.metric"]': "accuracy",
        'pushtrain:["champion.goal"]': "max",
    }
    deploy.configure()
    pulumi.runtime.set_all_config(path)
    default = Settings.load()
    pulumi.runtime.set_all_config(path | {"pushtrain:image.args": '["BASE=python"]'})
    changed = Settings.load()

    assert not default.image_build
    assert default.image_args == {"BASE": "scratch"}
    assert changed.image_args == {"BASE": "python"}


REFUSED = {
    "cpu that Fargate has not": (
        {"cpu": 3000},
        (
            "cpu must be one of 256, 512, 1024, 2048, 4096, 8192, 16384, got 3000:"
            " pulumi config set pushtrain:cpu 2048"
        ),
    ),
    "memory too small for cpu": (
        {"cpu": 1024, "memory": 1024},
        (
            "memory must be 2048 to 8192 in steps of 1024 for cpu 1024, got 1024:"
            " pulumi config set pushtrain:memory 2048"
        ),
    ),
    "memory between two steps": (
        {"cpu": 8192, "memory": 20000},
        (
            "memory must be 16384 to 61440 in steps of 4096 for cpu 8192, got 20000:"
            " pulumi config set pushtrain:memory 20480"
        ),
    ),
    "boundary that is no policy": (
        {"permissionsBoundary": "arn:aws:iam::123456789012:role/x"},
        (
            "permissionsBoundary must be the ARN of a managed policy, or empty, got"
            " 'arn:aws:iam::123456789012:role/x':"
            ' pulumi config set pushtrain:permissionsBoundary ""'
        ),
    ),
    "network that is none": (
        {"network": "vpc"},
        (
            "network must be one of public, private, existing, got 'vpc':"
            " pulumi config set pushtrain:network public"
        ),
    ),
    "VPC of a public network": (
        {"network.vpcId": "vpc-0123abcd"},
        (
            "network.vpcId must not be set with network public, whose own it is, got"
            " 'vpc-0123abcd': pulumi config rm pushtrain:network.vpcId"
        ),
    ),
    "subnets of a public network": (
        {"network.subnetIds": ["subnet-0123abcd"]},
        (
            "network.subnetIds must not be set with network public, whose own it is, got"
            " ['subnet-0123abcd']: pulumi config rm pushtrain:network.subnetIds"
        ),
    ),
    "public address in a private network": (
        {"network": "private", "network.assignPublicIp": True},
        (
            "network.assignPublicIp must not be set with network private, whose own it is, got"
            " True: pulumi config rm pushtrain:network.assignPublicIp"
        ),
    ),
    "existing network without a VPC": (
        {"network": "existing", "network.subnetIds": ["subnet-0123abcd"]},
        (
            "network.vpcId must be a VPC's id with network existing, got '':"
            " pulumi config set pushtrain:network.vpcId vpc-<id>"
        ),
    ),
    "VPC's id that is none": (
        {
            "network": "existing",
            "network.vpcId": "vpc-0123",
            "network.subnetIds": ["subnet-0123abcd"],
        },
        (
            "network.vpcId must be a VPC's id with network existing, got 'vpc-0123':"
            " pulumi config set pushtrain:network.vpcId vpc-<id>"
        ),
    ),
    "existing network without subnets": (
        {"network": "existing", "network.vpcId": "vpc-0123abcd"},
        (
            "network.subnetIds must hold 1 to 16 subnets with network existing, got []:"
            ' write pushtrain:network.subnetIds: ["subnet-<id>"] into the stack file'
        ),
    ),
    "subnet's id that is none": (
        {
            "network": "existing",
            "network.vpcId": "vpc-0123abcd",
            "network.subnetIds": ["subnet-0123abcd", "10.0.0.0/24"],
        },
        (
            "network.subnetIds must hold ids of subnets, got '10.0.0.0/24':"
            ' write pushtrain:network.subnetIds: ["subnet-<id>"] into the stack file'
        ),
    ),
    "subnet named twice": (
        {
            "network": "existing",
            "network.vpcId": "vpc-0123abcd",
            "network.subnetIds": ["subnet-0123abcd"] * 2,
        },
        (
            "network.subnetIds must name each once, got 'subnet-0123abcd':"
            " take one out of the stack file"
        ),
    ),
    "secret under a name of the handlers'": (
        {"secrets": ["PUSHTRAIN_RUN=arn:aws:ssm:us-east-1:123456789012:parameter/x"]},
        (
            "secrets must hold NAME=ARN items with NAME an environment variable's, not AWS_, ECS_"
            " or PUSHTRAIN_..., got 'item 1':"
            ' write pushtrain:secrets: ["TOKEN=arn:aws:secretsmanager:..."] into the stack file'
        ),
    ),
    "secret itself in place of its ARN": (
        {"secrets": ["TOKEN=hunter2"]},
        (
            "secrets must hold NAME=ARN items with the ARN of a Secrets Manager secret or SSM"
            " parameter, got 'TOKEN=...':"
            ' write pushtrain:secrets: ["TOKEN=arn:aws:secretsmanager:..."] into the stack file'
        ),
    ),
    "secret named twice": (
        {"secrets": ["T=arn:aws:ssm:us-east-1:123456789012:parameter/x"] * 2},
        "secrets must name T once, got 'T=...': take one out of the stack file",
    ),
    "more secrets than most": (
        {"secrets": [f"T{at}=arn:aws:ssm:us-east-1:123456789012:parameter/x" for at in range(51)]},
        "secrets must hold at most 50, got 51: take some out of the stack file",
    ),
    "memory in GB": (
        {"memory": 8},
        (
            "memory must be 4096 to 16384 in steps of 1024 for cpu 2048, got 8:"
            " pulumi config set pushtrain:memory 4096"
        ),
    ),
    "number that is none": (
        {"cpu": "many"},
        "cpu must be a whole number, got 'many': pulumi config set pushtrain:cpu <number>",
    ),
    "truth that is none": (
        {"spot": "maybe"},
        "spot must be true or false, got 'maybe': pulumi config set pushtrain:spot true",
    ),
    "unknown architecture": (
        {"architecture": "ARM64"},
        (
            "architecture must be one of x86_64, arm64, got 'ARM64':"
            " pulumi config set pushtrain:architecture x86_64"
        ),
    ),
    "logs kept for ever": (
        {"logRetentionDays": 0},
        (
            "logRetentionDays must be one of 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400,"
            " 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653, got 0:"
            " pulumi config set pushtrain:logRetentionDays 1"
        ),
    ),
    "checkpoints kept for no day": (
        {"checkpointRetentionDays": 0},
        (
            "checkpointRetentionDays must be between 1 and 36500, got 0:"
            " pulumi config set pushtrain:checkpointRetentionDays 14"
        ),
    ),
    "old versions kept for negative days": (
        {"oldVersionRetentionDays": -1},
        (
            "oldVersionRetentionDays must be between 1 and 36500, got -1:"
            " pulumi config set pushtrain:oldVersionRetentionDays 14"
        ),
    ),
    "missing data": (
        {"data.path": "/no/such/set.zip"},
        (
            "data.path must name a file, got '/no/such/set.zip':"
            " pulumi config set pushtrain:data.path <file>"
        ),
    ),
    "data in a folder": (
        {"data.path": "/"},
        "data.path must name a file, got '/': pulumi config set pushtrain:data.path <file>",
    ),
    "context without a Dockerfile": (
        {"image.context": "/no/such/folder"},
        (
            "image.context must name a folder with a Dockerfile, got '/no/such/folder':"
            " pulumi config set pushtrain:image.context trainer"
        ),
    ),
    "tag prefix that no tag has": (
        {"image.tagPrefixes": ["c-", "-c"]},
        (
            "image.tagPrefixes must be what a tag may begin with: a letter, digit or _, then also"
            " . and -, got '-c': write pushtrain:image.tagPrefixes: [\"c-\"] into the stack file"
        ),
    ),
    "tag prefix that shuts the stack's own tag out": (
        {"image.tagPrefixes": ["g-"]},
        (
            "image.tagPrefixes must let the stack's own tag c-... through, unless image.build is"
            " false, got ['g-']:"
            ' write pushtrain:image.tagPrefixes: ["g-", "c-"] into the stack file'
        ),
    ),
    "tag prefix that lets some of the stack's own tags through": (
        {"image.tagPrefixes": ["c-1"]},
        (
            "image.tagPrefixes must let the stack's own tag c-... through, unless image.build is"
            " false, got ['c-1']:"
            ' write pushtrain:image.tagPrefixes: ["c-1", "c-"] into the stack file'
        ),
    ),
    "eleven tag prefixes": (
        {"image.tagPrefixes": [f"c{number}" for number in range(10)] + ["c"]},
        "image.tagPrefixes must hold at most 10 prefixes, got 11: take some out of the stack file",
    ),
    "one tag prefix that is no list": (
        {"image.tagPrefixes": "c-"},
        (
            "image.tagPrefixes must be a list of strings, got 'c-':"
            ' write pushtrain:image.tagPrefixes: ["..."] into the stack file'
        ),
    ),
    "list that holds a number": (
        {"parameters": [20]},
        (
            "parameters must be a list of strings, got [20]:"
            ' write pushtrain:parameters: ["..."] into the stack file'
        ),
    ),
    "parameter without a value": (
        {"parameters": ["epochs"]},
        (
            "parameters must hold NAME=VALUE items with NAME like [a-z][a-z0-9_]*, got 'epochs':"
            ' write pushtrain:parameters: ["epochs=20"] into the stack file'
        ),
    ),
    "parameter in capitals": (
        {"parameters": ["EPOCHS=3"]},
        (
            "parameters must hold NAME=VALUE items with NAME like [a-z][a-z0-9_]*, got 'EPOCHS=3':"
            ' write pushtrain:parameters: ["epochs=20"] into the stack file'
        ),
    ),
    "parameter named twice": (
        {"parameters": ["epochs=3", "epochs=4"]},
        "parameters must name epochs once, got 'epochs=4': take one out of the stack file",
    ),
    "build argument with a hyphen": (
        {"image.args": ["MY-BASE=x"]},
        (
            "image.args must hold NAME=VALUE items with NAME like [A-Za-z_][A-Za-z0-9_]*,"
            " got 'MY-BASE=x':"
            ' write pushtrain:image.args: ["BASE=python:3.13-slim"] into the stack file'
        ),
    ),
    "more parameters than the wiring could hold": (
        {"parameters": [f"note={'n' * 2048}"]},
        (
            "parameters must be at most 2048 characters of JSON with image.tagPrefixes, got 2066:"
            " take some out of the stack file"
        ),
    ),
    "parameters and tag prefixes that fit alone": (
        {
            "parameters": [f"note={'n' * 1000}"],
            "image.tagPrefixes": ["c-", *(f"{digit}{'x' * 127}" for digit in range(9))],
        },
        (
            "parameters must be at most 2048 characters of JSON with image.tagPrefixes, got 2210:"
            " take some out of the stack file"
        ),
    ),
    "runs below none": (
        {"maxConcurrentRuns": -1},
        (
            "maxConcurrentRuns must be between 0 (no limit) and 10000, got -1:"
            " pulumi config set pushtrain:maxConcurrentRuns 0"
        ),
    ),
    "alarms without what they need": (
        {"alarms": True},
        (
            "alarms must be false without metrics, which it needs, got True:"
            " pulumi config set pushtrain:metrics true"
        ),
    ),
    "dashboard without what it needs": (
        {"dashboard": True},
        (
            "dashboard must be false without metrics, which it needs, got True:"
            " pulumi config set pushtrain:metrics true"
        ),
    ),
    "a model that is late at once": (
        {"alarms.noModelHours": 0},
        (
            "alarms.noModelHours must be between 1 and 672, got 0:"
            " pulumi config set pushtrain:alarms.noModelHours 24"
        ),
    ),
    "a model that is late after its run": (
        {"alarms.noModelHours": 673},
        (
            "alarms.noModelHours must be between 1 and 672, got 673:"
            " pulumi config set pushtrain:alarms.noModelHours 24"
        ),
    ),
    "a run that outlives its image": (
        {"maxRunMinutes": 40321},
        (
            "maxRunMinutes must be between 0 (no limit) and 40320, got 40321:"
            " pulumi config set pushtrain:maxRunMinutes 0"
        ),
    ),
    "minutes that are half": (
        {"maxRunMinutes": "1.5"},
        (
            "maxRunMinutes must be a whole number, got '1.5':"
            " pulumi config set pushtrain:maxRunMinutes <number>"
        ),
    ),
    "address without a domain": (
        {"notify.emails": ["ann@example.com", "ann"]},
        (
            "notify.emails must hold e-mail addresses, got 'ann':"
            ' write pushtrain:notify.emails: ["ann@example.com"] into the stack file'
        ),
    ),
    "address given twice": (
        {"notify.emails": ["ann@example.com", "ann@example.com"]},
        (
            "notify.emails must name each once, got 'ann@example.com':"
            " take one out of the stack file"
        ),
    ),
    "twenty-one addresses": (
        {"notify.emails": [f"ann{number}@example.com" for number in range(21)]},
        "notify.emails must hold at most 20, got 21: take some out of the stack file",
    ),
    "addresses in one text": (
        {"notify.emails": "ann@example.com"},
        (
            "notify.emails must be a list of strings, got 'ann@example.com':"
            ' write pushtrain:notify.emails: ["..."] into the stack file'
        ),
    ),
    "webhook without TLS, its secret unsaid": (
        {"notify.webhooks": ["http://example.com/secret"]},
        (
            "notify.webhooks must hold https URLs of hosts with a name, got 'http://e...':"
            ' write pushtrain:notify.webhooks: ["https://example.com/hook"] into the stack file'
        ),
    ),
    "webhook given twice, its secret unsaid": (
        {"notify.webhooks": ["https://example.com/secret"] * 2},
        "notify.webhooks must name each once, got 'https://...': take one out of the stack file",
    ),
    "metric with a blank": (
        {"champion.metric": "top 1"},
        (
            "champion.metric must be a metric's name like [A-Za-z0-9_][A-Za-z0-9_./-]{0,63},"
            " got 'top 1': pulumi config set pushtrain:champion.metric accuracy"
        ),
    ),
    "goal that is none": (
        {"champion.goal": "maximum"},
        (
            "champion.goal must be one of max, min, got 'maximum':"
            " pulumi config set pushtrain:champion.goal max"
        ),
    ),
    "misspelt key": (
        {"memmory": 8192},
        (
            "memmory must be a setting that Pulumi.yaml knows (memory?), got '8192':"
            " pulumi config rm pushtrain:memmory"
        ),
    ),
    "unknown key": (
        {"zzz": "1"},
        "zzz must be a setting that Pulumi.yaml knows, got '1': pulumi config rm pushtrain:zzz",
    ),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_refusal_names_key_rule_value_and_mend(refusal, settings, message):
    assert refusal(settings) == [message]


@pytest.mark.parametrize("stack", ["dev.1", "s" * 101, "düsseldorf"])
def test_stack_name_that_no_family_could_have_is_refused(refusal, stack):
    assert refusal({}, stack) == [
        (
            "the stack's name must be letters, digits, hyphens and underscores (at most 100), "
            f"got {stack!r}: pulumi stack rename <name>"
        )
    ]


def test_all_faults_are_named_at_once(refusal):
    faults = refusal({"cpu": 1, "logRetentionDays": 0, "memmory": 1, "spot": "x"}, "a.b")

    assert sorted(fault.split(" must ")[0] for fault in faults) == [
        "cpu",
        "logRetentionDays",
        "memmory",
        "spot",
        "the stack's name",
    ]


def test_nothing_is_registered_when_settings_are_refused(deploy):
    with pytest.raises(SettingsError, match="logRetentionDays must be"):
        deploy.whole({"pushtrain:logRetentionDays": 0})

    assert deploy.latest.registrations == []


def test_setting_without_any_value_is_refused(deploy):
    deploy.configure()
    pulumi.runtime.set_all_config({})

    with pytest.raises(SettingsError, match="cpu must be set, got None") as caught:
        Settings.load()
    assert "image.build must be set" in str(caught.value)


def test_where_ci_builds_neither_dockerfile_nor_own_tag_is_asked_for(load):
    settings = load(
        {"image.build": False, "image.context": "/no/such", "image.tagPrefixes": ["g-"]}
    )

    assert settings.image_tag_prefixes == ("g-",)


FARGATE_GIB = {
    256: [0.5, 1, 2],
    512: [1, 2, 3, 4],
    1024: [2, 3, 4, 5, 6, 7, 8],
    2048: list(range(4, 17)),
    4096: list(range(8, 31)),
    8192: list(range(16, 61, 4)),
    16384: list(range(32, 121, 8)),
}
"""Fargate's own table, by CPU units, as AWS prints it."""

cpus = st.one_of(st.sampled_from(sorted(FARGATE_GIB)), st.integers(-1, 20000))
memories = st.one_of(st.integers(0, 250).map(lambda half: half * 512), st.integers(-1, 130000))


@pytest.fixture(scope="session")
def accepts(load):
    """Return a function that says whether settings are accepted."""

    def read(settings):
        try:
            load(settings)
        except SettingsError:
            return False
        return True

    return read


@given(cpu=cpus, memory=memories)
def test_cpu_and_memory_are_accepted_just_where_fargate_has_the_pair(accepts, cpu, memory):
    known = any(math.isclose(memory, gib * 1024) for gib in FARGATE_GIB.get(cpu, []))

    assert accepts({"cpu": cpu, "memory": memory}) == known


@pytest.mark.parametrize(("cpu", "sizes"), FARGATE_GIB.items())
def test_cpu_has_every_size_of_fargates_table_and_no_other(accepts, cpu, sizes):
    halves = range(2 * 125)

    assert [half / 2 for half in halves if accepts({"cpu": cpu, "memory": half * 512})] == sizes


OWN_TAGS = [f"c-{digit * 16}" for digit in "0123456789abcdef"]
prefixes = st.lists(
    st.one_of(st.text("cg-.1_", max_size=3), st.text(max_size=2), st.just("x" * 129)), max_size=12
)


@example(["c-", "x" * 128])
@example(["c-", "x" * 129])
@given(prefixes=prefixes)
def test_tag_prefixes_are_accepted_just_where_tags_can_have_them_and_own_tags_do(accepts, prefixes):
    letters = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
    possible = all(
        prefix and len(prefix) <= 128 and prefix[0] in letters and set(prefix) <= letters | {*".-"}
        for prefix in prefixes
    )
    own = not prefixes or all(tag.startswith(tuple(prefixes)) for tag in OWN_TAGS)
    few = len(prefixes) <= 10

    assert accepts({"image.tagPrefixes": json.dumps(prefixes)}) == (few and possible and own)


@pytest.mark.parametrize(
    "registry", ["127.0.0.1:4566", "127.1.2.3:1", "localhost:65535", "[::1]:5000"]
)
def test_registry_of_this_machine_is_accepted(load, registry):
    assert load({"image.registry": registry}).image_registry == registry


@pytest.mark.parametrize(
    "registry",
    [
        "127.0.0.1",
        "localhost",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:4566/evil.com",
        "127.0.0.1:4566\n",
        "127.0.0.1.evil.com:4566",
        "127.0.0.1@evil.com:4566",
        "user@127.0.0.1:4566",
        "user:4566@localhost:4566",
        "http://127.0.0.1:4566",
        "localhost.evil:4566",
        "evil.localhost:4566",
        "evil-localhost:4566",
        "LOCALHOST.evil.com:443",
        "127.999.0.1:4566",
        "127.1:4566",
        "0127.0.0.1:4566",
        "0x7f000001:4566",
        "2130706433:4566",
        "0.0.0.0:4566",
        "10.0.0.1:5000",
        "::1:5000",
        "[127.0.0.1]:5000",
        "[::1]evil.com:5000",
        "[::ffff:10.0.0.1]:5000",
        "[fe80::1]:5000",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "docker.io:443",
        "127.0.0.1:\u0664\u0665",
        " 127.0.0.1:4566",
    ],
)
def test_registry_that_could_be_another_machine_is_refused(refusal, registry):
    (line,) = refusal({"image.registry": registry})

    assert line.startswith("image.registry must be host:port of this machine")
    assert line.endswith('pulumi config set pushtrain:image.registry ""')


@pytest.mark.parametrize("key", ["maxConcurrentRuns", "maxRunMinutes"])
@pytest.mark.parametrize(("number", "good"), [(0, True), (1, True), (10000, True), (-1, False)])
def test_limits_begin_with_none(accepts, key, number, good):
    assert accepts({key: number}) == good


@pytest.mark.parametrize(
    "address", ["ann@example.com", "a.b+c@mail.example.co.uk", "o'hara_1@x-y.io", "#1@1.de"]
)
def test_address_that_can_get_mail_is_accepted(load, address):
    assert load({"notify.emails": [address]}).notify_emails == (address,)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "@example.com",
        "ann@",
        "ann@localhost",
        "ann@example.com\nBcc: all@example.com",
        "ann@example.com ",
        "Ann <ann@example.com>",
        "ann@example.com,bob@example.com",
        "ann@@example.com",
        "ann@exämple.com",
        f"{'a' * 65}@example.com",
        "mailto:ann@example.com",
    ],
)
def test_address_that_cannot_get_mail_is_refused(refusal, address):
    (line,) = refusal({"notify.emails": [address]})

    assert line.startswith("notify.emails must hold e-mail addresses, got ")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook",
        "https://hooks.example.com:8443/a/b?c=d%20e",
        "https://user:secret@example.com/",
        "HTTPS://EXAMPLE.com",
    ],
)
def test_webhook_that_sns_can_post_to_is_accepted(load, url):
    assert load({"notify.webhooks": [url]}).notify_webhooks == (url,)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "example.com/hook",
        "http://example.com/secret",
        "ftp://example.com/secret",
        "javascript:alert(1)//secret",
        "https://localhost/secret",
        "https://[::1]/secret",
        "https://exam ple.com/secret",
        "https://example.com/secret\nHost: evil.com",
        "https://example.com:0/secret",
        "https://example.com:99999/secret",
        "https://example.com/#secret",
        "hooks.example.com/secret",
        "https://example.com@/secret",
        f"https://example.com/{'secret' * 400}",
    ],
)
def test_webhook_that_sns_cannot_post_to_is_refused_and_its_secret_unsaid(refusal, url):
    (line,) = refusal({"notify.webhooks": [url]})

    assert line.startswith("notify.webhooks must hold https URLs of hosts with a name, got ")
    assert "secret" not in line


@given(st.lists(st.text(max_size=5) | st.sampled_from(["a@b.cd", "https://b.cd/"]), max_size=3))
def test_any_subscribers_are_either_taken_as_they_are_or_refused(load, items):
    for key, field in (("notify.emails", "notify_emails"), ("notify.webhooks", "notify_webhooks")):
        with contextlib.suppress(SettingsError):
            settings = load({key: json.dumps(items)})

            assert getattr(settings, field) == tuple(items)
            assert {*items} <= {"a@b.cd", "https://b.cd/"}
