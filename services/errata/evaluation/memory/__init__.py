"""`errata plan --measure`: what processes really take, beside what the plan says."""
