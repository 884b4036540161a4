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
