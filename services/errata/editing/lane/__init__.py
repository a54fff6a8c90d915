"""What every lane is: the contract, commits, claims, and the parts that lanes share."""
