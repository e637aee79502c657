"""A trained model on its way to others: export, model card, predictions on any images."""
