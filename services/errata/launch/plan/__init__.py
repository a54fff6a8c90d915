"""`errata plan`: what a deployment needs, from configurations alone."""
