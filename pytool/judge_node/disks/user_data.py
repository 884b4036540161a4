"""The first-boot script for EC2 user data: it fetches this very program, checked by its hash, and runs `disks ensure`.

The program itself does not fit into the 16 KiB of user data (docs/adr/0004): what fits is its address and its hash. The
script installs a boot unit first, so that a node that cannot fetch it is not ready instead of ready without its disk.
"""

from __future__ import annotations

import hashlib
import re
import shlex

from .. import __version__
from ..result import NodeError
from .facts import Wanted
from .unit import BOOT_UNIT, INSTALL_PATH, boot_arguments

MOST_BYTES = 16_384  # of all user data, before base64 (EC2 User Guide)
_URL = re.compile(r"(https://|http://|s3://)[\x21-\x7e]+")

_SCRIPT = """\
#!/bin/sh
# Written by judge-node {version}. Prepares the local disks before kubelet starts: now, and at every boot.
set -eu
mkdir -p {folder}
cat > {folder}/first-boot.sh <<'END_OF_SCRIPT'
#!/bin/sh
set -eu
program={program}
if [ ! -x "$program" ]; then
  url={url}
  new=$(mktemp "$program.XXXXXX")
  trap 'rm -f "$new"' EXIT
  for pause in 1 2 5 10 20 0; do
    case "$url" in
      s3://*) aws s3 cp --only-show-errors "$url" "$new" && break ;;
      *) python3 -c 'import shutil, sys, urllib.request as r
with r.urlopen(sys.argv[1], timeout=60) as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target)' "$url" "$new" && break ;;
    esac
    sleep "$pause"
  done
  echo "{digest}  $new" | sha256sum --check --quiet || {{
    echo "<3>SOURCE_UNREACHABLE: what came from $url is not judge-node {version} (sha256 {short}...), or nothing came"
    exit 1
  }}
  chmod 755 "$new"
  sync "$new"
  mv "$new" "$program"
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
Before=kubelet.service containerd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={folder}/first-boot.sh
TimeoutStartSec=1200

[Install]
WantedBy=multi-user.target
{required}END_OF_UNIT
systemctl daemon-reload
systemctl reenable {unit}
systemctl start {unit}
"""


def user_data(wanted: Wanted, url: str, program: bytes) -> str:
    """Return the script. `url` is where `program` can be had (https://, http:// or s3://, without credentials in it).

    Raises NodeError (wrong usage) for another kind of URL.
    """
    if not _URL.fullmatch(url) or "@" in url.split("/")[2]:
        raise NodeError(
            f"--url is {url!r}, wanted https://HOST/PATH or s3://BUCKET/KEY without a user name",
            repair="judge-node program --out judge-node.pyz   # then put it there",
        )
    digest = hashlib.sha256(program).hexdigest()
    owner = "judge" if wanted.owner == "auto" else wanted.owner
    return _SCRIPT.format(
        version=__version__,
        folder=INSTALL_PATH.rpartition("/")[0],
        program=INSTALL_PATH,
        url=shlex.quote(url),
        digest=digest,
        short=digest[:12],
        arguments=" ".join(map(shlex.quote, boot_arguments(wanted, owner))),
        unit=BOOT_UNIT,
        required=f"RequiredBy={' '.join(wanted.gates)}\n" if wanted.gates else "",
    )
