terraform {
  # 1.6 is the first version with `terraform test`, and the first of OpenTofu: no newer syntax is used.
  required_version = ">= 1.6"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.90"
    }
  }
}
