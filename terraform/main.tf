data "aws_region" "current" {}

data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}

locals {
  enabled = var.enabled

  # One name for everything of this copy of the environment: two sandboxes never meet.
  name = join("-", compact(["judge", var.environment, var.sandbox, "ai"]))

  # A sandbox is an environment of its own to the inventory: EC2's filters cannot say "without the tag Sandbox", and
  # `--env prod` must not find the nodes of prod's sandboxes.
  inventory_environment = join("-", compact([var.environment, var.sandbox]))

  tags = merge(
    var.tags,
    {
      Environment = local.inventory_environment
      ManagedBy   = "terraform"
      role        = var.node_role_label
    },
    var.sandbox == null ? {} : { Sandbox = var.sandbox },
  )
}

locals {
  # What distinguishes these nodes from every other instance of the account; EKS sets the last tag itself.
  inventory_filters = merge(
    {
      "instance-state-name"  = "running"
      "tag:Environment"      = local.inventory_environment
      "tag:role"             = var.node_role_label
      "tag:eks:cluster-name" = var.cluster_name
    },
    var.sandbox == null ? {} : { "tag:Sandbox" = var.sandbox },
  )
}

locals {
  # Where nodes fetch judge-node.pyz: from an address of yours, or from the mirror, where mirror.tf puts the file.
  judge_node = var.judge_node_program == null ? var.judge_node : {
    url    = local.program_url
    sha256 = local.program_sha256
  }

  autoscaling_group_names = flatten([
    for group in aws_eks_node_group.ai : [for resources in group.resources : resources.autoscaling_groups[*].name]
  ])

  # Variables of the Ansible roles, by their names there. What is null is left out: the roles' own defaults hold.
  role_variables = { for name, value in {
    nvme_owner               = var.nvme_owner
    nvme_mount_path          = var.nvme_mount_path
    nvme_strategy            = var.nvme_strategy
    nvme_fstype              = var.nvme_fstype
    nvme_nodeadm_path        = var.nvme_nodeadm_path
    nvme_wait_seconds        = var.nvme_wait_seconds
    model_cache_dir          = "${var.nvme_mount_path}/hub"
    model_cache_mirror       = local.mirror == null ? null : local.mirror.s3_url
    model_cache_sources      = try(local.mirror.https_url, null) == null ? null : [local.mirror.https_url]
    model_cache_token_secret = var.hf_token_secret_arn
    model_cache_aws_region   = var.hf_token_secret_arn == null ? null : split(":", var.hf_token_secret_arn)[3]
    vllm_k8s_node_selector   = { role = var.node_role_label }
    vllm_k8s_node_taint      = var.register_with_startup_taint ? var.startup_taint_key : null
    vllm_k8s_tolerations     = [for taint in local.taints : merge(taint, { operator = "Equal" })]
  } : name => value if value != null }
}
