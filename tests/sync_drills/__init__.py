"""Drills of the sync: kills, faulty sources, full and failing disks, power cuts; shared by tests/faults and benchmarks."""
