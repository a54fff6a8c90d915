"""Follows the log and applies its entries to the lanes; every process that holds lanes uses it."""
