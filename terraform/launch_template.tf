module "user_data" {
  source = "./modules/user-data"
  count  = local.enabled ? 1 : 0

  nvme_owner        = var.nvme_owner
  nvme_mount_path   = var.nvme_mount_path
  nvme_strategy     = var.nvme_strategy
  nvme_fstype       = var.nvme_fstype
  nvme_nodeadm_path = var.nvme_nodeadm_path
  nvme_wait_seconds = var.nvme_wait_seconds
  judge_node        = local.judge_node
  taints            = local.registered_taints
  node_config       = var.node_config
}

# EKS attaches the cluster's security group itself only where the launch template says nothing of the network. It does say
# something, to rule out public addresses; so the group is named.
data "aws_eks_cluster" "this" {
  count = local.enabled && length(var.security_group_ids) == 0 ? 1 : 0

  name = var.cluster_name
}

locals {
  security_group_ids = length(var.security_group_ids) > 0 ? var.security_group_ids : compact([
    for cluster in data.aws_eks_cluster.this : one(cluster.vpc_config).cluster_security_group_id
  ])
}

resource "aws_launch_template" "ai" {
  count = local.enabled ? 1 : 0

  name                   = local.name
  description            = "GPU nodes of ${var.cluster_name} that prepare their instance store at first boot"
  update_default_version = true
  user_data              = module.user_data[0].user_data_base64
  key_name               = var.key_name
  tags                   = local.tags

  block_device_mappings {
    device_name = "/dev/xvda" # the root device of every AL2023 image

    ebs {
      volume_type           = "gp3"
      volume_size           = var.disk_size_gib
      encrypted             = true
      kms_key_id            = var.kms_key_arn
      delete_on_termination = true
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = var.imds_hop_limit
  }

  monitoring {
    enabled = var.detailed_monitoring
  }

  network_interfaces {
    device_index                = 0
    associate_public_ip_address = false
    delete_on_termination       = true
    security_groups             = local.security_group_ids
  }

  # The tags of a node group stay on the node group, and so do the provider's default_tags: what EC2 starts for it is
  # tagged from here alone.
  dynamic "tag_specifications" {
    for_each = ["instance", "volume", "network-interface"]

    content {
      resource_type = tag_specifications.value
      tags          = merge(local.tags, { Name = local.name })
    }
  }

  lifecycle {
    precondition {
      condition     = var.judge_node == null || var.judge_node_program == null
      error_message = "Both judge_node and judge_node_program are set: nodes fetch judge-node from one place. Leave one of them out."
    }

    precondition {
      condition = var.nvme_owner != "nodeadm" || !(
        startswith("${var.nvme_mount_path}/", "${var.nvme_nodeadm_path}/") || startswith("${var.nvme_nodeadm_path}/", "${var.nvme_mount_path}/")
      )
      error_message = "nvme_mount_path ${var.nvme_mount_path} and nvme_nodeadm_path ${var.nvme_nodeadm_path} lie in each other: one is a bind mount of the other, and needs a place of its own."
    }

    precondition {
      condition     = !local.startup_taint_twice
      error_message = "taints has ${var.startup_taint_key}, which is startup_taint_key: EKS would put it back on nodes that are ready. Leave it out of taints."
    }
  }
}
