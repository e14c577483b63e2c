"""What HTTP means here, whoever speaks it: requests, URLs, bounds, errors, who may ask."""
