"""A year of flights out of New York through topics, groups, a queue and requests, with a worker killed half-way."""
