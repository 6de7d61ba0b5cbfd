"""Federated data sets: who holds which records, and the pooled test set that nobody trains on."""
