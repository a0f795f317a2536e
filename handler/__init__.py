"""The Lambdas: what was pushed is trained once, and how it ended is on record."""
