"""A method that the services do not know: it brings an effect of its own."""
