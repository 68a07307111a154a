"""Evaluation: metrics, summaries of posteriors, retrieval and what combines them, the report."""
