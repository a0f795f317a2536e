"""Pulumi.local.yaml: the program as it is, pointed at this machine and nowhere else."""

import pytest
import yaml

from components.settings import is_loopback

ENDPOINTS = {
    "cloudwatch/metricAlarm": "cloudwatch",
    "cloudwatch/logGroup": "logs",
    "cloudwatch/eventRule": "events",
    "cloudwatch/eventTarget": "events",
}
LOOK_UPS = {"sts", "ec2", "ecr"}
"""Account and region, zones, the registry's password."""


@pytest.fixture(scope="module")
def config(root):
    return yaml.safe_load((root / "Pulumi.local.yaml").read_text())["config"]


@pytest.fixture(scope="module")
def local(config, deploy, context):
    own = {key: value for key, value in config.items() if key.startswith("pushtrain:")}
    return deploy.whole({**own, "data.path": str(context / "train.py")}, stack="local")


def test_every_service_of_the_program_has_its_endpoint(config, local):
    modules = [each.typ.split(":")[1] for each in local.registrations if each.typ[:4] == "aws:"]
    services = {ENDPOINTS.get(module, module.partition("/")[0]) for module in modules}
    (endpoints,) = config["aws:endpoints"]

    assert services | LOOK_UPS <= set(endpoints)


def test_nothing_of_it_leaves_this_machine(config):
    (endpoints,) = config["aws:endpoints"]
    places = {url.removeprefix("http://") for url in endpoints.values()}

    assert places == {config["pushtrain:image.registry"]}
    assert all(map(is_loopback, places))
    assert (config["aws:accessKey"], config["aws:secretKey"]) == ("test", "test")


def test_account_is_still_asked_for_since_arns_have_it(config):
    assert "aws:skipRequestingAccountId" not in config
