"""Once per account: a state bucket, a key for secrets, and roles for GitHub's workflows."""
