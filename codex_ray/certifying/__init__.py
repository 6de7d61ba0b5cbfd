"""From what a run did to what may be said of its privacy, and back: issued, and checked anew."""
