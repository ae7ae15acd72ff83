"""Many runs: what is done is skipped, the rest goes to this process, to workers or to a Ray cluster."""
