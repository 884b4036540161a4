"""The array that nodeadm builds of a node's instance stores, as a shell script.

As the EKS AMI's setup-local-disks does it (awslabs/amazon-eks-ami, templates/al2023/runtime/bin/setup-local-disks).
"""

from __future__ import annotations

# $A and $B are the disks, $dir is localStorage.mountPath; whoever runs it brings `wait_for` and `fail`. At a later boot
# it finds what there is. That a note without its array counts for nothing is so since July 2026 (amazon-eks-ami #2755):
# an older image fails after a stop and start, and its node does not join. And since systemd knows no device by
# "UUID=..." in a unit, the mount does not wait for the array: at a reboot it often fails, until this starts it again.
ARRAY = r"""
mkdir -p /.aws $dir/0
if [ ! -s /.aws/mdadm.conf ] || ! mdadm --detail --scan | grep -q ARRAY; then
  mdadm --create --force --verbose /dev/md/kubernetes --level=0 --name=kubernetes --raid-devices=2 $A $B 2>/dev/null
  wait_for '[ -e /dev/md/kubernetes ]'
  mdadm --detail --scan > /.aws/mdadm.conf
fi
array=$(find /dev/md -type l -regex '.*/kubernetes_?[0-9a-z]*$' | tail -n 1)
[ -n "$(lsblk -no FSTYPE $array)" ] || mkfs.xfs -q -K -l su=8b $array 2>/dev/null || fail mkfs
uuid=$(blkid -s UUID -o value $array)
unit=$(systemd-escape --path --suffix=mount $dir/0)
cat > "/etc/systemd/system/$unit" <<EOF
[Unit]
Description=Mount EC2 Instance Store NVMe disk RAID0
[Mount]
What=UUID=$uuid
Where=$dir/0
Type=xfs
Options=defaults,noatime
[Install]
WantedBy=multi-user.target
EOF
systemctl daemon-reload && systemctl enable -q --now "$unit" || fail unit
"""
