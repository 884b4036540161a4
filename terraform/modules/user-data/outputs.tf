output "user_data" {
  description = "The user data, as text: MIME multi-part with nodeadm's NodeConfig and, with `judge_node`, the first-boot script."
  value       = local.user_data

  precondition {
    condition     = var.nvme_owner != "judge" || var.judge_node != null
    error_message = "nvme_owner is judge, and judge_node is null: it must say where nodes fetch judge-node (url, sha256). `judge-node program --out judge-node.pyz` writes the file."
  }

  precondition {
    condition     = local.size_bytes <= local.most_bytes
    error_message = "The user data has ${local.size_bytes} bytes: it must have at most ${local.most_bytes}, so that EKS's own part fits into EC2's 16384 as well. Shorten node_config."
  }
}

output "user_data_base64" {
  description = "The same in base64, as a launch template takes it."
  value       = local.base64
}

output "node_config" {
  description = "The NodeConfig, as an object."
  value       = local.node_config

  precondition {
    condition     = length(local.node_config_problems) == 0
    error_message = "node_config: ${join("; ", local.node_config_problems)}."
  }
}

output "size_bytes" {
  description = "Bytes of the user data before base64. EC2 takes 16,384 in all."
  value       = local.size_bytes
}
