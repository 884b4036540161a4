variable "region" {
  description = "Region of the cluster."
  type        = string
  default     = "us-east-1"
  nullable    = false
}

variable "environment" {
  description = "The environment, as in `judge-bootstrap --env ENVIRONMENT`."
  type        = string
  default     = "prod"
  nullable    = false
}

variable "cluster_name" {
  description = "Name of the EKS cluster that the nodes join. It must exist."
  type        = string
  nullable    = false
}

variable "subnet_ids" {
  description = "Private subnets of the cluster's VPC that the nodes are started in."
  type        = list(string)
  nullable    = false
}

variable "sandbox" {
  description = "Whose copy of the environment this is, such as `anna` or `pr-412`. Null for the environment itself."
  type        = string
  default     = "anna"
}

variable "security_group_ids" {
  description = "Security groups of the nodes, the cluster's own among them. Empty for the cluster's own alone."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "capacity_type" {
  description = "`SPOT`, or `ON_DEMAND` for nodes that nobody takes away."
  type        = string
  default     = "SPOT"
  nullable    = false
}

variable "kms_key_arn" {
  description = "KMS key of the root volumes. Null for the account's default key for EBS."
  type        = string
  default     = null
}

variable "judge_node_program" {
  description = "Path of `judge-node.pyz`, which `judge-node program --out FILE` writes."
  type        = string
  nullable    = false
}

variable "hf_token_secret_arn" {
  description = "Secret of AWS Secrets Manager with a Hub token, for a gated model. Null for a public one."
  type        = string
  default     = null
}

variable "vpc_id" {
  description = "The cluster's VPC, in which the nodes reach the mirror through a gateway endpoint."
  type        = string
  nullable    = false
}

variable "route_table_ids" {
  description = "Route tables of the nodes' subnets."
  type        = list(string)
  nullable    = false
}

variable "sns_topic_arns" {
  description = "SNS topics that alarms tell. Empty: alarms are only seen in the console."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "tags" {
  description = "Further tags of everything that is made."
  type        = map(string)
  default     = {}
  nullable    = false
}
