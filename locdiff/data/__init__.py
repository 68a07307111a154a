"""What a model learns from: tables of places, pictures, encoders, embeddings, and the data sets that are built here."""
