"""What the doctor says of machines and accounts that lack one thing, or everything."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber

from automation import doctor
from automation.doctor import Check, Environment, as_json, exit_code, render, run_checks

ACCOUNT = "123456789012"
USER = f"arn:aws:iam::{ACCOUNT}:user/dev"
PROJECT = """
name: pushtrain
config:
  cpu: {type: integer, default: 2048}
  spot: {type: boolean, default: true}
  '["image.build"]': {type: boolean, default: true}
"""


class Session:
    """A boto3 session of stubbed clients."""

    region_name = None

    def __init__(self):
        self.real = boto3.session.Session("key", "secret", region_name="eu-central-1")
        self.clients, self.stubs = {}, {}
        self.asked = []

    def stub(self, service):
        if service not in self.clients:
            self.clients[service] = self.real.client(service)
            self.stubs[service] = Stubber(self.clients[service])
            self.stubs[service].activate()
        return self.stubs[service]

    def get_credentials(self):
        return self.real.get_credentials()

    def client(self, service, **options):
        self.asked.append((service, options))
        self.stub(service)
        return self.clients[service]


class Machine:
    """A machine with nothing on it, and words to put things there."""

    def __init__(self, folder):
        self.root, self.bin = folder / "project", folder / "bin"
        self.root.mkdir()
        self.bin.mkdir()
        (self.root / "Pulumi.yaml").write_text(PROJECT)
        self.variables = {"PATH": str(self.bin)}
        self.session = Session()
        self.system = "Linux"
        self.seconds = 5.0

    def program(self, name, output="", *, code=0, errors="", sleeps=0):
        """Put a program there that says something, the same whatever it is asked."""
        file = self.bin / name
        file.write_text(
            f"#!{sys.executable} -S\nimport sys, time\ntime.sleep({sleeps})\n"
            f"print({output!r})\nprint({errors!r}, file=sys.stderr)\nsys.exit({code})\n"
        )
        file.chmod(0o755)

    def stack(self, name, text):
        (self.root / f"Pulumi.{name}.yaml").write_text(text)

    @property
    def environment(self):
        return Environment(
            root=self.root,
            variables=self.variables,
            system=self.system,
            session=lambda _profile: self.session,
            seconds=self.seconds,
        )

    def check(self, name, stack="dev"):
        """Make one check, as run_checks would."""
        look = dict(doctor.CHECKS)[name]
        return doctor._check(name, look, doctor._Patient(self.environment, stack))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# Programs


@pytest.mark.parametrize(
    ("name", "system", "fix"),
    [
        ("git", "Linux", "apt-get install git"),
        ("make", "Linux", "apt-get install make"),
        ("git", "Darwin", "xcode-select --install"),
        ("Pulumi CLI", "Linux", "curl -fsSL https://get.pulumi.com | sh"),
        ("Pulumi CLI", "Darwin", "brew install pulumi/tap/pulumi"),
        ("Pulumi language", "Linux", "curl -fsSL https://get.pulumi.com | sh"),
        ("AWS plugin", "Linux", "pulumi plugin install resource aws 7."),
        ("Docker plugin", "Linux", "pulumi plugin install resource docker 5."),
        ("Pulumi backend", "Linux", "pulumi login"),
        ("Docker engine", "Linux", "curl -fsSL https://get.docker.com | sh"),
        ("Docker engine", "Darwin", "brew install --cask docker"),
        ("packages", "Linux", "make setup"),
        ("stack file", "Linux", "pulumi stack init dev"),
        ("AWS region", "Linux", "pulumi config set aws:region"),
    ],
)
def test_what_is_missing_comes_with_the_command_of_the_system(machine, name, system, fix):
    machine.system = system
    check = machine.check(name)

    assert check.status == "fail"
    assert fix in check.fix


def test_programs_that_answer_are_fine(machine):
    machine.program("git", "git version 2.50.1")
    machine.program("make", "GNU Make 4.4\nand a licence")
    machine.program("pulumi", "v3.272.0")
    machine.program("pulumi-language-python")

    assert machine.check("git") == Check("git", "ok", "git version 2.50.1")
    assert machine.check("make").found == "GNU Make 4.4"
    assert machine.check("Pulumi CLI") == Check("Pulumi CLI", "ok", "v3.272.0")
    assert machine.check("Pulumi language").status == "ok"
    assert machine.check("Python").status == "ok"


def test_a_stand_in_that_only_asks_to_install_is_no_git(machine):
    machine.program("git", errors="xcode-select: note: no developer tools", code=1)
    check = machine.check("git")

    assert (check.status, check.found) == ("fail", "xcode-select: note: no developer tools")


@pytest.mark.parametrize(
    ("version", "status"),
    [("v3.119.9", "fail"), ("v2.300.0", "fail"), ("v3.120.0", "ok"), ("v4.0.0-alpha.1", "ok")],
)
def test_an_old_pulumi_is_not_enough(machine, version, status):
    machine.program("pulumi", version)

    assert machine.check("Pulumi CLI").status == status


def test_a_broken_pulumi_says_what_it_says(machine):
    machine.program("pulumi", errors="cannot execute binary file", code=126)

    assert machine.check("Pulumi CLI").found == "cannot execute binary file"


def test_the_language_host_may_lie_beside_the_real_pulumi(machine, tmp_path):
    real = tmp_path / "pulumi-3"
    real.mkdir()
    (real / "pulumi").write_text("#!/bin/sh\n")
    (real / "pulumi").chmod(0o755)
    (machine.bin / "pulumi").symlink_to(real / "pulumi")
    assert machine.check("Pulumi language").status == "fail"
    (real / "pulumi-language-python").write_text("")

    assert machine.check("Pulumi language").status == "ok"


def plugins(*versions):
    return json.dumps([{"name": "aws", "kind": "resource", "version": v} for v in versions])


def test_the_plugin_of_the_programs_version_is_fine(machine):
    version = machine.check("AWS plugin").found.split()[0]
    machine.program("pulumi", plugins("6.0.0", version))

    assert machine.check("AWS plugin") == Check("AWS plugin", "ok", version)


def test_a_plugin_that_would_be_downloaded_is_a_warning(machine):
    machine.program("pulumi", plugins("6.0.0"))
    check = machine.check("AWS plugin")

    assert check.status == "warn"
    assert "only 6.0.0" in check.found


def test_a_plugin_that_may_not_be_downloaded_fails(machine):
    machine.program("pulumi", "[]")
    machine.variables["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] = "true"

    assert machine.check("Docker plugin").status == "fail"


def test_a_plugin_on_the_path_is_fine(machine):
    machine.program("pulumi-resource-docker")

    assert machine.check("Docker plugin").status == "ok"


def test_the_backend_is_named(machine):
    machine.program("pulumi", json.dumps({"user": "me", "url": "file://~"}))

    assert machine.check("Pulumi backend").found == "me at file://~"


def test_no_login_fails_with_the_commands(machine):
    machine.program("pulumi", errors="error: PULUMI_ACCESS_TOKEN must be set", code=255)
    check = machine.check("Pulumi backend")

    assert check.status == "fail"
    assert "PULUMI_ACCESS_TOKEN" in check.found
    assert "pulumi login --local" in check.fix


def test_an_engine_that_answers_is_fine(machine):
    machine.program("docker", json.dumps({"ServerVersion": "28.0.0", "DriverStatus": [["a", "b"]]}))

    assert machine.check("Docker engine") == Check("Docker engine", "ok", "28.0.0")


def test_the_containerd_image_store_is_a_warning(machine):
    status = [["driver-type", "io.containerd.snapshotter.v1"]]
    machine.program("docker", json.dumps({"ServerVersion": "29.0.0", "DriverStatus": status}))
    check = machine.check("Docker engine")

    assert check.status == "warn"
    assert '"containerd-snapshotter": false' in check.fix


@pytest.mark.parametrize(
    ("why", "system", "fix"),
    [
        ("Cannot connect to the Docker daemon", "Linux", "sudo systemctl start docker"),
        ("Cannot connect to the Docker daemon", "Darwin", "open -a Docker"),
        ("permission denied while trying to connect", "Linux", "usermod -aG docker"),
    ],
)
def test_an_engine_that_does_not_answer_fails(machine, why, system, fix):
    machine.system = system
    machine.program("docker", json.dumps({"ServerVersion": "", "ServerErrors": [why]}), code=1)
    check = machine.check("Docker engine")

    assert (check.status, check.found) == ("fail", why)
    assert fix in check.fix


def test_a_stack_that_builds_no_image_only_warns_of_docker(machine):
    machine.stack("dev", "config:\n  pushtrain:image.build: false\n")

    assert machine.check("Docker engine").status == "warn"
    assert machine.check("Docker engine", stack=None).status == "fail"


# The checkout


def install(machine, **packages):
    site = machine.root / ".venv" / "lib" / "python3.11" / "site-packages"
    for name, version in packages.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def pin(machine, *lines):
    text = "".join(f"{line} \\\n    --hash=sha256:00\n" for line in lines)
    (machine.root / "requirements.txt").write_text(text)


def test_packages_as_pinned_are_fine_whatever_the_spelling(machine):
    pin(machine, "pulumi-aws==7.51.1", "pywin32==1 ; sys_platform == 'win32'")
    install(machine, Pulumi_AWS="7.51.1", other="1")

    assert machine.check("packages").found == "1 packages as in requirements.txt"


def test_a_missing_package_fails(machine):
    pin(machine, "pulumi==3.272.0", "pyyaml==6.0")
    install(machine, pulumi="3.272.0")
    check = machine.check("packages")

    assert check.status == "fail"
    assert "1 of 2 packages are not there, pyyaml say" in check.found


def test_another_version_is_a_warning(machine):
    pin(machine, "pulumi==3.272.0")
    install(machine, pulumi="3.1.0")
    check = machine.check("packages")

    assert check.status == "warn"
    assert "pulumi is 3.1.0, not 3.272.0" in check.found
    assert check.fix == "make setup"


def test_this_checkouts_own_packages_can_be_read(root):
    patient = doctor._Patient(Environment(root=root), None)

    assert len(doctor._pins(root / "requirements.txt")) > 10
    assert doctor._packages(patient).status in {"ok", "warn", "fail"}


def test_the_stack_file_is_found(machine):
    machine.stack("dev", "config: {}\n")

    assert machine.check("stack file").status == "ok"
    assert machine.check("stack file", "prod").status == "fail"
    assert machine.check("stack file", None).found == "Pulumi.dev.yaml"


def test_a_stack_file_that_is_no_yaml_is_a_fail_and_no_traceback(machine):
    machine.stack("dev", "config: [\n")
    check = machine.check("AWS region")

    assert check.status == "fail"
    assert "ParserError" in check.found
    assert "\n" not in check.found


# The account


def test_the_stacks_region_goes_before_the_machines(machine):
    machine.variables["AWS_REGION"] = "us-west-2"
    assert machine.check("AWS region").found == "us-west-2 (AWS_REGION)"
    machine.stack("dev", "config:\n  aws:region: eu-central-1\n")

    assert machine.check("AWS region").found == "eu-central-1 (Pulumi.dev.yaml)"


def test_the_region_may_be_in_the_aws_configuration(machine):
    machine.session.region_name = "eu-north-1"

    assert machine.check("AWS region").found == "eu-north-1 (AWS configuration)"


def caller(machine, arn=USER):
    answer = {"UserId": "u", "Account": ACCOUNT, "Arn": arn}
    machine.session.stub("sts").add_response("get_caller_identity", answer)


def test_credentials_name_who_is_asking_and_where(machine):
    caller(machine)
    machine.variables["AWS_ENDPOINT_URL"] = "http://proxy.example:4566"
    check = machine.check("AWS credentials")

    assert check.status == "ok"
    assert check.found == f"{USER} at http://proxy.example:4566 (AWS_ENDPOINT_URL)"


def test_clients_go_where_the_stack_goes(machine):
    machine.stack(
        "local",
        "config:\n  aws:region: eu-west-1\n  aws:accessKey: a\n  aws:secretKey: b\n"
        "  aws:endpoints: [{sts: 'http://127.0.0.1:1'}]\n",
    )
    caller(machine)
    machine.check("AWS credentials", "local")
    ((service, options),) = machine.session.asked

    assert service == "sts"
    assert options["region_name"] == "eu-west-1"
    assert options["endpoint_url"] == "http://127.0.0.1:1"
    assert options["aws_access_key_id"] == "a"


def test_no_credentials_fail_once_and_are_said_by_the_others(machine):
    machine.session.get_credentials = lambda: None

    assert machine.check("AWS credentials").status == "fail"
    assert "aws configure" in machine.check("AWS credentials").fix
    for name in ("AWS permissions", "vCPUs on demand", "vCPUs on Spot"):
        assert machine.check(name).status == "warn"
        assert machine.check(name).found == doctor.NO_CREDENTIALS


def test_expired_credentials_fail(machine):
    machine.session.stub("sts").add_client_error("get_caller_identity", "ExpiredToken", "too old")
    check = machine.check("AWS credentials")

    assert check.status == "fail"
    assert "ExpiredToken" in check.found
    assert check.fix.startswith("aws sso login")


def test_an_unreachable_aws_says_so(machine):
    def unreachable(_service, **_options):
        raise EndpointConnectionError(endpoint_url="https://sts")

    machine.session.client = unreachable

    assert machine.check("AWS credentials").status == "fail"
    assert machine.check("vCPUs on Spot").status == "warn"
    assert machine.check("vCPUs on Spot").fix.startswith("see AWS endpoint")


def simulated(machine, decisions, arn=USER):
    results = [{"EvalActionName": name, "EvalDecision": said} for name, said in decisions.items()]
    machine.session.stub("iam").add_response(
        "simulate_principal_policy",
        {"EvaluationResults": results},
        {"PolicySourceArn": arn, "ActionNames": list(doctor.ACTIONS)},
    )


ALLOWED = dict.fromkeys(doctor.ACTIONS, "allowed")


@pytest.mark.parametrize(
    ("decisions", "status"),
    [
        (ALLOWED, "ok"),
        ({**ALLOWED, "iam:CreateRole": "implicitDeny"}, "warn"),
        ({**ALLOWED, "iam:CreateRole": "explicitDeny"}, "fail"),
        (dict.fromkeys(doctor.ACTIONS, "implicitDeny"), "fail"),
    ],
)
def test_permissions_are_simulated(machine, decisions, status):
    caller(machine)
    simulated(machine, decisions)
    check = machine.check("AWS permissions")

    assert check.status == status
    assert status == "ok" or "iam:CreateRole" in check.found
    assert status == "ok" or USER in check.fix


def test_a_role_is_simulated_by_its_own_name(machine):
    role = f"arn:aws:iam::{ACCOUNT}:role/teams/ml/deploy"
    caller(machine, f"arn:aws:sts::{ACCOUNT}:assumed-role/deploy/me")
    machine.session.stub("iam").add_response(
        "get_role",
        {
            "Role": {
                "Arn": role,
                "Path": "/teams/ml/",
                "RoleName": "deploy",
                "RoleId": "A" * 16,
                "CreateDate": 0,
            }
        },
        {"RoleName": "deploy"},
    )
    simulated(machine, ALLOWED, role)

    assert machine.check("AWS permissions").status == "ok"


def test_the_accounts_root_needs_no_simulation(machine):
    caller(machine, f"arn:aws:iam::{ACCOUNT}:root")

    assert machine.check("AWS permissions").status == "ok"


def test_permissions_that_may_not_be_asked_for_are_a_warning_with_the_reason(machine):
    caller(machine)
    machine.session.stub("iam").add_client_error(
        "simulate_principal_policy", "AccessDenied", "not authorized"
    )
    check = machine.check("AWS permissions")

    assert check.status == "warn"
    assert "AccessDenied" in check.found
    assert "iam:SimulatePrincipalPolicy" in check.fix


def quota(machine, code, value):
    machine.session.stub("service-quotas").add_response(
        "get_service_quota",
        {"Quota": {"Value": value}},
        {"ServiceCode": "fargate", "QuotaCode": code},
    )


@pytest.mark.parametrize(
    ("name", "code"), [("vCPUs on demand", "L-3032A538"), ("vCPUs on Spot", "L-36FBB829")]
)
@pytest.mark.parametrize(("value", "status"), [(0.0, "fail"), (3.0, "fail"), (4.0, "ok")])
def test_the_quota_must_let_one_run_start(machine, name, code, value, status):
    machine.stack("dev", "config:\n  aws:region: eu-central-1\n  pushtrain:cpu: 4096\n")
    quota(machine, code, value)
    check = machine.check(name)

    assert check.status == status
    if status == "fail":
        assert f"--quota-code {code} --desired-value 16 --region eu-central-1" in check.fix
        assert f"https://eu-central-1.console.aws.amazon.com/servicequotas/home/services/fargate/quotas/{code}" in check.fix  # fmt: skip  # noqa: E501 -- one URL


def test_without_a_quota_of_the_account_the_default_counts(machine):
    quotas = machine.session.stub("service-quotas")
    quotas.add_client_error("get_service_quota", "NoSuchResourceException")
    quotas.add_response("get_aws_default_service_quota", {"Quota": {"Value": 6.0}})

    assert machine.check("vCPUs on demand").found == "6 vCPU in us-east-1, a run needs 2"


def test_a_quota_that_may_not_be_asked_for_is_a_warning(machine):
    machine.session.stub("service-quotas").add_client_error("get_service_quota", "AccessDenied")

    assert machine.check("vCPUs on Spot").status == "warn"


def test_a_stack_without_spot_needs_no_spot_quota(machine):
    machine.stack("dev", "config:\n  pushtrain:spot: false\n")

    assert machine.check("vCPUs on Spot").status == "ok"


def test_an_embedded_cloud_enforces_neither(machine):
    machine.variables["AWS_ENDPOINT_URL"] = "http://127.0.0.1:4566"

    for name in ("AWS permissions", "vCPUs on demand", "vCPUs on Spot"):
        assert machine.check(name).found == "not enforced by an embedded cloud"


def test_an_endpoint_where_nobody_listens_fails(machine):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        machine.variables["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{taken.getsockname()[1]}"
        check = machine.check("AWS endpoint")

    assert check.status == "fail"
    assert "pushtrain cloud" in check.fix


@pytest.mark.localcloud
def test_an_endpoint_that_answers_is_timed_without_a_proxy(machine, monkeypatch):
    from localcloud import Cloud  # noqa: PLC0415 -- only this test needs one

    with Cloud() as cloud:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        machine.variables["AWS_ENDPOINT_URL"] = cloud.url
        check = machine.check("AWS endpoint")

    assert check.status == "ok"
    assert check.found.startswith(f"{cloud.url} answers in ")


# All together


def test_a_program_that_hangs_is_a_fail_that_names_it(machine):
    machine.seconds = 1
    machine.program("docker", sleeps=60)
    began = time.monotonic()
    check = machine.check("Docker engine")

    assert check.status == "fail"
    assert check.found == "docker info --format {{json .}}: no answer after 1 s"
    assert time.monotonic() - began < 10


def test_a_check_that_hangs_is_a_fail_after_its_limit_and_holds_up_nobody(machine):
    machine.seconds = 1
    machine.variables["AWS_ENDPOINT_URL"] = "http://127.0.0.1:1"
    machine.session.get_credentials = lambda: time.sleep(30)
    began = time.monotonic()
    told = []
    checks = run_checks("dev", machine.environment, told.append)

    assert time.monotonic() - began < 10
    assert [check.name for check in checks] == [name for name, _ in doctor.CHECKS]
    assert sorted(told, key=lambda check: check.name) == sorted(checks, key=lambda c: c.name)
    found = {check.name: check for check in checks}
    assert found["AWS credentials"].found == "no answer after 1 s"
    assert found["AWS credentials"].status == "fail"
    assert found["git"].found == "not on PATH"
    assert exit_code(checks) == 1


def test_a_check_that_breaks_is_a_fail_and_no_traceback(machine):
    machine.program("pulumi", "no JSON")
    check = machine.check("AWS plugin")

    assert check.status == "fail"
    assert check.found.startswith("JSONDecodeError: ")


def test_warnings_alone_exit_with_0():
    assert exit_code([Check("a", "ok", ""), Check("b", "warn", "")]) == 0
    assert exit_code([Check("a", "ok", ""), Check("b", "fail", "")]) == 1


def test_the_table_and_the_data_say_the_same():
    checks = [Check("a", "ok", "here"), Check("b", "fail", "gone", "get it")]

    assert as_json(checks)[1] == {"name": "b", "status": "fail", "found": "gone", "fix": "get it"}
    assert render(checks).plain.splitlines() == [
        "ok    a                 here",
        "fail  b                 gone",
        "      -> get it",
        "1 of 2 checks fail",
    ]


BARE = """
import json, sys
from automation import doctor
checks = doctor.run_checks(None)
print(json.dumps(doctor.as_json(checks)))
sys.exit(doctor.exit_code(checks))
"""


HANGS = """
import time
from automation import doctor
class Session:
    region_name = "us-east-1"
    def get_credentials(self):
        time.sleep(60)
doctor.run_checks(None, doctor.Environment(variables={}, seconds=1, session=lambda _: Session()))
"""


def test_a_check_that_hangs_does_not_keep_the_process(root):
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", HANGS], cwd=root, timeout=50, check=True)

    assert time.monotonic() - began < 30


@pytest.mark.parametrize("home", [True, False])
def test_a_bare_machine_learns_of_each_missing_thing(root, tmp_path, home):
    variables = {"HOME": str(tmp_path)} if home else {}
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        cwd=root,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)}
    missing = {"git", "make", "Pulumi CLI", "Pulumi language", "AWS plugin", "Docker plugin"}
    missing |= {"Pulumi backend", "Docker engine"}
    # Without HOME, the password file leads to whatever AWS configuration its owner has.
    missing |= {"AWS region", "AWS credentials"} if home else set()
    assert {name for name in missing if found[name]["status"] != "fail"} == set()
    assert all(check["fix"] for check in found.values() if check["status"] != "ok")
    assert not Path(tmp_path / ".pulumi").exists()
