"""Many runs from one command: which are missing, how they are run, and what was seen across them."""
