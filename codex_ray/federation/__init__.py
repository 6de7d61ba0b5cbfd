"""The round: sample, train, sum, release, step, over one seam, with no knowledge of torch.nn or
ray.
"""
