"""Where a run runs: presets, plan, launched processes."""
