"""The first-boot script for EC2 user data: it fetches this very program, checked by its hash, and runs `disks ensure`.

The program itself does not fit into the 16 KiB of user data (docs/adr/0004): what fits is its address and its hash. The
script installs a boot unit first, so that a node that cannot fetch it is not ready instead of ready without its disk.

Terraform renders the same script from modules/user-data/templates/first-boot.sh.tftpl, which
scripts/first_boot_template.py writes from here: nothing of it may depend on what Terraform cannot know.
"""

from __future__ import annotations

import hashlib
import re
import shlex

from ..result import NodeError
from .facts import Wanted
from .unit import BOOT_UNIT, INSTALL_PATH, boot_arguments, other_gates, work_seconds

MOST_BYTES = 16_384  # of all user data, before base64 (EC2 User Guide)
_URL = re.compile(r"(https|http|s3)://[!-&(-.0-?A-~][!-&(-~]*")  # no ', which the script quotes it with
# What the tries below take at most: the pauses, and a minute for each.
_FETCH_SECONDS = 900

_SCRIPT = """\
#!/bin/sh
# Written by judge-node. Prepares the local disks before kubelet starts: now, and at every boot.
set -eu
mkdir -p {folder}
cat > {folder}/first-boot.sh <<'END_OF_SCRIPT'
#!/bin/sh
set -eu
program={program}
url={url}
sha256={digest}
# Only what is not there is fetched: a newer program that the playbooks put there stays, and later boots need no
# network. Another version in the launch template comes with new instances, whose root disks are new.
if [ ! -x "$program" ]; then
  fail() {{ echo "<3>SOURCE_UNREACHABLE: $1"; exit 1; }}
  case $url in s3://*) command -v aws >/dev/null || fail "$url needs the aws CLI, which this image lacks" ;; esac
  rm -f "$program".*
  new=$(mktemp "$program.XXXXXX")
  trap 'rm -f "$new"' EXIT
  # A connection that was cut looks like an end: only the hash says that all of it came.
  is_right() {{ echo "$sha256  $new" | sha256sum --check --status; }}
  for pause in 0 1 2 5 10 20 30 60 60 60; do
    sleep "$pause"
    case $url in
      s3://*) timeout 60 aws s3 cp --only-show-errors "$url" "$new" ;;
      *) timeout 60 python3 -c 'import shutil, sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=30) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target)
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")' "$url" "$new" ;;
    esac && is_right && break
    echo "<4>judge-node did not come from $url; it is tried again for some minutes"
  done
  is_right || fail "$(wc -c <"$new") bytes from $url, sha256 $(sha256sum <"$new" | cut -c -64), wanted $sha256"
  chmod 755 "$new"
  sync "$new"
  mv "$new" "$program"
  echo "<6>judge-node came from $url"
fi
exec "$program" {arguments}
END_OF_SCRIPT
chmod 755 {folder}/first-boot.sh
cat > /etc/systemd/system/{unit} <<'END_OF_UNIT'
# Written by the first-boot script; `judge-node disks ensure` puts its own in its place.
[Unit]
Description=Prepare the local disk for model weights
After=systemd-udevd.service local-fs.target network-online.target
Wants=network-online.target
Before=kubelet.service containerd.service{before}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={folder}/first-boot.sh
TimeoutStartSec={timeout}

[Install]
WantedBy=multi-user.target
{required}END_OF_UNIT
systemctl daemon-reload
systemctl reenable {unit}
# cloud-init runs this once: a power cut from here on must find the unit.
sync -f /etc/systemd/system {folder}
{start}
"""
_START = "systemctl start {unit}"
# nodeadm builds after cloud-init has ended, and cloud-init ends when this script has: waiting would be a deadlock.
_START_LATER = "systemctl start --no-block {unit}"


def user_data(wanted: Wanted, url: str, program: bytes) -> str:
    """Return the script. `url` is where `program` can be had (https://, http:// or s3://, without credentials in it).

    Raises NodeError (wrong usage) for another kind of URL.
    """
    return first_boot(wanted, url, hashlib.sha256(program).hexdigest())


def first_boot(wanted: Wanted, url: str, sha256: str) -> str:
    """Return the script that fetches a program with this hash. Raises NodeError for what cannot be in it."""
    if not _URL.fullmatch(url) or "@" in url.split("/")[2]:
        raise NodeError(
            f"--url is {url!r}, wanted https://HOST/PATH or s3://BUCKET/KEY without a user name and without '",
            repair="judge-node program --out judge-node.pyz   # then put it there",
        )
    owner = "judge" if wanted.owner == "auto" else wanted.owner
    arguments = boot_arguments(wanted, owner)
    for word in arguments:
        if not (word.isascii() and word.isprintable()):
            raise NodeError(f"{word!r} is no printable ASCII, which a script in user data has to be")
    return _SCRIPT.format(
        folder=INSTALL_PATH.rpartition("/")[0],
        program=INSTALL_PATH,
        url=f"'{url}'",
        digest=sha256,
        arguments=" ".join(map(shlex.quote, arguments)),
        unit=BOOT_UNIT,
        before=other_gates(wanted),
        timeout=f"{wanted.wait_seconds + work_seconds(wanted) + _FETCH_SECONDS:.0f}",
        required=f"RequiredBy={' '.join(wanted.gates)}\n" if wanted.gates else "",
        start=(_START_LATER if owner == "nodeadm" else _START).format(unit=BOOT_UNIT),
    )
