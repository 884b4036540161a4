output "judge_bootstrap" {
  description = <<-EOT
    What `judge-bootstrap --env ENVIRONMENT config terraform` reads: where the nodes are, what the inventory filters on, and
    values of the playbooks' variables by their own names. Another shape has another number in `schema`. Null when `enabled` is false.
  EOT
  value = local.enabled ? {
    schema       = 1
    region       = data.aws_region.current.id
    environment  = var.environment
    cluster_name = var.cluster_name
    node_group = {
      name                    = aws_eks_node_group.ai[0].node_group_name
      launch_template_id      = aws_launch_template.ai[0].id
      launch_template_version = aws_launch_template.ai[0].latest_version
      autoscaling_group_names = local.autoscaling_group_names
    }
    inventory_filters = local.inventory_filters
    appconfig         = local.appconfig
    variables         = local.role_variables
  } : null
}

output "node_group_name" {
  description = "Name of the node group, which every instance of it carries as the tag `eks:nodegroup-name`."
  value       = one(aws_eks_node_group.ai[*].node_group_name)
}

output "node_group_arn" {
  description = "ARN of the node group."
  value       = one(aws_eks_node_group.ai[*].arn)
}

output "autoscaling_group_names" {
  description = "Names of the Auto Scaling groups that EKS made for the node group."
  value       = local.enabled ? local.autoscaling_group_names : null
}

output "launch_template_id" {
  description = "Id of the launch template. EKS starts nodes from a copy of its own, whose user data also has the cluster's part."
  value       = one(aws_launch_template.ai[*].id)
}

output "launch_template_version" {
  description = "The version of the launch template that the node group is on: a new one rolls every node."
  value       = one(aws_launch_template.ai[*].latest_version)
}

output "node_role_arn" {
  description = "ARN of the nodes' role. EKS itself lets it join the cluster."
  value       = local.enabled ? local.node_role_arn : null
}

output "operator_policy_arn" {
  description = "ARN of the policy for whoever runs judge-bootstrap. Null when none is made."
  value       = one(aws_iam_policy.operator[*].arn)
}

output "mirror_bucket" {
  description = "Name of the mirror's bucket. Null when there is none."
  value       = one(aws_s3_bucket.mirror[*].bucket)
}

output "mirror_url" {
  description = "Where `judge-bootstrap models mirror` puts models (`model_cache_mirror`), as s3://BUCKET/PREFIX. Null when there is no mirror."
  value       = try(local.mirror.s3_url, null)
}

output "appconfig" {
  description = "Ids of the AppConfig application, environment and profile. Null when there are none."
  value       = local.appconfig
}

output "inventory_filters" {
  description = "Filters by which the `aws_ec2` inventory plugin finds exactly these nodes, running. Null when `enabled` is false."
  value       = local.enabled ? local.inventory_filters : null
}

output "user_data_bytes" {
  description = "Size of the launch template's user data before base64. EC2 allows 16384 bytes, and EKS adds its own part."
  value       = one(module.user_data[*].size_bytes)
}
