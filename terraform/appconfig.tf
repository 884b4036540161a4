locals {
  appconfig_enabled     = local.enabled && var.appconfig.enabled
  appconfig_environment = local.inventory_environment

  # Ids and not names: AppConfig takes either, and two applications of an account may bear the same name.
  appconfig = !local.appconfig_enabled ? null : {
    application = aws_appconfig_application.this[0].id
    environment = aws_appconfig_environment.this[0].environment_id
    profile     = aws_appconfig_configuration_profile.this[0].configuration_profile_id
  }
  appconfig_arn = !local.appconfig_enabled ? null : join("/", [
    "arn:${data.aws_partition.current.partition}:appconfig:${local.region}:${local.account_id}:application", local.appconfig.application,
    "environment", local.appconfig.environment, "configuration", local.appconfig.profile,
  ])

  # Written by scripts/appconfig_schema.py from what judge-bootstrap itself accepts.
  appconfig_schema   = file("${path.module}/appconfig.schema.json")
  appconfig_sections = jsondecode(local.appconfig_schema).properties.judge_inference.properties
  appconfig_settings = merge({}, var.appconfig.settings)
  appconfig_unknown = flatten([
    for section, values in local.appconfig_settings : !contains(keys(local.appconfig_sections), section) ? [section] : [
      for key in try(keys(values), ["(no object)"]) : "${section}.${key}"
      if !contains(keys(local.appconfig_sections[section].properties), key)
    ]
  ])
}

resource "aws_appconfig_application" "this" {
  count = local.appconfig_enabled ? 1 : 0

  name        = var.appconfig.application
  description = "Settings of judge-bootstrap"
  tags        = local.tags
}

resource "aws_appconfig_environment" "this" {
  count = local.appconfig_enabled ? 1 : 0

  application_id = aws_appconfig_application.this[0].id
  name           = local.appconfig_environment
  description    = "judge-bootstrap --env ${local.appconfig_environment}"
  tags           = local.tags
}

resource "aws_appconfig_configuration_profile" "this" {
  count = local.appconfig_enabled ? 1 : 0

  application_id = aws_appconfig_application.this[0].id
  name           = var.appconfig.profile
  description    = "The model, and how it is stored and served"
  location_uri   = "hosted"
  tags           = local.tags

  # Held against every version, whoever writes it, as its deployment starts.
  validator {
    type    = "JSON_SCHEMA"
    content = local.appconfig_schema
  }
}

# The first version, and no other: from then on the document is changed in AppConfig, and a plan must not take that back.
resource "aws_appconfig_hosted_configuration_version" "first" {
  count = local.appconfig_enabled ? 1 : 0

  application_id           = aws_appconfig_application.this[0].id
  configuration_profile_id = aws_appconfig_configuration_profile.this[0].configuration_profile_id
  description              = "First version, from Terraform"
  content_type             = "application/json"
  content                  = jsonencode({ judge_inference = local.appconfig_settings })

  lifecycle {
    ignore_changes = [content, content_type, description]

    # AppConfig would say so only at apply; what a value may be is left to it.
    precondition {
      condition     = length(local.appconfig_unknown) == 0
      error_message = "appconfig.settings has ${join(", ", local.appconfig_unknown)}: wanted an object for each of ${join(", ", keys(local.appconfig_sections))}, with keys of docs/variables.md."
    }
  }
}

# At once: nobody can be hurt by a first version, and judge-bootstrap reads when it is run, not all the time.
resource "aws_appconfig_deployment_strategy" "at_once" {
  count = local.appconfig_enabled ? 1 : 0

  name                           = "${local.name}-at-once"
  description                    = "Everything at once, with no waiting afterwards"
  deployment_duration_in_minutes = 0
  final_bake_time_in_minutes     = 0
  growth_factor                  = 100
  growth_type                    = "LINEAR"
  replicate_to                   = "NONE"
  tags                           = local.tags
}

# Without a deployment the data plane has nothing to give. Later ones are people's, too.
resource "aws_appconfig_deployment" "first" {
  count = local.appconfig_enabled ? 1 : 0

  application_id           = aws_appconfig_application.this[0].id
  environment_id           = aws_appconfig_environment.this[0].environment_id
  configuration_profile_id = aws_appconfig_configuration_profile.this[0].configuration_profile_id
  configuration_version    = aws_appconfig_hosted_configuration_version.first[0].version_number
  deployment_strategy_id   = aws_appconfig_deployment_strategy.at_once[0].id
  description              = "First version, from Terraform"
  tags                     = local.tags

  lifecycle {
    ignore_changes = [configuration_version, deployment_strategy_id, description]
  }
}
