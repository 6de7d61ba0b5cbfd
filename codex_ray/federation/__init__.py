"""The round: sample, train, sum, release, step, over one seam, knowing no torch.nn and no ray."""
