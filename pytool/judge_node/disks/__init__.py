"""Local disks: discover reads, plan decides (pure), apply writes."""
