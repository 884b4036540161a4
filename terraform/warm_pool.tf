# A managed node group's warm pool belongs to EKS: one that the Auto Scaling API makes is undone by the next update of the
# group. The provider knows it since 6.56 (warm_pool_config), and this module takes 5.90 and newer, where the block would be
# an error; so the AWS CLI tells EKS. Whatever is said here is validated, and reaches the shell in its environment only.

locals {
  warm_pool_group = !local.enabled ? null : {
    region     = local.region
    cluster    = var.cluster_name
    node_group = aws_eks_node_group.ai[0].node_group_name
    # What a group is made anew with: then the pool is, too.
    arn = aws_eks_node_group.ai[0].arn
  }
  warm_pool_config = jsonencode({ for key, value in {
    enabled                  = true
    poolState                = try(var.warm_pool.pool_state, null)
    minSize                  = try(var.warm_pool.min_size, null)
    maxGroupPreparedCapacity = try(coalesce(var.warm_pool.max_group_prepared_capacity, var.max_size), null)
    reuseOnScaleIn           = try(var.warm_pool.reuse_on_scale_in, null)
  } : key => value if value != null })
}

# The removal is a resource of its own, so that a change of the pool does not remove it first. It is made before the pool
# and destroyed after it, as everything that depends on it.
resource "terraform_data" "warm_pool_removal" {
  count = local.enabled && var.warm_pool != null ? 1 : 0

  input            = local.warm_pool_group
  triggers_replace = local.warm_pool_group.arn

  provisioner "local-exec" {
    when        = destroy
    interpreter = ["/bin/sh", "-c"]
    environment = {
      REGION     = self.input.region
      CLUSTER    = self.input.cluster
      NODE_GROUP = self.input.node_group
    }
    command = <<-EOT
      said=$(aws eks update-nodegroup-config --region "$REGION" --cluster-name "$CLUSTER" --nodegroup-name "$NODE_GROUP" \
        --warm-pool-config '{"enabled":false}' 2>&1 >/dev/null) || case $said in
        *ResourceNotFoundException*) exit 0 ;;
        *) printf '%s\n' "$said" >&2; exit 1 ;;
      esac
      exec aws eks wait nodegroup-active --region "$REGION" --cluster-name "$CLUSTER" --nodegroup-name "$NODE_GROUP"
    EOT
  }
}

resource "terraform_data" "warm_pool" {
  count = local.enabled && var.warm_pool != null ? 1 : 0

  input            = local.warm_pool_config
  triggers_replace = [local.warm_pool_config, local.warm_pool_group.arn]

  provisioner "local-exec" {
    interpreter = ["/bin/sh", "-c"]
    environment = {
      REGION     = local.warm_pool_group.region
      CLUSTER    = local.warm_pool_group.cluster
      NODE_GROUP = local.warm_pool_group.node_group
      CONFIG     = local.warm_pool_config
    }
    command = <<-EOT
      command -v aws >/dev/null || { echo "warm_pool needs the AWS CLI 2.34 or newer on PATH" >&2; exit 1; }
      aws eks update-nodegroup-config --region "$REGION" --cluster-name "$CLUSTER" --nodegroup-name "$NODE_GROUP" \
        --warm-pool-config "$CONFIG" >/dev/null || exit
      exec aws eks wait nodegroup-active --region "$REGION" --cluster-name "$CLUSTER" --nodegroup-name "$NODE_GROUP"
    EOT
  }

  lifecycle {
    precondition {
      condition     = try(var.warm_pool.pool_state, "STOPPED") != "STOPPED" || var.nvme_owner == "judge"
      error_message = "warm_pool.pool_state is \"STOPPED\" and nvme_owner is \"${var.nvme_owner}\": such instances come back with blank disks, and nodeadm builds its array again only in EKS images since July 2026. Set nvme_owner = \"judge\", or pool_state = \"RUNNING\"."
    }

    precondition {
      condition     = var.capacity_type == "ON_DEMAND"
      error_message = "warm_pool is set and capacity_type is \"${var.capacity_type}\": EC2 keeps no warm pool of Spot instances. Set capacity_type = \"ON_DEMAND\", or warm_pool = null."
    }

    precondition {
      condition     = try(var.warm_pool.max_group_prepared_capacity, null) == null ? true : var.warm_pool.max_group_prepared_capacity >= var.warm_pool.min_size
      error_message = "warm_pool.max_group_prepared_capacity is ${jsonencode(try(var.warm_pool.max_group_prepared_capacity, null))}: it must not be below warm_pool.min_size, which is ${jsonencode(try(var.warm_pool.min_size, null))}."
    }
  }

  depends_on = [terraform_data.warm_pool_removal]
}
