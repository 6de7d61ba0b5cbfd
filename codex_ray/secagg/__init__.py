"""Secure aggregation: a server learns the sum of clients' vectors and nothing else about them."""
