"""What an edit does to the rows that it claims: prefixes, mixtures of LoRAs, experts."""
