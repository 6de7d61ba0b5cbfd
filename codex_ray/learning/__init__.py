"""Models, local trainers and evaluation: the only folder, with assurance, that knows torch.nn."""
