"""What computes: the model is built, trained and evaluated here."""
