terraform {
  # No provider: the user data can be rendered, and looked at, with no account and no network.
  required_version = ">= 1.6"
}
