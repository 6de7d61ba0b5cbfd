"""Privacy mechanisms, the encoding they release through, and the ledger of what they cost."""
