mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "prod"
  cluster_name = "judge-prod"
  subnet_ids   = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
}

run "by_default_there_is_no_appconfig" {
  command = plan

  assert {
    condition     = length(aws_appconfig_application.this) + length(aws_appconfig_deployment.first) == 0 && output.appconfig == null
    error_message = "something of AppConfig is made without being asked for"
  }
}

run "an_empty_document_is_served_under_the_schema" {
  command = plan

  variables {
    appconfig = { enabled = true }
  }

  assert {
    condition = (
      aws_appconfig_application.this[0].name == "judge-bootstrap" && aws_appconfig_environment.this[0].name == "prod"
      && aws_appconfig_configuration_profile.this[0].name == "judge-inference" && aws_appconfig_configuration_profile.this[0].location_uri == "hosted"
    )
    error_message = "the names are not those of inventory/prod"
  }

  assert {
    condition     = one(aws_appconfig_configuration_profile.this[0].validator).type == "JSON_SCHEMA" && jsondecode(one(aws_appconfig_configuration_profile.this[0].validator).content).required == ["judge_inference"]
    error_message = "AppConfig holds the document against no schema"
  }

  assert {
    condition = (
      aws_appconfig_hosted_configuration_version.first[0].content == "{\"judge_inference\":{}}"
      && aws_appconfig_hosted_configuration_version.first[0].content_type == "application/json"
    )
    error_message = "the first version sets something: ${nonsensitive(aws_appconfig_hosted_configuration_version.first[0].content)}"
  }

  assert {
    condition = (
      aws_appconfig_deployment_strategy.at_once[0].deployment_duration_in_minutes == 0 && aws_appconfig_deployment_strategy.at_once[0].growth_factor == 100
      && aws_appconfig_deployment_strategy.at_once[0].final_bake_time_in_minutes == 0 && aws_appconfig_deployment_strategy.at_once[0].replicate_to == "NONE"
    )
    error_message = "the first version is not served at once"
  }

  assert {
    condition     = length(aws_appconfig_deployment.first) == 1
    error_message = "the first version is not deployed"
  }
}

run "settings_become_the_first_version" {
  command = plan

  variables {
    sandbox = "anna"
    appconfig = {
      enabled     = true
      application = "acme-judge"
      profile     = "settings"
      settings    = { model = { max_model_len = 4096, quantization = null, gpu_memory_utilization = 0.85 }, vllm = { tag = "v0.11.0" } }
    }
  }

  assert {
    condition = jsondecode(aws_appconfig_hosted_configuration_version.first[0].content) == {
      judge_inference = { model = { max_model_len = 4096, quantization = null, gpu_memory_utilization = 0.85 }, vllm = { tag = "v0.11.0" } }
    }
    error_message = "the document is another: ${nonsensitive(aws_appconfig_hosted_configuration_version.first[0].content)}"
  }

  assert {
    condition = (
      aws_appconfig_application.this[0].name == "acme-judge" && aws_appconfig_environment.this[0].name == "prod-anna"
      && aws_appconfig_configuration_profile.this[0].name == "settings"
    )
    error_message = "the names are not those that were given"
  }

  assert {
    condition     = aws_appconfig_environment.this[0].description == "judge-bootstrap --env prod-anna"
    error_message = "a sandbox's environment names a command that is the environment's own: ${aws_appconfig_environment.this[0].description}"
  }
}

run "an_unknown_key_is_seen_at_plan_time" {
  command = plan

  variables {
    appconfig = { enabled = true, settings = { model = { max_len = 4096 } } }
  }

  expect_failures = [aws_appconfig_hosted_configuration_version.first]
}

run "an_unknown_section_is_seen_at_plan_time" {
  command = plan

  variables {
    appconfig = { enabled = true, settings = { models = {} } }
  }

  expect_failures = [aws_appconfig_hosted_configuration_version.first]
}

run "a_section_that_is_no_object_is_seen_at_plan_time" {
  command = plan

  variables {
    appconfig = { enabled = true, settings = { model = "awq" } }
  }

  expect_failures = [aws_appconfig_hosted_configuration_version.first]
}

run "switched_off_there_is_no_appconfig" {
  command = plan

  variables {
    enabled   = false
    appconfig = { enabled = true }
  }

  assert {
    condition     = length(aws_appconfig_application.this) + length(aws_appconfig_deployment.first) + length(aws_appconfig_deployment_strategy.at_once) == 0
    error_message = "something of AppConfig is left"
  }
}

run "settings_are_an_object" {
  command = plan

  variables {
    appconfig = { settings = "model" }
  }

  expect_failures = [var.appconfig]
}

run "an_application_s_name_without_spaces" {
  command = plan

  variables {
    appconfig = { application = "judge bootstrap" }
  }

  expect_failures = [var.appconfig]
}

run "a_profile_s_name_without_slashes" {
  command = plan

  variables {
    appconfig = { profile = "judge/inference" }
  }

  expect_failures = [var.appconfig]
}

run "a_first_version_exists" {
  command = apply

  variables {
    appconfig = { enabled = true, settings = { model = { max_model_len = 4096 } } }
  }

  assert {
    condition     = aws_appconfig_deployment.first[0].configuration_version == tostring(aws_appconfig_hosted_configuration_version.first[0].version_number)
    error_message = "the version that is deployed is not the one that was made"
  }
}

run "later_versions_belong_to_people" {
  command = plan

  variables {
    appconfig = { enabled = true, settings = { model = { max_model_len = 8192 } } }
  }

  assert {
    condition     = jsondecode(aws_appconfig_hosted_configuration_version.first[0].content) == { judge_inference = { model = { max_model_len = 4096 } } }
    error_message = "a plan would take back what people deployed"
  }
}
