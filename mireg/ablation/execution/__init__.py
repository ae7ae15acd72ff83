"""Execute many runs in this process, in workers or on a Ray cluster; finished runs are skipped."""
