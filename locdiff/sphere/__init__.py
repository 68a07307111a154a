"""The mathematics on the sphere: the twins of `reference`, made fast, and what is read off densities on pixels."""
