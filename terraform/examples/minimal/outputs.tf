output "judge_bootstrap" {
  description = "What `judge-bootstrap --env ENVIRONMENT config terraform` reads."
  value       = module.judge_nodes.judge_bootstrap
}
