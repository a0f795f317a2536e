"""What Pulumi.prod.yaml turns on, made by the real engine."""


def test_a_production_stack_is_made_and_its_alarms_tell_the_topic(bench):
    wanted = {"network": "private", "customerKey": True, "image.build": False}
    watched = {"metrics": True, "alarms": True, "dashboard": True}
    stack = bench.stack("production", **wanted, **watched)
    stack.create()

    outputs = stack.up().outputs

    alarms = bench.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert {action for alarm in alarms for action in alarm["AlarmActions"]} == {outputs["topic"]}
    assert stack.preview().changes == ()
