data "aws_region" "current" {}

data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}

locals {
  enabled = var.enabled

  # One name for everything of this copy of the environment: two sandboxes never meet.
  name = join("-", compact(["judge", var.environment, var.sandbox, "ai"]))

  tags = merge(
    var.tags,
    {
      Environment = var.environment
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
      "tag:Environment"      = var.environment
      "tag:role"             = var.node_role_label
      "tag:eks:cluster-name" = var.cluster_name
    },
    var.sandbox == null ? {} : { "tag:Sandbox" = var.sandbox },
  )
}
