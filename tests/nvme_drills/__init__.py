"""Drills of `judge-node disks` on virtual machines with real NVMe devices; benchmarks/nvme_machines.py counts them."""
