"""Long runs: files that survive a kill, shards, and several processes."""
