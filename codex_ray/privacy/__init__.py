"""Privacy mechanisms, the quantisation they release through, and the ledger of what they cost."""
