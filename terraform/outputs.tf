output "inventory_filters" {
  description = "Filters by which the `aws_ec2` inventory plugin finds exactly these nodes, running. Null when `enabled` is false."
  value       = local.enabled ? local.inventory_filters : null
}
