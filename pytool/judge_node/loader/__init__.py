"""The loader: what keeps the models of a Kubernetes node there, verified, and says so on the Node, with no operator."""
