provider "aws" {
  region = var.region
}

module "judge_nodes" {
  source = "../.."

  environment        = var.environment
  sandbox            = var.sandbox
  cluster_name       = var.cluster_name
  subnet_ids         = var.subnet_ids
  security_group_ids = var.security_group_ids
  tags               = var.tags

  # Types with one GPU each, so that the autoscaler plans with what it gets.
  capacity_type  = var.capacity_type
  instance_types = ["g5.xlarge", "g5.2xlarge", "g6.xlarge", "g6.2xlarge"]
  desired_size   = 0
  min_size       = 0
  max_size       = 8
  labels         = { team = "evaluation" }

  disk_size_gib              = 200
  kms_key_arn                = var.kms_key_arn
  max_unavailable_percentage = 25

  # judge-node builds the disks at every boot. Its program, which `judge-node program --out FILE` writes, comes out of the mirror.
  nvme_owner         = "judge"
  judge_node_program = var.judge_node_program

  hf_token_secret_arn    = var.hf_token_secret_arn
  create_operator_policy = true

  mirror = {
    enabled = true
    vpc_endpoint = {
      vpc_id          = var.vpc_id
      route_table_ids = var.route_table_ids
    }
  }

  appconfig = {
    enabled  = true
    settings = { model = { max_model_len = 4096 } }
  }

  alarms = {
    enabled        = true
    sns_topic_arns = var.sns_topic_arns
  }
}
