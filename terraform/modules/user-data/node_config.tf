# What a NodeConfig may say, and what is wrong with the one that was given. nodeadm ignores a key that it does not know,
# and a node whose NodeConfig it refuses never joins: both are cheaper to learn from a plan.

locals {
  # The keys and their types. Source: awslabs/amazon-eks-ami, nodeadm/doc/api.md and doc/examples.md.
  # Types by the JSON that a value of theirs becomes; YAML has the same ones.
  json_types = {
    "an object"         = "^\\{"
    "a string"          = "^\""
    "a list of strings" = "^\\[(\"([^\"\\\\]|\\\\.)*\",?)*\\]$"
    "true or false"     = "^(true|false)$"
  }
  node_config_keys = {
    "apiVersion"                                 = "a string"
    "kind"                                       = "a string"
    "metadata"                                   = "an object"
    "spec"                                       = "an object"
    "spec.containerd"                            = "an object"
    "spec.containerd.baseRuntimeSpec"            = "an object"
    "spec.containerd.config"                     = "a string"
    "spec.featureGates"                          = "an object"
    "spec.featureGates.FastImagePull"            = "true or false"
    "spec.featureGates.InstanceIdNodeName"       = "true or false"
    "spec.instance"                              = "an object"
    "spec.instance.environment"                  = "an object"
    "spec.kubelet"                               = "an object"
    "spec.kubelet.config"                        = "an object"
    "spec.kubelet.flags"                         = "a list of strings"
    "spec.kubelet.imageCredentialProviderConfig" = "a string"
    "spec.kubelet.maxPodsExpression"             = "a string"
  }
  # What is set elsewhere: given twice, one of the two would silently win.
  node_config_refused = {
    "spec.cluster"               = "EKS adds the cluster itself"
    "spec.instance.localStorage" = "nvme_owner, nvme_strategy and nvme_nodeadm_path set it"
  }

  given      = try(yamldecode(var.node_config), null)
  given_json = can(yamldecode(var.node_config)) ? jsonencode(local.given) : ""
  # Each value as JSON by the path of its key, as deep as the table goes.
  given_values = merge(
    try({ for key, value in local.given : key => jsonencode(value) if startswith(local.given_json, "{") }, {}),
    try({ for key, value in local.given.spec : "spec.${key}" => jsonencode(value) if startswith(jsonencode(local.given.spec), "{") }, {}),
    try(merge([
      for part, values in local.given.spec : { for key, value in values : "spec.${part}.${key}" => jsonencode(value) }
      if contains(keys(local.node_config_keys), "spec.${part}") && can(regex("^\\{", jsonencode(values)))
    ]...), {}),
  )

  node_config_problems = var.node_config == null ? [] : concat(
    local.given_json == "" ? ["it is no YAML (one document, and no key twice)"] : [],
    local.given_json == "" || startswith(local.given_json, "{") ? [] : ["it is ${substr(local.given_json, 0, 60)}, and must be an object with apiVersion, kind and spec"],
    !startswith(local.given_json, "{") || try(local.given.apiVersion, null) == "node.eks.aws/v1alpha1" ? [] : [
      "apiVersion is ${jsonencode(try(local.given.apiVersion, null))}, and must be \"node.eks.aws/v1alpha1\" (with the 1 at its end): nodeadm refuses any other, and the node never joins",
    ],
    !startswith(local.given_json, "{") || try(local.given.kind, null) == "NodeConfig" ? [] : [
      "kind is ${jsonencode(try(local.given.kind, null))}, and must be \"NodeConfig\"",
    ],
    [
      for path in keys(local.given_values) : "${path} must not be given: ${local.node_config_refused[path]}"
      if contains(keys(local.node_config_refused), path)
    ],
    can(local.given.spec.kubelet.config.registerWithTaints) ? ["spec.kubelet.config.registerWithTaints must not be given: taints sets it"] : [],
    anytrue([for flag in try(tolist(local.given.spec.kubelet.flags), []) : can(regex("^--?register-with-taints(=|$)", flag))]) ? [
      "spec.kubelet.flags must not have --register-with-taints, which would win over what taints sets",
    ] : [],
    [
      for path in keys(local.given_values) : format(
        "%s is no key of NodeConfig: %s has %s", path, try(regex("^(.*)\\.[^.]*$", path)[0], "it"), join(", ", [
          for known in keys(local.node_config_keys) : regex("[^.]*$", known)
          if try(regex("^(.*)\\.[^.]*$", known)[0], "") == try(regex("^(.*)\\.[^.]*$", path)[0], "")
        ])
      ) if !contains(concat(keys(local.node_config_keys), keys(local.node_config_refused)), path)
    ],
    [
      for path, value in local.given_values : "${path} is ${substr(value, 0, 60)}, and must be ${local.node_config_keys[path]}"
      if contains(keys(local.node_config_keys), path) && !contains(["apiVersion", "kind"], path) &&
      !can(regex(local.json_types[try(local.node_config_keys[path], "a string")], value))
    ],
    can(regex("^[\\x00-\\x7f]*$", yamlencode(local.node_config))) ? [] : ["it has a character that is not ASCII, which not every reader of user data understands"],
  )
}
