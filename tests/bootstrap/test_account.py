"""What an account's bootstrap makes, whom it trusts, and what it tells."""

import pytest

NAMES = {
    "bootstrap": "pushtrain:bootstrap:Account",
    "bootstrap-deploy-dev": "aws:iam/role:Role",
    "bootstrap-deploy-prod": "aws:iam/role:Role",
    "bootstrap-github": "aws:iam/openIdConnectProvider:OpenIdConnectProvider",
    "bootstrap-image": "aws:iam/role:Role",
    "bootstrap-preview": "aws:iam/role:Role",
    "bootstrap-secrets-alias": "aws:kms/alias:Alias",
    "bootstrap-secrets-key": "aws:kms/key:Key",
    "bootstrap-state": "aws:s3/bucket:Bucket",
    "bootstrap-state-encryption": "aws:s3/bucketServerSideEncryptionConfiguration:"
    "BucketServerSideEncryptionConfiguration",
    "bootstrap-state-lifecycle": "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
    "bootstrap-state-ownership": "aws:s3/bucketOwnershipControls:BucketOwnershipControls",
    "bootstrap-state-private": "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
    "bootstrap-state-tls-only": "aws:s3/bucketPolicy:BucketPolicy",
    "bootstrap-state-versioning": "aws:s3/bucketVersioning:BucketVersioning",
}
PROVIDER = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
SUBJECTS = {
    "preview": [
        "repo:octo/mnist:pull_request",
        "repo:octo@123456/mnist@456789:pull_request",
        "repo:octo/mnist:ref:refs/heads/main",
        "repo:octo@123456/mnist@456789:ref:refs/heads/main",
    ],
    "image": [
        "repo:octo/mnist:ref:refs/heads/main",
        "repo:octo@123456/mnist@456789:ref:refs/heads/main",
    ],
    "deploy-dev": [
        "repo:octo/mnist:environment:dev",
        "repo:octo@123456/mnist@456789:environment:dev",
    ],
    "deploy-prod": [
        "repo:octo/mnist:environment:prod",
        "repo:octo@123456/mnist@456789:environment:prod",
    ],
}


GRANTS = {
    "aws:iam/policy:Policy": {
        "bootstrap-deploy-dev-keys",
        "bootstrap-deploy-dev-network",
        "bootstrap-deploy-dev-roles",
        "bootstrap-deploy-dev-stack",
        "bootstrap-deploy-dev-state",
        "bootstrap-deploy-prod-keys",
        "bootstrap-deploy-prod-network",
        "bootstrap-deploy-prod-roles",
        "bootstrap-deploy-prod-stack",
        "bootstrap-deploy-prod-state",
        "bootstrap-image-push",
        "bootstrap-look",
        "bootstrap-preview-runs",
        "bootstrap-preview-state",
        "bootstrap-work-boundary",
        "bootstrap-workflow-boundary",
    },
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": {
        "bootstrap-deploy-dev-keys-attachment",
        "bootstrap-deploy-dev-look-attachment",
        "bootstrap-deploy-dev-network-attachment",
        "bootstrap-deploy-dev-roles-attachment",
        "bootstrap-deploy-dev-stack-attachment",
        "bootstrap-deploy-dev-state-attachment",
        "bootstrap-deploy-prod-keys-attachment",
        "bootstrap-deploy-prod-look-attachment",
        "bootstrap-deploy-prod-network-attachment",
        "bootstrap-deploy-prod-roles-attachment",
        "bootstrap-deploy-prod-stack-attachment",
        "bootstrap-deploy-prod-state-attachment",
        "bootstrap-image-push-attachment",
        "bootstrap-preview-look-attachment",
        "bootstrap-preview-runs-attachment",
        "bootstrap-preview-state-attachment",
    },
}


def test_resources_are_these(account):
    others = {made.name: made.typ for made in account.registrations if made.typ not in GRANTS}

    assert others == NAMES
    for typ, names in GRANTS.items():
        assert {made.name for made in account.of_type(typ)} == names


def test_every_resource_belongs_to_the_account(account):
    (component,) = (made.urn for made in account.registrations if not made.custom)

    assert {made.parent for made in account.registrations if made.custom} == {component}


@pytest.mark.parametrize("role", SUBJECTS)
def test_a_role_trusts_exactly_these_subjects(account, role):
    assert account.document(f"bootstrap-{role}", "assumeRolePolicy") == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "GitHub",
                "Effect": "Allow",
                "Principal": {"Federated": PROVIDER},
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": {
                    "StringEquals": {
                        "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
                        "token.actions.githubusercontent.com:sub": SUBJECTS[role],
                    }
                },
            }
        ],
    }


def test_there_is_no_other_role(account):
    roles = account.of_type("aws:iam/role:Role")

    assert {made.name.removeprefix("bootstrap-") for made in roles} == set(SUBJECTS)


def test_no_trust_has_a_wildcard(account):
    for made in account.of_type("aws:iam/role:Role"):
        assert not set("*?") & set(made.inputs["assumeRolePolicy"])


def test_the_identity_provider_is_githubs(account):
    assert account.inputs("bootstrap-github") == {
        "url": "https://token.actions.githubusercontent.com",
        "clientIdLists": ["sts.amazonaws.com"],
    }


def test_a_provider_that_is_there_is_used_as_it_is(bootstrap):
    theirs = PROVIDER.replace("123456789012", "210987654321")
    adopted = bootstrap(oidcProvider=theirs)

    assert not adopted.of_type("aws:iam/openIdConnectProvider:OpenIdConnectProvider")
    for role in SUBJECTS:
        (statement,) = adopted.document(f"bootstrap-{role}", "assumeRolePolicy")["Statement"]
        assert statement["Principal"] == {"Federated": theirs}


def test_what_stacks_depend_on_outlives_the_program(account):
    kept = {"bootstrap-state", "bootstrap-secrets-key", "bootstrap-github"}

    assert {made.name for made in account.registrations if made.protect} == kept
    assert {made.name for made in account.registrations if made.retain_on_delete} == kept


def test_the_state_is_versioned_encrypted_and_private(account):
    bucket = "bootstrap-state-0a1b2c3"
    closed = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")

    assert "forceDestroy" not in account.inputs("bootstrap-state")
    assert account.inputs("bootstrap-state-versioning") == {
        "bucket": bucket,
        "versioningConfiguration": {"status": "Enabled"},
    }
    assert account.inputs("bootstrap-state-encryption") == {
        "bucket": bucket,
        "rules": [{"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}],
    }
    assert account.inputs("bootstrap-state-private") == {
        "bucket": bucket,
        **dict.fromkeys(closed, True),
    }
    assert account.inputs("bootstrap-state-ownership") == {
        "bucket": bucket,
        "rule": {"objectOwnership": "BucketOwnerEnforced"},
    }


def test_the_state_is_reached_over_tls_only(account):
    arn = "arn:aws:s3:::bootstrap-state-0a1b2c3"

    assert account.document("bootstrap-state-tls-only", "policy") == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }


def test_old_states_are_kept_for_a_quarter(account):
    assert account.inputs("bootstrap-state-lifecycle")["rules"] == [
        {
            "id": "old-versions",
            "status": "Enabled",
            "filter": {"prefix": ""},
            "noncurrentVersionExpiration": {"noncurrentDays": 90},
            "expiration": {"expiredObjectDeleteMarker": True},
        },
        {
            "id": "unfinished-uploads",
            "status": "Enabled",
            "filter": {"prefix": ""},
            "abortIncompleteMultipartUpload": {"daysAfterInitiation": 7},
        },
    ]


def test_the_key_rotates_and_the_account_decides_who_uses_it(account):
    key = account.inputs("bootstrap-secrets-key")

    assert key["enableKeyRotation"] is True
    assert key["deletionWindowInDays"] == 30
    assert account.document("bootstrap-secrets-key", "policy") == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "PoliciesOfTheAccountDecide",
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
    assert account.inputs("bootstrap-secrets-alias") == {
        "name": "alias/bootstrap-secrets",
        "targetKeyId": "0123abcd",
    }


def test_outputs_are_what_github_has_to_know(account):
    role = "arn:aws:iam::123456789012:role/bootstrap"
    state = "s3://bootstrap-state-0a1b2c3?region=us-east-1"
    secrets = "awskms://alias/bootstrap-secrets?region=us-east-1"

    assert {name: export.value for name, export in account.exports.items()} == {
        "stateBucket": "bootstrap-state-0a1b2c3",
        "state": state,
        "secretsProvider": secrets,
        "previewRole": f"{role}-preview-0a1b2c3",
        "imageRole": f"{role}-image-0a1b2c3",
        "deployRoles": {
            "dev": f"{role}-deploy-dev-0a1b2c3",
            "prod": f"{role}-deploy-prod-0a1b2c3",
        },
        "permissionsBoundary": "arn:aws:iam::123456789012:policy/bootstrap-work-boundary-0a1b2c3",
        "commands": [
            "gh variable set AWS_REGION --repo octo/mnist --body us-east-1",
            f"gh variable set PUSHTRAIN_STATE --repo octo/mnist --body '{state}'",
            f"gh variable set PUSHTRAIN_SECRETS_PROVIDER --repo octo/mnist --body '{secrets}'",
            (
                "gh variable set PUSHTRAIN_PREVIEW_ROLE --repo octo/mnist "
                f"--body {role}-preview-0a1b2c3"
            ),
            f"gh variable set PUSHTRAIN_IMAGE_ROLE --repo octo/mnist --body {role}-image-0a1b2c3",
            (
                "gh variable set PUSHTRAIN_DEPLOY_ROLE --repo octo/mnist --env dev "
                f"--body {role}-deploy-dev-0a1b2c3"
            ),
            (
                "gh variable set PUSHTRAIN_DEPLOY_ROLE --repo octo/mnist --env prod "
                f"--body {role}-deploy-prod-0a1b2c3"
            ),
        ],
    }
    assert not [name for name, export in account.exports.items() if export.secret]
