"""docs/security.md gives the reason of each `*` that is left."""

import re
from collections import defaultdict

from policy.rules import WILDCARD_REASONS
from tests.least_privilege.test_roles import ROLES


def test_each_star_has_a_written_reason(root, stack):
    text = (root / "docs" / "security.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w:]+)` \| ([\w, ]+) \| (.+) \|$", text, re.MULTILINE)
    found = defaultdict(list)
    for role in ROLES:
        for document in stack.role(role).values():
            for statement in document["Statement"]:
                if "*" in statement["Resource"]:
                    for action in statement["Action"]:
                        found[action].append(role)

    assert {action: sorted(roles.split(", ")) for action, roles, _ in rows} == {
        action: sorted(roles) for action, roles in found.items()
    }
    assert {*found} == {*WILDCARD_REASONS}
