"""What runs inside the model's server: the gateway that closes it, and the check that it judges as it should."""
