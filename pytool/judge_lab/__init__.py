"""The site in a box behind `--env local`: AWS, model hub, nodes and Kubernetes on one machine (DESIGN.md section 7).

Needs root. Nothing imports this package but the `lab` command and the tests.
"""

from __future__ import annotations

from judge_bootstrap.core.errors import BootstrapError


class LabError(BootstrapError):
    """A known failure of the lab: what was found and what was wanted, with the next command as `hint`."""
