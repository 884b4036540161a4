"""Where the Ansible content (playbooks, roles, inventory, ansible.cfg) lies: the packaged copy, or the checkout."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from judge_bootstrap.core.errors import UsageProblem

ENV_VAR = "JUDGE_BOOTSTRAP_CONTENT_ROOT"


def content_root() -> Path:
    """Return the absolute directory that holds `playbooks/`, `roles/`, `inventory/` and `ansible.cfg`.

    Raises UsageProblem, naming every place that was tried, when there is none.
    """
    override = os.environ.get(ENV_VAR)
    if override:
        root = Path(override).resolve()
        if not (root / "playbooks").is_dir():
            raise UsageProblem(
                f"{ENV_VAR} is {override!r}, which has no playbooks/ folder",
                hint=f"unset {ENV_VAR}, or point it at a checkout of judge-bootstrap",
            )
        return root
    package = Path(str(resources.files("judge_bootstrap")))
    packaged, checkout = package / "_ansible", package.parent.parent
    for root in (packaged, checkout):
        if (root / "playbooks").is_dir():
            return root
    raise UsageProblem(
        f"no playbooks found: {ENV_VAR} is not set, and neither {packaged} nor {checkout} has playbooks/",
        hint=f"reinstall judge-bootstrap, or set {ENV_VAR}",
    )


def is_packaged(path: Path) -> bool:
    """Tell whether `path` lies in the content that a wheel brought, which the next installation replaces."""
    return path.resolve().is_relative_to(Path(str(resources.files("judge_bootstrap"))).resolve() / "_ansible")
