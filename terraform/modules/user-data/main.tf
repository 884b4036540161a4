locals {
  given_spec = try({ for key, value in local.given.spec : key => value }, {})

  # `for` with a condition instead of `?:`, whose two results must have one type.
  kubelet_config = merge(
    try({ for key, value in local.given_spec.kubelet.config : key => value }, {}),
    { for key, value in { registerWithTaints = var.taints } : key => value if length(var.taints) > 0 },
  )
  kubelet = merge(
    try({ for key, value in local.given_spec.kubelet : key => value }, {}),
    { for key, value in { config = local.kubelet_config } : key => value if length(local.kubelet_config) > 0 },
  )

  # nodeadm's own default is left out: an EKS AMI that does not know the key yet behaves the same.
  local_storage = merge(
    { strategy = var.nvme_strategy },
    { for key, value in { mountPath = var.nvme_nodeadm_path } : key => value if value != "/mnt/k8s-disks" },
  )
  instance = merge(
    try({ for key, value in local.given_spec.instance : key => value }, {}),
    { for key, value in { localStorage = local.local_storage } : key => value if var.nvme_owner == "nodeadm" },
  )

  # Without `cluster`: EKS adds a part with it when it makes its own copy of the launch template.
  node_config = {
    apiVersion = "node.eks.aws/v1alpha1"
    kind       = "NodeConfig"
    spec = merge(local.given_spec, {
      for key, value in { kubelet = local.kubelet, instance = local.instance } : key => value if length(value) > 0
    })
  }

  script = var.judge_node == null ? "" : templatefile("${path.module}/templates/first-boot.sh.tftpl", {
    judge_node        = var.judge_node
    nvme_owner        = var.nvme_owner
    nvme_mount_path   = var.nvme_mount_path
    nvme_strategy     = var.nvme_strategy
    nvme_fstype       = var.nvme_fstype
    nvme_nodeadm_path = var.nvme_nodeadm_path
    nvme_wait_seconds = var.nvme_wait_seconds
  })

  # The newline before a boundary belongs to it: each part is followed by one more than its text has.
  boundary = "judge-bootstrap-part"
  parts = concat(
    ["Content-Type: application/node.eks.aws\n\n${yamlencode(local.node_config)}"],
    var.judge_node == null ? [] : [
      "Content-Type: text/x-shellscript; charset=\"us-ascii\"\nContent-Disposition: attachment; filename=\"judge-node-first-boot.sh\"\n\n${local.script}",
    ],
  )
  user_data = join("", concat(
    ["MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"${local.boundary}\"\n"],
    [for part in local.parts : "\n--${local.boundary}\n${part}"],
    ["\n--${local.boundary}--\n"],
  ))

  # EC2 takes 16,384 bytes before base64; what EKS adds (the cluster's certificate, labels, flags) must find room.
  most_bytes = 12288
  # Base64 is as long as the bytes say, while length() counts characters.
  size_bytes = length(local.base64) / 4 * 3 - length(regex("=*$", local.base64))
  base64     = base64encode(local.user_data)
}
