provider "aws" {
  region = var.region
}

module "judge_nodes" {
  source = "../.."

  environment  = var.environment
  cluster_name = var.cluster_name
  subnet_ids   = var.subnet_ids
}
