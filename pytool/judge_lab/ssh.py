"""The lab's ssh keys: one for the operator, one for each node, and the known_hosts file that names them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from judge_lab.layout import Layout
from judge_lab.process import run
from judge_lab.state import NodeState


def ensure_operator_key(layout: Layout) -> None:
    layout.ssh.mkdir(parents=True, exist_ok=True, mode=0o700)
    ensure_key(layout.ssh / "id_ed25519", "judge-lab operator")


def prepare_node(layout: Layout, node: NodeState) -> None:
    """Write what the node's sshd reads: its host key, its configuration and the one key it accepts."""
    folder = layout.node(node.name) / "etc"
    folder.mkdir(parents=True, exist_ok=True)
    ensure_key(folder / "ssh_host_ed25519_key", node.name)
    (folder / "authorized_keys").write_text((layout.ssh / "id_ed25519.pub").read_text())
    (folder / "sshd_config").write_text(f"""\
HostKey {NODE_ETC}/ssh_host_ed25519_key
AuthorizedKeysFile {NODE_ETC}/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PidFile none
Subsystem sftp internal-sftp
# A run opens many connections at once; the defaults would drop some of them.
MaxStartups 200:30:400
MaxSessions 100
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
""")


def write_known_hosts(layout: Layout, nodes: Iterable[NodeState]) -> None:
    """Write known_hosts for exactly these nodes."""
    lines = []
    for node in nodes:
        kind, key = (layout.node(node.name) / "etc" / "ssh_host_ed25519_key.pub").read_text().split()[:2]
        lines.append(f"{node.address},{node.name} {kind} {key}\n")
    staging = layout.ssh / "known_hosts.new"
    staging.write_text("".join(lines))
    staging.replace(layout.ssh / "known_hosts")


def ensure_key(path: Path, comment: str) -> None:
    """Make the key pair at `path` unless it is there."""
    if not path.with_suffix(".pub").exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)


# Where a node's own configuration lies as the node sees it.
NODE_ETC = "/run/judge-lab/etc"
