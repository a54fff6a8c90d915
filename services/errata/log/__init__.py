"""The edit log: a totally ordered, chained, durable sequence of entries on Redis."""
