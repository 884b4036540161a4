"""Who we are to AWS."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from judge_bootstrap.adapters.bounded import within
from judge_bootstrap.core.checks import Identity
from judge_bootstrap.core.problems import one_line

CALL_SECONDS = 12.0


class AwsUnavailable(Exception):
    """AWS gave no answer to the question who we are. The message is one line."""


def read_identity(region: str) -> Identity:
    """Return the identity behind the credentials that boto3 finds. Raises AwsUnavailable."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return within(CALL_SECONDS, lambda: _read_identity(region))
    # ValueError: boto3 refuses an endpoint such as AWS_ENDPOINT_URL=nonsense before it builds a client.
    except (ClientError, BotoCoreError, TimeoutError, OSError, ValueError) as error:
        raise AwsUnavailable(one_line(error)) from error


def _read_identity(region: str) -> Identity:
    import boto3
    from botocore.config import Config

    limits = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1})
    answer = boto3.session.Session().client("sts", region_name=region, config=limits).get_caller_identity()
    now = time.time()
    date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    try:
        offset = now - parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        offset = None
    return Identity(str(answer["Arn"]), offset)
