"""Owns how the tests fill in the documented policies: the very files of contrib/policies, nothing beside them.

Must never: contain a policy of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).resolve().parents[2] / "contrib" / "policies"
PREFIX = "s3-prefix"
APPEND_ONLY = "s3-prefix-append-only"
IAM = "s3-prefix-iam"
LIFECYCLE = "s3-lifecycle"


def text_of(name: str) -> str:
    """Return a policy as it is documented."""
    return (DIRECTORY / f"{name}.json").read_text()


def filled_in(name: str, *, bucket: str, prefix: str, user: str) -> dict[str, Any]:
    """Return a policy with its placeholders filled in for Ceph, which has no account numbers."""
    text = text_of(name)
    for placeholder, value in {"BUCKET": bucket, "PREFIX": prefix, "USER": user, "ACCOUNT": ""}.items():
        text = text.replace(placeholder, value)
    return dict(json.loads(text))


def joined(policies: Iterable[dict[str, Any]]) -> str:
    """Return the policy of a bucket that several accounts share: all their statements, as JSON."""
    statements = [statement for policy in policies for statement in policy["Statement"]]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})
