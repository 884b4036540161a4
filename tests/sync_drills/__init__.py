"""Drills of the sync: kills, faulty sources, full and failing disks, power cuts; for tests/faults and benchmarks."""
