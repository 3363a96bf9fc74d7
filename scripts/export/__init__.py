"""Export: a trained model becomes a file that other programs take, checked on photos, with a card beside it."""
