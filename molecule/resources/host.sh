#!/bin/bash
# A host for a scenario, without a container: sshd in namespaces of its own (mounts, processes), with a blank disk.
# What is mounted, installed or started on it is seen by nobody else, and goes with it.
#
#     host.sh up DIR       DIR gets: key, port, disk (the loop device), log. Idempotent.
#     host.sh down DIR     ends every process of the host, its mounts and its loop device
set -euo pipefail
verb=$1 dir=$2

up() {
  [ -s "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null && return
  mkdir -p "$dir" && chmod 0700 "$dir"
  [ "$(id -u)" = 0 ] || { echo "Found uid $(id -u); wanted root, for a loop device and namespaces. Next: sudo make" >&2; exit 2; }
  for tool in sshd losetup unshare mkfs.xfs; do
    PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null || { echo "Found no $tool. Next: apt-get install openssh-server util-linux xfsprogs" >&2; exit 2; }
  done
  rm -f "$dir"/key "$dir"/key.pub "$dir"/host_key "$dir"/host_key.pub "$dir"/port
  ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
  ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
  truncate -s 1G "$dir/disk.img"
  losetup --find --show "$dir/disk.img" > "$dir/disk"
  # --kill-child: one KILL of unshare ends the host's first process, and with it all others.
  # setsid: Ansible ends the process group of a task when the task is done.
  # The port: unshare has it open without listening, so that it is given to nobody else before sshd asks for it.
  setsid python3 -c '
import os, socket, sys
held = socket.socket()
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.bind(("127.0.0.1", 0))
held.set_inheritable(True)
with open(sys.argv[1], "w") as port:
    port.write(f"{held.getsockname()[1]}\n")
os.execvp(sys.argv[2], sys.argv[2:])
' "$dir/port" unshare --mount --pid --fork --kill-child --mount-proc "$0" inside "$dir" </dev/null >"$dir/log" 2>&1 &
  echo $! > "$dir/pid"
  for _ in $(seq 600); do
    [ ! -s "$dir/port" ] || break
    sleep 0.1
  done
  printf '[127.0.0.1]:%s %s\n' "$(cat "$dir/port")" "$(cut -d' ' -f1,2 "$dir/host_key.pub")" > "$dir/known_hosts"
  for _ in $(seq 600); do
    ssh -i "$dir/key" -p "$(cat "$dir/port")" -o UserKnownHostsFile="$dir/known_hosts" -o BatchMode=yes root@127.0.0.1 true 2>/dev/null && return
    sleep 0.1
  done
  echo "The host's sshd did not answer; it said:" >&2
  tail -5 "$dir/log" >&2
  exit 1
}

inside() {
  mount --make-rprivate /
  # sshd refuses keys in a folder that others may write.
  mount -t tmpfs -o mode=0755 tmpfs /run
  mkdir -p /run/sshd /run/{local,state}/{upper,work}
  cp "$dir/key.pub" /run/authorized_keys
  # No .bashrc (each ssh command would read it), an empty /mnt, and a /usr/local and /var/lib whose changes vanish with
  # the host.
  [ ! -e ~/.bashrc ] || mount --bind /dev/null ~/.bashrc
  mount -t tmpfs -o mode=0755 tmpfs /mnt
  mount -t overlay -o lowerdir=/usr/local,upperdir=/run/local/upper,workdir=/run/local/work overlay /usr/local
  mount -t overlay -o lowerdir=/var/lib,upperdir=/run/state/upper,workdir=/run/state/work overlay /var/lib
  cat > /run/sshd_config <<CONFIG
Port $(cat "$dir/port")
ListenAddress 127.0.0.1
HostKey $dir/host_key
AuthorizedKeysFile /run/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PidFile none
CONFIG
  exec /usr/sbin/sshd -D -e -f /run/sshd_config
}

down() {
  # Only a process that is still this host: a pid may have been given to another one.
  if [ -s "$dir/pid" ] && tr '\0' ' ' 2>/dev/null < "/proc/$(cat "$dir/pid")/cmdline" | grep -qF "inside $dir"; then
    kill -KILL "$(cat "$dir/pid")"
    while kill -0 "$(cat "$dir/pid")" 2>/dev/null; do sleep 0.05; done
  fi
  # The mount goes with the namespace, a moment after its last process, and the device with the mount. It is detached
  # once, while it is surely ours: by a second time it may have gone, and its number be another's.
  losetup -n -O NAME -j "$dir/disk.img" 2>/dev/null | xargs -r losetup -d 2>/dev/null || true
  for _ in $(seq 600); do
    [ -n "$(losetup -n -O NAME -j "$dir/disk.img" 2>/dev/null)" ] || break
    sleep 0.1
  done
  rm -f "$dir"/{pid,port,disk,disk.img,key,key.pub,host_key,host_key.pub,known_hosts}
}

$verb
