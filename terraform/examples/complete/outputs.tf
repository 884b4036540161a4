output "judge_bootstrap" {
  description = "What `judge-bootstrap --env ENVIRONMENT config terraform` reads."
  value       = module.judge_nodes.judge_bootstrap
}

output "operator_policy_arn" {
  description = "The policy to attach to whoever runs judge-bootstrap."
  value       = module.judge_nodes.operator_policy_arn
}

output "mirror_url" {
  description = "Where `judge-bootstrap models mirror` puts the models."
  value       = module.judge_nodes.mirror_url
}
