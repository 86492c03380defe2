"""Long runs: files that are complete even after a crash, resumable runs, shards, and several processes."""
