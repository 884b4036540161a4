"""The one thing that a test may miss in CI, too: Terraform, or a way to get the AWS provider."""

from __future__ import annotations

import pytest


class TerraformMissing(pytest.skip.Exception):
    """A skip that CI allows (tests/conftest.py), in tests/terraform alone; everything else that is missing fails there.

    Debian has no package of Terraform or OpenTofu, and the provider is 675 MB that only a registry or a mirror has.
    """
