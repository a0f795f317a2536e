"""What comes through a network's endpoints is what tasks and their agent need there, both ways."""

from tests.least_privilege import services
from tests.least_privilege.access import Policies
from tests.least_privilege.world import World, mutations


def test_each_endpoint_lets_through_just_what_is_needed_there(stack, needed):
    for endpoint in stack.deployment.of_type("aws:ec2/vpcEndpoint:VpcEndpoint"):
        service = endpoint.inputs["serviceName"].removeprefix("com.amazonaws.us-east-1.")
        wanted = through(service, needed)
        world = World({**needed, service: wanted})
        (document,) = stack.documents(endpoint.name)
        unnoticed = [
            mutation.what
            for mutation in mutations(document)
            if not world.notices(service, Policies(mutation.document), mutation.actions)
        ]

        assert wanted
        assert world.allowed(Policies(document)) == world.needed[service]
        assert unnoticed == []


def through(service, needed):
    """Return what goes through an endpoint of that service: a trainer's calls, and the agent's."""
    asked = [
        access
        for role in ("task", "execution")
        for access in needed[role]
        if access.action.partition(":")[0] == service.partition(".")[0]
    ]
    return [*asked, *(services.of_layers() if service == "s3" else [])]
