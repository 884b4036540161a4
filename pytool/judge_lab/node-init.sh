#!/bin/bash
# The first process of a lab node: makes the node's own view of the machine, then keeps the node's services running.
# Runs in new mount, uts and pid namespaces and in the node's network namespace.
#   node-init.sh NAME NODE_DIR KUBE_DIR|- VLLM_DIR|- LOOP_MINOR|- STABLE_NAME IMAGE_DIR|-
# It lies in a package folder that the mounts below may cover, so bash must have read it whole: hence main().
main() {
set -eu
local name=$1 node=$2 kube=$3 vllm=$4 minor=$5 stable=$6 image=$7
local lab=/run/judge-lab

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p $lab/etc $lab/bin $lab/vllm $lab/image $lab/dev /run/sshd /run/lock /run/judge-bootstrap
# All processes of this node can be seen from here, which judge-node could not know of a PID namespace by itself.
readlink /proc/self/ns/pid >/run/judge-bootstrap/pid-namespace
mount --bind "$node/etc" $lab/etc
if [ "$kube" != - ]; then mount --bind -o ro "$kube" $lab/bin; fi
if [ "$vllm" != - ]; then mount --bind -o ro "$vllm" $lab/vllm; fi
if [ "$image" != - ]; then mount --bind -o ro "$image" $lab/image; fi

# /dev: the usual files and the node's own disk. Other nodes' disks and the host's cannot even be named.
mount -t tmpfs -o mode=755,size=1m tmpfs $lab/dev
local file
while read -r file mode major number; do mknod -m "$mode" "$lab/dev/$file" c "$major" "$number"; done <<'NODES'
null 666 1 3
zero 666 1 5
full 666 1 7
random 666 1 8
urandom 666 1 9
kmsg 644 1 11
tty 666 5 0
fuse 666 10 229
NODES
mkdir -p $lab/dev/pts $lab/dev/shm $lab/dev/mqueue $lab/dev/disk/by-id
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts $lab/dev/pts
mount -t tmpfs -o mode=1777 tmpfs $lab/dev/shm
ln -s pts/ptmx $lab/dev/ptmx
ln -s /proc/self/fd $lab/dev/fd
ln -s /proc/self/fd/0 $lab/dev/stdin
ln -s /proc/self/fd/1 $lab/dev/stdout
ln -s /proc/self/fd/2 $lab/dev/stderr
if [ "$minor" != - ]; then
  mknod -m 660 "$lab/dev/loop$minor" b 7 "$minor"
  ln -s "../../loop$minor" "$lab/dev/disk/by-id/$stable"
fi
mount --move $lab/dev /dev

# The node's own directories. /root and /tmp come last: what is bound above may lie below them.
local own
for own in mnt var/lib/judge-node var/lib/kubelet var/lib/containerd var/lib/cni var/log etc/cni etc/systemd/system usr/local tmp root; do
  mkdir -p "$node/fs/$own"
  if [ ! -d "/$own" ]; then continue; fi      # made on the host beforehand; see node.py
  mount --bind "$node/fs/$own" "/$own"
done
chmod 1777 /tmp
mkdir -p /usr/local/{bin,sbin,lib,etc,share,src,include} /var/log/pods /root/.ssh
chmod 700 /root /root/.ssh
# Mounts made later in the node (over ssh: the instance store) must reach its pods.
mount --make-rshared /

hostname "$name"
echo 1 >/proc/sys/net/ipv4/ip_forward
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
cd /

supervise sshd /usr/sbin/sshd -D -e -f $lab/etc/sshd_config &
if [ "$kube" != - ]; then
  supervise containerd containerd --config $lab/etc/containerd.toml &
  until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done
  # kubelet's options name the instance, which the lab may have to write anew: read at every start.
  supervise kubelet /bin/sh -c "xargs -d '\n' $lab/bin/kubelet <$lab/etc/kubelet.args" &
  supervise kube-proxy $lab/bin/kube-proxy --config $lab/etc/kube-proxy.yaml &
fi
wait
}

# What systemd does on a real node: start it again when it ends.
supervise() {
  local service=$1
  shift
  while :; do
    local code=0
    "$@" >>"/var/log/$service.log" 2>&1 </dev/null || code=$?
    echo "$service ended with $code, starting it again" >>"/var/log/$service.log"
    sleep 1
  done
}

main "$@"
exit
