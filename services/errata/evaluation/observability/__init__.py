"""`errata bench observability`: what metrics and traces cost."""
