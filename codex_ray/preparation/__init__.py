"""Records made fit to be used: checked, pseudonymised, generalised, and described on a card."""
