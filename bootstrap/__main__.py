"""The Pulumi program: read the settings, make the account ready, tell GitHub's side of it."""

import pulumi

from bootstrap.account import Account
from bootstrap.settings import Settings

account = Account("bootstrap", Settings.load())
for name, value in account.outputs.items():
    pulumi.export(name, value)
