"""A model behind a guard: who may ask, how often and how much, and what they are told.

Everything here is plain objects and one ASGI application, so it runs and is tested without a
network and without Ray; `cluster.serve_app` puts it on Ray Serve.
"""
