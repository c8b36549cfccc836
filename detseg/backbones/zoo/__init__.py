"""detseg's own networks, one file a family."""
