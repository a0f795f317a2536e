"""Who is told of the end of a run, and over what."""

import pytest

SUBSCRIPTION = "aws:sns/topicSubscription:TopicSubscription"
TOPIC = "arn:aws:sns:us-east-1:123456789012:pushtrain-notices-topic-0a1b2c3"


@pytest.fixture(scope="module")
def told(deploy):
    return deploy.whole(
        {
            "notify.emails": ["ann@example.com", "bob@example.com"],
            "notify.webhooks": ["https://example.com/a?key=secret", "https://example.com/b"],
        }
    )


def test_nobody_is_told_unless_the_settings_say_so(dev):
    assert dev.of_type(SUBSCRIPTION) == []
    assert dev.exports["topic"].value == TOPIC


def test_topic_is_open_to_publishers_that_could_not_use_a_key(dev):
    assert "kmsMasterKeyId" not in dev.inputs("pushtrain-notices-topic")


def test_each_address_and_each_webhook_is_subscribed(told):
    found = [made.inputs for made in told.of_type(SUBSCRIPTION)]

    assert sorted(found, key=lambda inputs: inputs["endpoint"]) == [
        {"topic": TOPIC, "protocol": "email", "endpoint": "ann@example.com"},
        {"topic": TOPIC, "protocol": "email", "endpoint": "bob@example.com"},
        {"topic": TOPIC, "protocol": "https", "endpoint": "https://example.com/a?key=secret"},
        {"topic": TOPIC, "protocol": "https", "endpoint": "https://example.com/b"},
    ]


def test_webhooks_are_secrets_and_their_names_tell_none(told):
    secret = [made for made in told.of_type(SUBSCRIPTION) if made.secrets]

    assert {made.inputs["protocol"] for made in secret} == {"https"}
    assert [made.secrets for made in secret] == [{"endpoint"}] * 2
    assert not [made.urn for made in told.registrations if "secret" in made.urn]


def test_who_leaves_the_list_takes_nobody_along(told, deploy):
    # Each new name would be another mail to confirm.
    left = deploy.whole(
        {"notify.emails": ["bob@example.com"], "notify.webhooks": ["https://example.com/b"]}
    )
    names = {made.name for made in left.of_type(SUBSCRIPTION)}

    assert len(names) == 2
    assert names < {made.name for made in told.of_type(SUBSCRIPTION)}


def test_two_webhooks_of_a_host_have_two_names(told):
    names = {made.name for made in told.of_type(SUBSCRIPTION)}

    assert len(names) == 4
    assert all(made.parent.endswith("::pushtrain-notices") for made in told.of_type(SUBSCRIPTION))
