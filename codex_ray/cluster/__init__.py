"""The only folder that imports ray: sessions, hosts, the coordinator and sweeps."""
