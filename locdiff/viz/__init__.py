"""Pictures of predictions: maps, and the page that predict writes."""
