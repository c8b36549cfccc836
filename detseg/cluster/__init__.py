"""Collections of images beyond one machine: units of work, shards of results, and Ray Data that hands them out."""
