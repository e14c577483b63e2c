"""The way of a batch: fleet, router, lanes and the device gate."""
