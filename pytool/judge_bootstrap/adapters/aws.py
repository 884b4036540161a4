"""Who we are to AWS, and every way in which boto3 says that AWS cannot be asked."""

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
    try:
        return within(CALL_SECONDS, lambda: _read_identity(region))
    except call_errors() as error:
        raise AwsUnavailable(one_line(error)) from error


def read_secret(region: str, name: str) -> str:
    """Return the value of a secret in AWS Secrets Manager, a text. Raises AwsUnavailable, which shows nothing of it."""
    try:
        return within(CALL_SECONDS, lambda: _read_secret(region, name))
    except call_errors() as error:
        raise AwsUnavailable(one_line(error)) from error


def call_errors() -> tuple[type[Exception], ...]:
    """Return what a boto3 call raises when AWS cannot be asked, denies, or answers something that is not its protocol.

    Beside botocore's two families: its parser's own error (a proxy's page instead of XML), urllib3's for a body that is
    cut or badly packed, LookupError for a member that is missing, ValueError for an endpoint that is no URL, and
    what the parser trips over when the answer is JSON of another shape (AttributeError, TypeError).
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return (ClientError, BotoCoreError, ResponseParserError, HTTPError, TimeoutError, OSError, LookupError, ValueError,
            AttributeError, TypeError)


def _read_secret(region: str, name: str) -> str:
    import boto3
    from botocore.config import Config

    limits = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2})
    answer = boto3.session.Session().client("secretsmanager", region_name=region, config=limits).get_secret_value(
        SecretId=name)
    if "SecretString" not in answer:
        raise ValueError("it holds bytes, wanted a text")
    return str(answer["SecretString"])


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
