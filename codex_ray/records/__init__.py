"""What a run leaves behind: its directory, checkpoints, journal, TensorBoard scalars and report."""
