"""What an auditor sees: canaries, deterministic checks, and verdicts on what a run claims."""
